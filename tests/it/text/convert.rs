//! Tokenizer keys from checkpoint folders.

use std::fs;

use longtake::gguf::Value as Key;
use serde_json::json;

use super::*;

/// Copies the golden folder's small files, lets `edit` change `tokenizer.json`, and converts.
fn convert(n_vocab: usize, edit: impl FnOnce(&mut Value, &Path)) -> Result<Metadata, Error> {
    let dir = tempfile::tempdir().unwrap();
    for file in
        ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "chat_template.json"]
    {
        fs::copy(tiny_b().join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut tokenizer, dir.path());
    if tokenizer.is_object() {
        fs::write(&path, tokenizer.to_string()).unwrap();
    }
    let mut meta = Metadata::default();
    set_tokenizer_keys(dir.path(), n_vocab, &mut meta).map(|()| meta)
}

fn edit_json(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn keys_are_llama_cpp_s() {
    let meta = convert(1320, |_, _| {}).unwrap();
    let keys: Vec<_> = meta.iter().map(|(key, _)| key.strip_prefix("tokenizer.").unwrap()).collect();
    let want = "ggml.model ggml.pre ggml.tokens ggml.token_type ggml.merges ggml.eos_token_id ggml.padding_token_id \
        ggml.bos_token_id ggml.add_bos_token chat_template";
    assert_eq!(keys.join(" "), want);
    assert_eq!(meta.get("tokenizer.ggml.eos_token_id"), Some(&Key::U32(1302)));
    assert_eq!(meta.get("tokenizer.ggml.padding_token_id"), Some(&Key::U32(1300)));
    assert_eq!(meta.get("tokenizer.ggml.bos_token_id"), Some(&Key::U32(1300)));
    assert_eq!(meta.get("tokenizer.ggml.add_bos_token"), Some(&Key::Bool(false)));
    let tokens = meta.need_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[1302].as_str(), tokens[1314].as_str()), (1320, "<|im_end|>", "[PAD1314]"));
    let Some(Key::Array(longtake::gguf::Array::I32(types))) = meta.get("tokenizer.ggml.token_type") else { panic!() };
    assert_eq!([types[0], types[1299], types[1300], types[1313], types[1314], types[1319]], [1, 1, 3, 3, 5, 5]);
    assert_eq!(meta.need_strings("tokenizer.ggml.merges").unwrap()[0], "Ġ Ġ");
}

/// The golden GGUF file was written by another converter from the same files.
#[test]
fn keys_equal_those_of_the_golden_gguf_file() {
    let file = Gguf::open(&golden().join("gguf_models/tiny-c.gguf")).unwrap();
    if !golden().join("checkpoints/tiny-c").exists() {
        eprintln!("the committed selection has no checkpoints/tiny-c: its keys are not compared with tiny-c.gguf");
        return;
    }
    let meta = checkpoint_keys("tiny-c", 1024);
    let theirs: Vec<_> = file.meta().iter().filter(|(key, _)| key.starts_with("tokenizer.")).collect();
    assert_eq!(meta.iter().collect::<Vec<_>>(), theirs);
}

#[test]
fn both_spellings_of_merges_give_the_same_keys() {
    let pairs = |tokenizer: &mut Value, _: &Path| {
        for merge in tokenizer["model"]["merges"].as_array_mut().unwrap() {
            let (a, b) = merge.as_str().unwrap().split_once(' ').unwrap();
            *merge = json!([a, b]);
        }
    };
    assert_eq!(convert(1314, pairs).unwrap(), convert(1314, |_, _| {}).unwrap());
}

