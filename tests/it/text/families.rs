//! Tokenizers and templates of the newer families: every row of their goldens.

use longtake::text::message::parse_messages;

use super::*;
use crate::common::golden_families;

/// The rows of every tokenizer that has some, with the keys made from its checkpoint; where that is not part of a selection, from
/// the checkpoint of the same family that is.
fn tokenizers() -> Vec<(String, Metadata, Value)> {
    let dir = golden_families().join("tokenizer");
    let mut all: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|err| panic!("{}: {err}", dir.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            let checkpoint = golden_families().join("checkpoints").join(&name);
            let config: Value =
                serde_json::from_slice(&std::fs::read(checkpoint.join("config.json")).unwrap()).unwrap();
            let text = if config["text_config"].is_null() { &config } else { &config["text_config"] };
            let mut meta = Metadata::default();
            set_tokenizer_keys(&checkpoint, text["vocab_size"].as_u64().unwrap() as usize, &mut meta).unwrap();
            (name, meta, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for family in ["q3-", "q35-"] {
        assert!(all.iter().any(|(name, ..)| name.starts_with(family)), "no rows of {family}");
    }
    all
}

#[test]
fn rows_of_the_families_encode_and_decode() {
    for (name, meta, rows) in tokenizers() {
        let pre = if name.starts_with("q35") { "qwen35" } else { "qwen2" };
        assert_eq!(meta.str("tokenizer.ggml.pre").unwrap(), Some(pre));
        let tokenizer = Tokenizer::from_metadata(&meta).unwrap();
        let rows = rows["encode"].as_array().unwrap();
        assert!(rows.len() > 200);
        for row in rows {
            let (text, ids) = (row["text"].as_str().unwrap(), ids(&row["ids"]));
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, false), row["decoded"].as_str().unwrap(), "{name}: {ids:?}");
            // Tokens spelled like control tokens are control tokens in a file, as other converters write them, whatever a
            // checkpoint says.
            let mut spoken = row["decoded_skip_special"].as_str().unwrap().to_string();
            let spelled = |token: &&String| token.starts_with("<|") && token.ends_with("|>");
            for token in meta.need_strings("tokenizer.ggml.tokens").unwrap().iter().filter(spelled) {
                spoken = spoken.replace(token.as_str(), "");
            }
            assert_eq!(tokenizer.decode(&ids, true), spoken, "{name}: {ids:?}");
            let mut stream = StreamDecoder::new();
            let mut told: String = ids.iter().map(|id| stream.push(&tokenizer, *id)).collect();
            told.push_str(&stream.finish());
            assert_eq!(told, spoken, "{name}: {ids:?}");
        }
    }
}

/// A golden conversation in the spelling that users write: media need a source there.
fn with_sources(messages: &Value) -> String {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().unwrap() {
        for part in message["content"].as_array_mut().into_iter().flatten() {
            for (kind, file) in [("image", "a.png"), ("video", "a.mp4")] {
                if part["type"] == kind {
                    part[kind] = file.into();
                }
            }
        }
    }
    messages.to_string()
}

#[test]
fn chats_of_the_families_render_with_their_options() {
    let mut n_options = 0;
    for (name, meta, rows) in tokenizers() {
        let tokenizer = Tokenizer::from_metadata(&meta).unwrap();
        for row in rows["chat"].as_array().unwrap() {
            let mut template = ChatTemplate::from_metadata(&meta).unwrap();
            let messages = parse_messages(&with_sources(&row["messages"])).unwrap();
            let mut given = row["options"].as_object().unwrap().clone();
            let mut take = |key: &str| given.remove(key).is_some_and(|value| value == true);
            let options = RenderOptions {
                add_generation_prompt: take("add_generation_prompt"),
                add_vision_id: take("add_vision_id"),
                special: false,
                tools: &[],
            };
            n_options += given.len();
            template.set_options(&Value::from(given).to_string()).unwrap();
            let text = row["text"].as_str().unwrap();
            assert_eq!(template.render(&messages, options).unwrap(), text, "{name}: {row}");
            // The same tokens as those of the text, which holds nothing that a user made look like a control token.
            let pieces = template.tokenize(&tokenizer, &messages, options).unwrap();
            assert_eq!(joined(&tokenizer, &pieces), tokenizer.encode(text, true).unwrap(), "{name}: {text}");
        }
    }
    assert!(n_options >= 2, "no row has an option of the template");
}

#[test]
fn special_tokens_are_found_by_name() {
    for (name, meta, _) in tokenizers() {
        let tokenizer = Tokenizer::from_metadata(&meta).unwrap();
        let id = |token: &str| tokenizer.token_id(token).unwrap_or_else(|| panic!("{name}: {token}"));
        for token in ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"] {
            assert!(tokenizer.is_control(id(token)), "{name}: {token}");
        }
        assert!(tokenizer.is_stop(id("<|im_end|>")) && tokenizer.is_stop(id("<|endoftext|>")), "{name}");
        assert_eq!(meta.uint("tokenizer.ggml.eos_token_id").unwrap(), Some(u64::from(id("<|im_end|>"))), "{name}");
    }
}

#[test]
fn later_families_have_no_system_turn_of_their_own() {
    let render = |architecture: &str| {
        let mut meta = Metadata::default();
        meta.set("general.architecture", architecture);
        ChatTemplate::from_metadata(&meta).unwrap().render(&user("Hi"), RenderOptions::default()).unwrap()
    };
    for architecture in ["qwen3vl", "qwen35", "qwen3vl-hope"] {
        assert_eq!(render(architecture), "<|im_start|>user\nHi<|im_end|>\n");
    }
    assert!(render("qwen2vl-hope").starts_with("<|im_start|>system\n"));
}

#[test]
fn options_are_an_object_with_names_of_their_own() {
    let mut template = ChatTemplate::new("{{ a is none }} {{ b.c[1] }} {{ enable_thinking is defined }}").unwrap();
    template.set_options(r#"{"a": "x", "b": {"c": [1, true]}}"#).unwrap();
    assert_eq!(template.render(&user("Hi"), RenderOptions::default()).unwrap(), "False True False");
    template.set_options(r#"{"a": null, "enable_thinking": false}"#).unwrap();
    assert_eq!(template.render(&user("Hi"), RenderOptions::default()).unwrap(), "True True True");
    for json in
        ["", "[]", "1", "{", r#"{"messages": []}"#, r#"{"add_generation_prompt": false}"#, r#"{"eos_token": ""}"#]
    {
        assert_eq!(kind(template.set_options(json)), ErrorKind::BadInput, "{json}");
    }
    let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(1 << 16));
    assert_eq!(kind(template.set_options(&long)), ErrorKind::Limit);
}
