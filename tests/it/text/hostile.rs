//! Keys and templates that attack the reader.

use std::time::{Duration, Instant};

use longtake::gguf::{Array, Metadata, Value};

use super::*;

fn change(edit: impl FnOnce(&mut Metadata)) -> Result<Tokenizer, Error> {
    let mut meta = golden_keys("tiny-b");
    edit(&mut meta);
    Tokenizer::from_metadata(&meta)
}

fn strings(meta: &mut Metadata, key: &str, edit: impl FnOnce(&mut Vec<String>)) {
    let key = format!("tokenizer.ggml.{key}");
    let mut list = meta.need_strings(&key).unwrap().to_vec();
    edit(&mut list);
    meta.set(key, list);
}

#[test]
fn contradicting_keys_are_refused_by_name() {
    let check = |edit: &dyn Fn(&mut Metadata), want: &str| {
        let err = change(edit).err().unwrap_or_else(|| panic!("accepted: {want}"));
        assert!(err.to_string().contains(want), "`{err}` should say `{want}`");
    };
    let set = |meta: &mut Metadata, key: &str, value: Value| meta.set(format!("tokenizer.ggml.{key}"), value);
    check(&|m| drop(m.remove("tokenizer.ggml.tokens")), "`tokenizer.ggml.tokens` is missing");
    check(&|m| drop(m.remove("tokenizer.ggml.token_type")), "`tokenizer.ggml.token_type` is missing");
    check(&|m| drop(m.remove("tokenizer.ggml.merges")), "`tokenizer.ggml.merges` is missing");
    check(&|m| set(m, "model", "llama".into()), "`tokenizer.ggml.model` is `llama`");
    check(&|m| set(m, "pre", "bloom".into()), "`tokenizer.ggml.pre` is `bloom`, supported: qwen2, ");
    check(&|m| set(m, "pre", 7u32.into()), "`tokenizer.ggml.pre`");
    check(&|m| set(m, "add_bos_token", true.into()), "add_bos_token");
    check(&|m| set(m, "tokens", Value::Array(Array::I32(vec![1]))), "expected an array of strings");
    check(&|m| strings(m, "tokens", Vec::clear), "has `1314` entries for 0 tokens");
    check(
        &|m| {
            strings(m, "tokens", Vec::clear);
            set(m, "token_type", Vec::<i32>::new().into())
        },
        "`tokenizer.ggml.tokens` is empty",
    );
    check(&|m| set(m, "token_type", vec![1i32; 1313].into()), "has `1313` entries for 1314 tokens");
    check(&|m| set(m, "token_type", vec![1i32; 1315].into()), "has `1315` entries for 1314 tokens");
    check(&|m| set(m, "token_type", vec![6i32; 1314].into()), "token `0` has type `6`");
    check(&|m| set(m, "token_type", vec![-1i32; 1314].into()), "token `0` has type `-1`");
    check(&|m| strings(m, "tokens", |t| t[700] = t[699].clone()), "tokens `699` and `700` are both");
    check(&|m| strings(m, "tokens", |t| t[700].clear()), "token `700` is empty");
    check(&|m| strings(m, "tokens", |t| t[0] = "xyzzy".to_string()), "no token for the byte `0x21`");
    for (merge, want) in [
        ("a", "merge `1` is \"a\", expected two pieces"),
        ("a b c", "expected two pieces"),
        (" b", "expected two pieces"),
        ("a ", "expected two pieces"),
        ("", "expected two pieces"),
        ("xyzzy a", "names \"xyzzy\""),
        ("a xyzzy", "names \"xyzzy\""),
        ("<|im_end|> <|im_end|>", "names \"<|im_end|><|im_end|>\""), // longer than any token
    ] {
        check(&|m| strings(m, "merges", |list| list[1] = merge.to_string()), want);
    }
    for key in
        ["bos_token_id", "eos_token_id", "eot_token_id", "padding_token_id", "seperator_token_id", "new_token_id"]
    {
        check(&|m| set(m, key, 1314u32.into()), &format!("`tokenizer.ggml.{key}` is `1314`"));
        check(&|m| set(m, key, (-1i32).into()), &format!("key `tokenizer.ggml.{key}`"));
        check(&|m| set(m, key, u64::MAX.into()), &format!("`tokenizer.ggml.{key}` is `18446744073709551615`"));
    }
    let tokenizer = change(|m| set(m, "eot_token_id", 5u32.into())).unwrap();
    assert!(tokenizer.is_stop(5) && tokenizer.is_stop(1302) && tokenizer.is_stop(1300) && !tokenizer.is_stop(1301));
}