#[test]
fn added_tokens_keep_their_kind() {
    let meta = convert(1317, |t, _| {
        let added = t["added_tokens"].as_array_mut().unwrap();
        added.push(json!({"id": 1314, "content": "<tool_call>", "special": false}));
        added.push(json!({"id": 1315, "content": "<|fim_pad|>", "special": false}));
        added.push(json!({"id": 0, "content": "!", "special": false}));
    });
    let types = meta.unwrap().ints("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!([types[0], types[1313], types[1314], types[1315], types[1316]], [4, 3, 4, 3, 5]);
}

#[test]
fn special_ids_and_templates_come_from_where_they_are() {
    let remove = |file: &'static str, keys: &'static [&'static str]| {
        move |dir: &Path| {
            edit_json(dir, file, |config| {
                keys.iter().for_each(|k| drop(config.as_object_mut().unwrap().shift_remove(*k)))
            });
        }
    };
    let no_names = remove("tokenizer_config.json", &["eos_token", "pad_token", "chat_template"]);
    let no_ids = remove("config.json", &["eos_token_id", "bos_token_id"]);
    let meta = convert(1314, |_, dir| {
        no_names(dir);
        no_ids(dir);
        edit_json(dir, "chat_template.json", |config| config["chat_template"] = json!("from json"));
    })
    .unwrap();
    // generation_config.json: the end token is the first of its list.
    assert_eq!(meta.uint("tokenizer.ggml.eos_token_id").unwrap(), Some(1302));
    assert_eq!(meta.uint("tokenizer.ggml.padding_token_id").unwrap(), Some(1300));
    assert_eq!(meta.need_str("tokenizer.chat_template").unwrap(), "from json");
    let meta = convert(1314, |_, dir| {
        no_names(dir);
        no_ids(dir);
        fs::remove_file(dir.join("generation_config.json")).unwrap();
        fs::remove_file(dir.join("chat_template.json")).unwrap();
        fs::write(dir.join("chat_template.jinja"), "from jinja").unwrap();
    })
    .unwrap();
    assert_eq!(meta.uint("tokenizer.ggml.eos_token_id").unwrap(), Some(1302), "known by its spelling");
    assert_eq!(meta.uint("tokenizer.ggml.bos_token_id").unwrap(), None);
    assert_eq!(meta.need_str("tokenizer.chat_template").unwrap(), "from jinja");
    let meta = convert(1314, |_, dir| {
        let list = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]);
        edit_json(dir, "tokenizer_config.json", |config| config["chat_template"] = list);
    })
    .unwrap();
    assert_eq!(meta.need_str("tokenizer.chat_template").unwrap(), "a");
    assert_eq!(meta.need_str("tokenizer.chat_template.tool_use").unwrap(), "b");
    assert_eq!(meta.need_strings("tokenizer.chat_templates").unwrap(), ["tool_use"]);
}

