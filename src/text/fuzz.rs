//! Words from bytes, for `crate::fuzzing`: conversations, templates, vocabularies, text.

use std::sync::LazyLock;

use super::message::{parse_messages, to_json};
use super::{ChatTemplate, Content, Message, Part, RenderOptions, StreamDecoder, Tokenizer};
use crate::fuzzing;
use crate::gguf::{Metadata, parse::parse};

/// A conversation, and that it reads again as it was written.
pub(crate) fn messages(input: &[u8]) {
    let Ok(json) = std::str::from_utf8(input) else { return };
    let Ok(messages) = parse_messages(json) else { return };
    assert!(!messages.is_empty());
    let again = parse_messages(&to_json(&messages)).expect("what was written can be read");
    assert_eq!(again, messages);
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let rows = [
        r#"[{"role":"user","content":"a"}]"#,
        r#"[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"\u00e9\ud83d\ude00"}]}]"#,
        r#"[{"role":"user","content":[{"type":"image","image":"i.png","max_pixels":3136,"min_pixels":1.5e3}]}]"#,
        r#"[{"role":"user","content":[{"fps":2.0,"type":"video","video":"v.mp4","nframes":8}]}]"#,
        r#"[{"role":"user","content":[{"type":"video","video":["1.png","2.png"],"x":[null,true,{"a":[]}]}]}]"#,
        r#"[{"role":"user","content":[{"image":"file:///i.png"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}]"#,
    ];
    rows.map(|row| row.as_bytes().to_vec()).into()
}

/// A template that is no part of the file under test, rendered over a conversation with everything in it.
pub(crate) fn template(input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else { return };
    let Ok(template) = ChatTemplate::new(source) else { return };
    let options = RenderOptions { add_generation_prompt: true, add_vision_id: true, special: false, tools: &[] };
    if let Ok(text) = template.render(&CONVERSATION, options) {
        assert!(text.len() <= super::sandbox::MAX_OUTPUT_BYTES);
    }
}

static CONVERSATION: LazyLock<Vec<Message>> = LazyLock::new(|| {
    let turn = |role: &str, content| Message::new(role, content);
    let text = |text: &str| Part::Text(text.to_string());
    let image = Part::Image { source: "i.png".to_string().into(), options: Default::default() };
    vec![
        turn("system", Content::Text("Be brief.".to_string())),
        turn("user", Content::Parts(vec![text("<|im_end|>a"), image, text("")])),
        turn("assistant", Content::Text(" yes\n".to_string())),
    ]
});

pub(crate) fn template_seeds() -> Vec<Vec<u8>> {
    let json = fuzzing::file("checkpoints/tiny-b/chat_template.json");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("golden data is JSON");
    let golden = json["chat_template"].as_str().expect("it holds a template").as_bytes().to_vec();
    let rows = [
        "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] | string }}{% endfor %}",
        "{% set ns = namespace(a=0) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ messages[0].content.upper().split(' ') | join('-') }}",
        "{% macro f(x) %}{{ x[1:] | trim | tojson(indent=2) }}{% endmacro %}{{ f(messages[0].content) }}",
        "{% if tools is defined and not tools %}{{ raise_exception('no') }}{% endif %}{{ messages | selectattr('role', 'eq', 'user') | list | length }}",
    ];
    std::iter::once(golden).chain(rows.map(|row| row.as_bytes().to_vec())).collect()
}

/// The vocabulary of a GGUF file, and some text through it.
pub(crate) fn vocabulary(input: &[u8]) {
    let Ok(tables) = parse(input) else { return };
    let Ok(tokenizer) = Tokenizer::from_metadata(&tables.meta) else { return };
    let n = tokenizer.n_vocab() as u32;
    assert!(n >= 256);
    for parse_special in [false, true] {
        let ids = tokenizer.encode("Hello,  <|im_end|>\n\té世 12", parse_special).expect("short text");
        assert!(ids.iter().all(|id| *id < n));
        let _ = tokenizer.decode(&ids, parse_special);
    }
    assert!(tokenizer.token_bytes(n).is_empty() && tokenizer.token_bytes(u32::MAX).is_empty());
}

pub(crate) fn vocabulary_seeds() -> Vec<Vec<u8>> {
    let writer = crate::gguf::GgufWriter::new(small_vocabulary());
    vec![writer.front().expect("a seed that makes sense")]
}

/// All bytes, some merges, and a token of every type.
fn small_vocabulary() -> Metadata {
    use super::tokenizer::token_type;
    let mut tokens: Vec<String> = (0..=255u8).map(|b| super::bytes::char_of(b).to_string()).collect();
    let mut types = vec![token_type::NORMAL; tokens.len()];
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "a"), ("Ã", "©")];
    tokens.extend(merges.map(|(a, b)| format!("{a}{b}")));
    types.resize(tokens.len(), token_type::NORMAL);
    for (token, kind) in [
        ("<|endoftext|>", token_type::CONTROL),
        ("<|im_start|>", token_type::CONTROL),
        ("<|im_end|>", token_type::CONTROL),
        ("<|image_pad|>", token_type::CONTROL),
        ("<tool>", token_type::USER_DEFINED),
        ("[PAD]", token_type::UNUSED),
    ] {
        tokens.push(token.to_string());
        types.push(kind);
    }
    let mut meta = Metadata::default();
    meta.set("tokenizer.ggml.model", "gpt2");
    meta.set("tokenizer.ggml.pre", "qwen2");
    meta.set("tokenizer.ggml.eos_token_id", 264u32);
    meta.set("tokenizer.ggml.merges", merges.map(|(a, b)| format!("{a} {b}")).to_vec());
    meta.set("tokenizer.ggml.token_type", types);
    meta.set("tokenizer.ggml.tokens", tokens);
    meta
}

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_metadata(&small_vocabulary()).expect("a vocabulary that makes sense"));

/// Text to ids and back, whole and in pieces.
pub(crate) fn encode(input: &[u8]) {
    let Some((special, input)) = fuzzing::choice(input) else { return };
    let (text, special) = (String::from_utf8_lossy(input), special % 2 == 1);
    let Ok(ids) = TOKENIZER.encode(&text, special) else { return };
    assert!(ids.len() <= 4 * text.len() + 4, "more ids than bytes, even decomposed");
    let whole = TOKENIZER.decode(&ids, false);
    if text.is_ascii() {
        // Other text comes back in its normal form.
        assert_eq!(whole, text);
    }
    let mut stream = StreamDecoder::with_special();
    let mut pieces: String = ids.iter().map(|id| stream.push(&TOKENIZER, *id)).collect();
    pieces += &stream.finish();
    assert_eq!(pieces, whole);
    // Any ids have a text, too.
    let ids: Vec<u32> = input.as_chunks::<2>().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)) % 300).collect();
    let mut stream = StreamDecoder::new();
    let mut pieces: String = ids.iter().map(|id| stream.push(&TOKENIZER, *id)).collect();
    pieces += &stream.finish();
    assert_eq!(pieces, TOKENIZER.decode(&ids, true));
}

pub(crate) fn encode_seeds() -> Vec<Vec<u8>> {
    let rows = [
        "\0hello hell é世界 12 'S\n\n \t x",
        "\u{1}<|im_start|>a<|im_end|><tool> <|im_",
        "\0ｅ\u{301}\u{1100}\u{1161}\u{fb01}\u{fdd0}",
    ];
    rows.map(|row| row.as_bytes().to_vec()).into()
}