/// The most memory this process ever held, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[test]
fn template_bombs_end_in_errors() {
    let loops = |body: &str| format!("{{% for i in range(99999) %}}{body}{{% endfor %}}");
    let bombs = [
        "{% for i in range(1000000000) %}x{% endfor %}".to_string(),
        loops(&loops(&loops(""))),
        loops(&loops("x")),
        "{{ range(1000000000) | list | length }}".to_string(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_string(),
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}".to_string(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_string(),
        "{{ 'a' * 1000000000 }}".to_string(),
        "{{ 'a' * 99999999 }}".to_string(),
        "{% set n = namespace(x='a') %}".to_string() + &loops("{% set n.x = n.x ~ n.x %}"),
        "{% set n = namespace(x='a') %}".to_string() + &loops("{% set n.x = n.x + n.x %}"),
        "{% set n = namespace(x=[1]) %}".to_string() + &loops("{% set n.x = n.x + [1] %}"),
        "{% set n = namespace(x=[1]) %}".to_string() + &loops("{% set n.x = [n.x] %}"),
        "{% set n = namespace(x=[1]) %}".to_string() + &loops("{% set n.x = {'a': n.x} %}"),
        "{% set n = namespace() %}{% set n.x = n %}{{ n }}".to_string(),
        "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) | length }}".to_string(),
        "{% set x = 'a' * 1000000 %}{{ x.replace('', x) | length }}".to_string(),
        "{% set x = 'a' * 1000000 %}{{ (x | replace('a', x)) | length }}".to_string(),
        "{% set x = 'a' * 1000000 %}{{ x.join(range(99999)) }}".to_string(),
        "{% set x = 'a' * 1000000 %}{{ x.join(x) }}".to_string(),
        "{% set x = 'a' * 1000000 %}{{ range(99999) | join(x) }}".to_string(),
        "{% set x = 'a' * 5000000 %}".to_string() + &loops("{{ x.split('a') }}"),
        "{% set x = 'a' * 5000000 %}".to_string() + &loops("{{ x.count('b') }}"),
        "{% set x = 'a' * 5000000 %}".to_string() + &loops("{{ x | upper }}"),
        "{{ '{:1000000000}'.format(1) }}".to_string(),
        "{{ '%1000000000d' | format(1) }}".to_string(),
        "{{ [1] | tojson(indent=1000000000) }}".to_string(),
        "{{ 'a\nb' | indent(1000000000) }}".to_string(),
        "{{ [1] | batch(1000000000, 'x') | list }}".to_string(),
        "{{ [1] * 1000000000 }}".to_string(),
        "{{ ([1] * 99999999) | list | length }}".to_string(),
        "{{ ([1] * 99999999) | tojson }}".to_string(),
        "{{ 10 ** 1000000000 }}".to_string(),
        format!("{{{{ {}1{} }}}}", "(".repeat(30_000), ")".repeat(30_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(30_000), "]".repeat(30_000)),
        format!("{}{}", "{% if a %}".repeat(3000), "{% endif %}".repeat(3000)),
        format!("{{{{ {}{} }}}}", "x", ".y".repeat(30_000)),
        "x".repeat(65 << 10),
        "{{ messages.__class__.__mro__ }}".to_string(),
        "{{ debug() }}".to_string(),
        "{{ messages | pprint }}".to_string(),
    ];
    let (before, mut slowest) = (peak_memory(), (Duration::ZERO, ""));
    for bomb in &bombs {
        let start = Instant::now();
        let result = ChatTemplate::new(bomb).and_then(|t| t.render(&user("hello"), RenderOptions::default()));
        let shown = &bomb[..bomb.len().min(80)];
        let err = result.err().unwrap_or_else(|| panic!("rendered: {shown}"));
        assert!(matches!(err.kind(), ErrorKind::Limit | ErrorKind::Format), "{shown}: {err}");
        slowest = slowest.max((start.elapsed(), shown));
        assert!(start.elapsed() < Duration::from_secs(10), "{shown}: {:?}", start.elapsed());
    }
    println!("slowest: {slowest:?}");
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        println!("memory: {} MiB more", (after - before) >> 20);
        assert!(after - before < 512 << 20, "{} MiB", (after - before) >> 20);
    }
}

/// Long chains nest as deeply as source can: they need stack, and get it.
#[test]
fn deep_templates_do_not_overflow_the_stack() {
    for source in [
        format!("{{% if a == 3 %}}{}{{% endif %}}", "{% elif a == 2 %}".repeat(3600)),
        format!("{{{{ a{} }}}}", "[0]".repeat(20_000)),
        format!("{{{{ 'a'{} }}}}", "|string".repeat(9000)),
        format!("{{{{ 1{} }}}}", " if a else 1".repeat(5000)),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(30_000), ")".repeat(30_000)),
        format!("{{{{ {}true }}}}", "not ".repeat(2000)),
        format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(2000)),
    ] {
        // Rendered or refused, but the process lives.
        let _ = ChatTemplate::new(&source).and_then(|t| t.render(&user("hello"), RenderOptions::default()));
    }
}

#[test]
fn long_conversations_fit_into_the_fuel() {
    let template = ChatTemplate::from_metadata(&golden_keys("tiny-b")).unwrap();
    let talk: Vec<Message> = (0..4096).flat_map(|i| user(&format!("message {i}"))).collect();
    assert!(template.render(&talk, RenderOptions::default()).unwrap().ends_with("message 4095<|im_end|>\n"));
    let parts: Vec<Part> = (0..4096).map(|_| Part::Image { source: "a".into(), options: Default::default() }).collect();
    let talk = [Message::new("user", Content::Parts(parts))];
    let options = RenderOptions { add_vision_id: true, ..Default::default() };
    assert!(template.render(&talk, options).unwrap().contains("Picture 4096: "));
    let text = "a".repeat(4 << 20);
    assert!(template.render(&user(&text), RenderOptions::default()).unwrap().len() > text.len());
    assert_eq!(kind(template.render(&user(&(text + "a")), RenderOptions::default())), ErrorKind::Limit);
}