#[test]
fn other_tokenizers_and_broken_files_are_refused() {
    type Edit = fn(&mut Value, &Path);
    let rows: &[(Edit, &str)] = &[
        (|t, _| t["model"]["type"] = json!("Unigram"), "tokenizer.json: `model.type` is `Unigram`"),
        (|t, _| t["model"] = json!({"type": "WordPiece", "vocab": {"a": 0}}), "`model.type` is `WordPiece`"),
        (|t, _| t["model"] = json!({"vocab": []}), "`model.type` is `none`"),
        (|t, _| t["model"]["byte_fallback"] = json!(true), "`model.byte_fallback` is set"),
        (|t, _| t["model"]["ignore_merges"] = json!(true), "`model.ignore_merges` is set"),
        (|t, _| t["model"]["unk_token"] = json!("<unk>"), "`model.unk_token` is set"),
        (|t, _| t["model"]["dropout"] = json!(0.1), "`model.dropout` is set"),
        (|t, _| t["model"]["vocab"] = json!([["a", 0]]), "expected a map of tokens to ids"),
        (|t, _| t["model"]["vocab"]["!"] = json!(-1), "malformed JSON"),
        (|t, _| t["model"]["vocab"]["!"] = json!(u64::MAX), "the id `18446744073709551615`"),
        (|t, _| t["model"]["vocab"]["!"] = json!(1314), "has the id `1314`, expected one below 1314"),
        (|t, _| t["model"]["vocab"]["!"] = json!(1), "both have the id `1`"),
        (|t, _| drop(t["model"]["vocab"].as_object_mut().unwrap().shift_remove("!")), "no token has the id `0`"),
        (|t, _| t["model"]["merges"][3] = json!(["a"]), "a merge of other than two pieces"),
        (|t, _| t["model"]["merges"][3] = json!(["a", "b", "c"]), "a merge of other than two pieces"),
        (|t, _| t["model"]["merges"][3] = json!(7), "expected a merge"),
        (
            |t, _| t["model"]["merges"][3] = json!("xyzzy a"),
            "tokenizer.json: key `tokenizer.ggml.merges`: merge `3` names",
        ),
        (|t, _| t["normalizer"] = json!(null), "`normalizer` is not Qwen2's"),
        (|t, _| t["normalizer"]["type"] = json!("NFKC"), "`normalizer` is not Qwen2's"),
        (|t, _| t["pre_tokenizer"] = json!({"type": "ByteLevel", "use_regex": true}), "`pre_tokenizer` is not Qwen2's"),
        (
            |t, _| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("a"),
            "`pre_tokenizer` is not Qwen2's",
        ),
        (|t, _| t["post_processor"] = json!({"type": "TemplateProcessing"}), "`post_processor` is not Qwen2's"),
        (|t, _| t["decoder"] = json!({"type": "Metaspace"}), "`decoder` is not Qwen2's"),
        (|t, _| t["added_tokens"][0]["lstrip"] = json!(true), "matches in a way that GGUF cannot say"),
        (|t, _| t["added_tokens"][0]["id"] = json!(0), "both have the id `0`"),
        (|t, _| t["added_tokens"][0]["id"] = json!(99999), "has the id `99999`"),
        (|t, _| t["added_tokens"][1]["content"] = json!("<|im_end|>"), "are both \"<|im_end|>\""),
        (|t, _| *t = json!({}), "tokenizer.json: malformed JSON: missing field `model`"),
        (|_, d| edit_json(d, "tokenizer_config.json", |c| c["eos_token"] = json!("xyzzy")), "`eos_token` is `xyzzy`"),
        (
            |_, d| edit_json(d, "config.json", |c| c["bos_token_id"] = json!(1314)),
            "config.json: `bos_token_id` is `1314`",
        ),
        (|_, d| edit_json(d, "config.json", |c| c["bos_token_id"] = json!("a")), "`bos_token_id` is `\"a\"`"),
        (
            |_, d| edit_json(d, "tokenizer_config.json", |c| c["chat_template"] = json!("{% if")),
            "tokenizer_config.json: key `tokenizer.chat_template`",
        ),
        (|_, d| edit_json(d, "tokenizer_config.json", |c| c["chat_template"] = json!(7)), "`chat_template` is neither"),
        (|_, d| fs::write(d.join("config.json"), "[]").unwrap(), "config.json: malformed JSON"),
        (|_, d| fs::write(d.join("generation_config.json"), "{").unwrap(), "generation_config.json: malformed JSON"),
        (|_, d| fs::write(d.join("generation_config.json"), b"\xff").unwrap(), "generation_config.json: not UTF-8"),
        (
            |t, d| {
                *t = Value::Null;
                fs::remove_file(d.join("tokenizer.json")).unwrap()
            },
            "tokenizer.json: the file is missing",
        ),
        (
            |t, d| {
                *t = Value::Null;
                fs::write(d.join("tokenizer.json"), "[".repeat(100_000)).unwrap()
            },
            "malformed JSON",
        ),
        (
            |t, d| {
                *t = Value::Null;
                fs::write(
                    d.join("tokenizer.json"),
                    r#"{"model": {"type": "BPE", "merges": [], "vocab": {"a": 0, "a": 1}}}"#,
                )
                .unwrap()
            },
            "the token \"a\" is given twice",
        ),
    ];
    for (edit, want) in rows {
        let err = convert(1314, edit).err().unwrap_or_else(|| panic!("accepted: {want}"));
        assert!(err.to_string().contains(want), "`{err}` should say `{want}`");
    }
    for n_vocab in [0, 1313] {
        assert_eq!(kind(convert(n_vocab, |_, _| {})), ErrorKind::Format);
    }
    assert_eq!(kind(convert(usize::MAX, |_, _| {})), ErrorKind::Limit);
}
