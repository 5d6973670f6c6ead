//! What the tokenizer costs. Times are printed (`--nocapture`) and only checked against generous bounds, which tell linear
//! from quadratic.

use std::time::{Duration, Instant};

use super::*;

/// A vocabulary of Qwen2's size: 151 936 rows and 151 387 merges, which combine the bytes' characters in pairs, and those
/// pairs with further ones.
fn large_keys() -> Metadata {
    let base = golden_keys("tiny-b");
    let bytes: Vec<String> = base.need_strings("tokenizer.ggml.tokens").unwrap()[..256].to_vec();
    let (mut tokens, mut merges) = (bytes.clone(), Vec::new());
    let letters: Vec<String> = bytes.iter().filter(|b| b.chars().all(char::is_alphanumeric)).cloned().collect();
    let mut left = letters.clone();
    while merges.len() < 151_387 {
        let longer: Vec<String> = left.iter().flat_map(|a| letters.iter().map(move |b| format!("{a} {b}"))).collect();
        left = longer.iter().map(|merge| merge.replace(' ', "")).collect();
        merges.extend(longer);
        tokens.extend(left.iter().cloned());
    }
    merges.truncate(151_387);
    tokens.truncate(256 + 151_387);
    let n_merged = tokens.len();
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from));
    tokens.extend((tokens.len()..151_936).map(|id| format!("[PAD{id}]")));
    let types: Vec<i32> = (0..151_936)
        .map(|id| {
            if id < n_merged {
                1
            } else if id < n_merged + 3 {
                3
            } else {
                5
            }
        })
        .collect();
    let mut meta = Metadata::default();
    meta.set("tokenizer.ggml.model", "gpt2");
    meta.set("tokenizer.ggml.pre", "qwen2");
    meta.set("tokenizer.ggml.tokens", tokens);
    meta.set("tokenizer.ggml.token_type", types);
    meta.set("tokenizer.ggml.merges", merges);
    meta.set("tokenizer.ggml.eos_token_id", n_merged as u32 + 2);
    meta
}

#[test]
fn large_vocabulary_is_ready_soon() {
    let meta = large_keys();
    let start = Instant::now();
    let tokenizer = Tokenizer::from_metadata(&meta).unwrap();
    println!("151936 tokens, 151387 merges: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(tokenizer.n_vocab(), 151_936);
    assert_eq!(tokenizer.decode(&tokenizer.encode("some words", true).unwrap(), false), "some words");
}

#[test]
fn long_text_is_not_quadratic() {
    let tokenizer = Tokenizer::from_metadata(&golden_keys("tiny-b")).unwrap();
    let pattern = |unit: &str| unit.repeat(1_000_000 / unit.len() + 1);
    for (what, text) in [
        ("one letter", pattern("a")),
        ("letters", pattern("thequickbrownfoxjumpsoverthelazydog")),
        ("digits", pattern("1234567890")),
        ("symbols", pattern("-=+*/")),
        ("Chinese", pattern("视频里有什么符号请描述这张图片")),
        ("Thai", pattern("สวัสดีชาวโลก")),
        ("combining marks", pattern("e\u{301}\u{323}")),
        ("words", pattern("The quick brown fox jumps over the lazy dog. ")),
        ("lines", pattern("\n")[..200_000].to_string()),
        ("spaces", format!("{}a", &pattern(" ")[..250_000])),
        ("almost special", pattern("<|im_")),
        ("special", pattern("<|im_end|>")),
    ] {
        let start = Instant::now();
        let ids = tokenizer.encode(&text, true).unwrap();
        println!("{what}: {} bytes, {} tokens in {:?}", text.len(), ids.len(), start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", start.elapsed());
        if what != "combining marks" {
            assert_eq!(tokenizer.decode(&ids, false), text, "{what}"); // composed by the normalization
        }
    }
    // All spaces but the last are one word, however many there are.
    let n = 250_000;
    let ids = tokenizer.encode(&format!("{}a", " ".repeat(n)), true).unwrap();
    let parts = [tokenizer.encode(&" ".repeat(n - 1), true).unwrap(), tokenizer.encode(" a", true).unwrap()];
    assert!(ids == parts.concat());
    // Beyond what can be handled: an error, not a wrong answer.
    assert_eq!(kind(tokenizer.encode(&" ".repeat(300_000), true)), ErrorKind::Limit);
    assert_eq!(kind(tokenizer.encode(&"ж".repeat(2 << 20), true)), ErrorKind::Limit);
}

/// Long text is encoded in stretches; their borders must not show. The judge is the reference tokenizer, which takes the
/// text as a whole. The golden texts, joined in several ways, give long text of every kind.
#[test]
fn cutting_long_text_changes_nothing() {
    let judge = tokenizers::Tokenizer::from_file(tiny_b().join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_metadata(&golden_keys("tiny-b")).unwrap();
    let rows = golden_json("tokenizer/tiny-b.json");
    let texts: Vec<&str> = rows["encode"].as_array().unwrap().iter().map(|row| row["text"].as_str().unwrap()).collect();
    for separator in ["", " ", "\n", ". ", "a'S ", "9", "\u{301}", "。", "x\u{301}"] {
        let all = texts.join(separator).repeat(24);
        assert!(all.len() > 64 << 10, "long enough to be cut");
        let want = judge.encode(all.as_str(), false).unwrap();
        assert!(tokenizer.encode(&all, true).unwrap() == want.get_ids(), "{separator:?}");
    }
}

proptest::proptest! {
    /// Any text, as the reference tokenizer has it; cut or not.
    #[test]
    fn any_text_encodes_as_in_the_reference(text in r"(\PC|\s|[a-z'0-9 ]{1,8}|<\|im_end\|>|\u{301}){0,60}", times in 1usize..400) {
        thread_local! {
            static BOTH: (tokenizers::Tokenizer, Tokenizer) = (
                tokenizers::Tokenizer::from_file(tiny_b().join("tokenizer.json")).unwrap(),
                Tokenizer::from_metadata(&golden_keys("tiny-b")).unwrap(),
            );
        }
        BOTH.with(|(judge, tokenizer)| {
            let text = text.repeat(times);
            let ids = tokenizer.encode(&text, true).unwrap();
            assert_eq!(ids, judge.encode(text.as_str(), false).unwrap().get_ids());
            assert_eq!(tokenizer.decode(&ids, true), judge.decode(&ids, true).unwrap());
        });
    }
}
