//! A checkpoint folder's tokenizer and chat template as GGUF keys.
//!
//! Keys, values and their order are those of llama.cpp's converter for Qwen2-VL, so that both programs load the result.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::Context;
use crate::files::input::decode_text;
use crate::gguf::Metadata;
use crate::text::tokenizer::{MAX_VOCAB, token_type};
use crate::text::{ChatTemplate, Tokenizer};
use crate::text::{QWEN2_SPLIT, QWEN35_SPLIT};
use crate::{Error, Result};

/// Longest `tokenizer.json`; Qwen2-VL's has 7 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Longest of the other files.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Reads `tokenizer.json` (merges as pairs or as strings), `tokenizer_config.json`, `generation_config.json` and the chat
/// template from `dir` and sets `tokenizer.*` keys, padding the vocabulary to `n_vocab` rows with unused tokens.
///
/// # Errors
/// `Unsupported` for any tokenizer that is not Qwen2's byte-level BPE; `Format` for malformed files, ids that are out of
/// range, given twice or left out; `Io` for missing files; each names the file. What was set is checked by building the
/// tokenizer and the template from it, as a reader of the file will; after an error `meta` may hold some of the keys.
pub fn set_tokenizer_keys(dir: &Path, n_vocab: usize, meta: &mut Metadata) -> Result<()> {
    const FILE: &str = "tokenizer.json";
    if n_vocab > MAX_VOCAB {
        return Err(Error::limit(format!("a vocabulary of `{n_vocab}` rows, at most {MAX_VOCAB}")).at("config.json"));
    }
    let text = read(dir, FILE, MAX_TOKENIZER_BYTES)?
        .ok_or_else(|| Error::new(crate::ErrorKind::Io, "the file is missing").at(place(dir, FILE)))?;
    let (tokenizer, pre) = parse_tokenizer(&text).at(|| place(dir, FILE))?;
    let vocab = Vocabulary::new(&tokenizer, n_vocab).at(|| place(dir, FILE))?;
    let configs = Configs::read(dir)?;

    meta.set("tokenizer.ggml.model", "gpt2");
    meta.set("tokenizer.ggml.pre", pre);
    let ids = special_ids(dir, &configs, &vocab)?;
    meta.set("tokenizer.ggml.tokens", vocab.tokens);
    meta.set("tokenizer.ggml.token_type", vocab.types);
    meta.set("tokenizer.ggml.merges", tokenizer.model.merges.into_iter().map(|m| m.0).collect::<Vec<_>>());
    for (name, id) in ids {
        meta.set(format!("tokenizer.ggml.{name}_token_id"), id);
    }
    meta.set("tokenizer.ggml.add_bos_token", false);
    set_template(dir, &configs, meta)?;
    Tokenizer::from_metadata(meta).map(|_| ()).at(|| place(dir, FILE))
}

/// `tokenizer.json`, as far as it matters.
#[derive(Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Bpe,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: Entries,
    merges: Vec<Merge>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// The kind of model, read before the rest of the file, which another kind spells differently.
#[derive(Deserialize)]
struct Outline {
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
    merges: Option<IgnoredAny>,
}

/// The vocabulary in file order; a token that is given twice is an error.
struct Entries(Vec<(String, u64)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some((token, id)) = map.next_entry::<String, u64>()? {
                    if !seen.insert(token.clone()) {
                        return Err(A::Error::custom(format_args!("the token {token:?} is given twice")));
                    }
                    entries.push((token, id));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// A merge as GGUF has it: both pieces with a space between.
struct Merge(String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merge, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, `\"a b\"` or `[\"a\", \"b\"]`")
            }

            fn visit_str<E>(self, line: &str) -> Result<Merge, E> {
                Ok(Merge(line.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Merge, A::Error> {
                let mut next = || pair.next_element::<String>();
                let (Some(a), Some(b), None) = (next()?, next()?, next()?) else {
                    return Err(A::Error::custom("a merge of other than two pieces"));
                };
                // A space inside a piece is written as the character that stands for it.
                Ok(Merge(format!("{} {}", a.replace(' ', "Ġ"), b.replace(' ', "Ġ"))))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The file, and what `tokenizer.ggml.pre` calls its way of cutting text into words.
pub(super) fn parse_tokenizer(text: &str) -> Result<(TokenizerFile, &'static str)> {
    let outline: Outline = parse(text)?;
    match outline.model.kind.as_deref() {
        Some("BPE") => {}
        None if outline.model.merges.is_some() => {} // older files leave the type out
        other => {
            let other = short(other.unwrap_or("none"));
            return Err(Error::unsupported(format!("`model.type` is `{other}`, expected `BPE`")));
        }
    }
    let file: TokenizerFile = parse(text)?;
    let model = &file.model;
    let absent = |s: &Option<String>| s.as_ref().is_none_or(String::is_empty);
    for (name, good) in [
        ("byte_fallback", !model.byte_fallback),
        ("ignore_merges", !model.ignore_merges),
        ("dropout", model.dropout.is_none_or(|p| p == 0.0)),
        ("unk_token", absent(&model.unk_token)),
        ("continuing_subword_prefix", absent(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", absent(&model.end_of_word_suffix)),
    ] {
        if !good {
            return Err(Error::unsupported(format!("`model.{name}` is set, which Qwen2 tokenizers do not do")));
        }
    }
    let pre = check_pipeline(&file)?;
    Ok((file, pre))
}

/// The name of the rule by which the text is cut; refuses any processing around the model but Qwen's.
fn check_pipeline(file: &TokenizerFile) -> Result<&'static str> {
    const SPLITS: [(&str, &str); 2] = [(QWEN2_SPLIT, "qwen2"), (QWEN35_SPLIT, "qwen35")];
    let name_of = |regex: &Value| SPLITS.iter().find(|(split, _)| regex == split).map(|(_, name)| *name);
    let wrong = |step: &str, expected: &str| {
        Err::<&'static str, Error>(Error::unsupported(format!("`{step}` is not Qwen2's, expected {expected}")))
    };
    let steps = |value: &Option<Value>, list: &str| match value {
        None => Vec::new(),
        Some(v) if v["type"] == "Sequence" => v[list].as_array().cloned().unwrap_or_default(),
        Some(v) => vec![v.clone()],
    };
    match &steps(&file.normalizer, "normalizers")[..] {
        [nfc] if nfc["type"] == "NFC" => {}
        _ => return wrong("normalizer", "NFC"),
    }
    let pre = match &steps(&file.pre_tokenizer, "pretokenizers")[..] {
        [split, bytes]
            if split["type"] == "Split"
                && name_of(&split["pattern"]["Regex"]).is_some()
                && split["behavior"] == "Isolated"
                && split["invert"] != true
                && bytes["type"] == "ByteLevel"
                && bytes["add_prefix_space"] != true
                && bytes["use_regex"] == false =>
        {
            name_of(&split["pattern"]["Regex"])
        }
        _ => None,
    };
    let Some(pre) = pre else { return wrong("pre_tokenizer", "its Split (or Qwen3.5's) and ByteLevel") };
    match &steps(&file.post_processor, "processors")[..] {
        [] => {}
        [bytes] if bytes["type"] == "ByteLevel" => {}
        _ => return wrong("post_processor", "ByteLevel"),
    }
    match &steps(&file.decoder, "decoders")[..] {
        [bytes] if bytes["type"] == "ByteLevel" => Ok(pre),
        _ => wrong("decoder", "ByteLevel"),
    }
}

/// The rows of the vocabulary.
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    pub types: Vec<i32>,
}

impl Vocabulary {
    pub(super) fn new(file: &TokenizerFile, n_vocab: usize) -> Result<Vocabulary> {
        let mut rows: Vec<Option<(&str, i32)>> = vec![None; n_vocab];
        let mut put = |id: u64, token, kind| {
            let n = rows.len();
            let Some(row) = usize::try_from(id).ok().and_then(|id| rows.get_mut(id)) else {
                return Err(Error::format(format!("the token {token:?} has the id `{id}`, expected one below {n}")));
            };
            match row {
                // Added tokens may repeat an entry of the vocabulary, to say more about it.
                Some((other, _)) if *other != token => {
                    Err(Error::format(format!("the tokens {other:?} and {token:?} both have the id `{id}`")))
                }
                _ => {
                    *row = Some((token, kind));
                    Ok(())
                }
            }
        };
        for (token, id) in &file.model.vocab.0 {
            put(*id, token.as_str(), token_type::NORMAL)?;
        }
        for added in &file.added_tokens {
            let token = added.content.as_str();
            if added.single_word || added.lstrip || added.rstrip || (added.normalized && !token.is_ascii()) {
                let token = short(token);
                return Err(Error::unsupported(format!(
                    "the added token `{token}` matches in a way that GGUF cannot say"
                )));
            }
            let is_control = added.special || looks_special(token);
            put(added.id, token, if is_control { token_type::CONTROL } else { token_type::USER_DEFINED })?;
        }
        let n_used = rows.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let (mut tokens, mut types) = (Vec::with_capacity(n_vocab), Vec::with_capacity(n_vocab));
        for (id, row) in rows.into_iter().enumerate() {
            match row {
                Some((token, kind)) => {
                    tokens.push(token.to_string());
                    types.push(kind);
                }
                None if id < n_used => return Err(Error::format(format!("no token has the id `{id}`"))),
                None => {
                    tokens.push(format!("[PAD{id}]"));
                    types.push(token_type::UNUSED);
                }
            }
        }
        Ok(Vocabulary { tokens, types })
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|t| t == token).and_then(|id| u32::try_from(id).ok())
    }
}

/// Qwen2.5 marks tokens like `<|fim_prefix|>` as not special; llama.cpp's converter makes control tokens of them by their
/// spelling, and so do we: files by either program behave alike.
fn looks_special(token: &str) -> bool {
    token.starts_with("<|") && token.ends_with("|>")
}

/// The small files beside `tokenizer.json`; empty where there is none.
struct Configs {
    tokenizer: Map<String, Value>,
    model: Map<String, Value>,
    generation: Map<String, Value>,
}

impl Configs {
    fn read(dir: &Path) -> Result<Configs> {
        let map = |file| Ok::<_, Error>(read_json(dir, file)?.unwrap_or_default());
        let (tokenizer, generation) = (map("tokenizer_config.json")?, map("generation_config.json")?);
        Ok(Configs { tokenizer, model: map("config.json")?, generation })
    }
}

/// The ids of the end, padding and beginning tokens, in the order in which llama.cpp's converter comes upon them: first
/// those that `tokenizer_config.json` names, then those with ids in `config.json` and `generation_config.json`.
fn special_ids(dir: &Path, configs: &Configs, vocab: &Vocabulary) -> Result<Vec<(&'static str, u32)>> {
    const NAMES: [(&str, &str); 3] = [("bos", "bos"), ("eos", "eos"), ("pad", "padding")];
    let mut ids: Vec<(&'static str, u32)> = Vec::new();
    for (hf, name) in NAMES {
        let entry = configs.tokenizer.get(&format!("{hf}_token"));
        let Some(token) = entry.and_then(|e| e.as_str().or_else(|| e["content"].as_str())) else { continue };
        let id = vocab.id(token).ok_or_else(|| {
            let message = format!("`{hf}_token` is `{}`, which is no token", short(token));
            Error::format(message).at(place(dir, "tokenizer_config.json"))
        })?;
        ids.push((name, id));
    }
    let text_config = configs.model.get("text_config").and_then(Value::as_object);
    for (file, config) in [
        ("config.json", Some(&configs.model)),
        ("config.json", text_config),
        ("generation_config.json", Some(&configs.generation)),
    ] {
        for (hf, name) in NAMES {
            let key = format!("{hf}_token_id");
            let value = config.and_then(|c| c.get(&key)).filter(|v| !v.is_null());
            let Some(value) = value.filter(|_| ids.iter().all(|(n, _)| *n != name)) else { continue };
            // Generation may end at several tokens: the first one is the end token.
            let id = value.get(0).unwrap_or(value).as_u64().and_then(|id| u32::try_from(id).ok());
            match id.filter(|id| (*id as usize) < vocab.tokens.len()) {
                Some(id) => ids.push((name, id)),
                None => {
                    let n = vocab.tokens.len();
                    let message = format!("`{key}` is `{}`, expected an id below {n}", short(&value.to_string()));
                    return Err(Error::format(message).at(place(dir, file)));
                }
            }
        }
    }
    if ids.iter().all(|(name, _)| *name != "eos") {
        let known = ["<|im_end|>", "<|endoftext|>"].into_iter().find_map(|token| vocab.id(token));
        let missing = || Error::format("no file names the token that ends an answer").at(dir.display().to_string());
        ids.push(("eos", known.ok_or_else(missing)?));
    }
    Ok(ids)
}

/// Sets the chat template from `tokenizer_config.json`, else `chat_template.jinja`, else `chat_template.json`. A list of
/// named templates becomes one key for each, as in llama.cpp.
fn set_template(dir: &Path, configs: &Configs, meta: &mut Metadata) -> Result<()> {
    const KEY: &str = "tokenizer.chat_template";
    let mut file = "tokenizer_config.json";
    let mut template = configs.tokenizer.get("chat_template").cloned();
    if template.is_none() {
        file = "chat_template.jinja";
        template = read(dir, file, MAX_CONFIG_BYTES)?.map(Value::from);
    }
    if template.is_none() {
        file = "chat_template.json";
        template = read_json(dir, file)?.and_then(|mut config| config.remove("chat_template"));
    }
    let bad =
        || Error::format("`chat_template` is neither a string nor a list of named templates").at(place(dir, file));
    match template {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(source)) => meta.set(KEY, source),
        Some(Value::Array(list)) => {
            let mut names = Vec::new();
            for item in &list {
                let (Some(name), Some(source)) = (item["name"].as_str(), item["template"].as_str()) else {
                    return Err(bad());
                };
                let tame =
                    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && (1..=64).contains(&name.len());
                if !tame {
                    return Err(bad());
                }
                if name == "default" {
                    meta.set(KEY, source);
                } else {
                    meta.set(format!("{KEY}.{name}"), source);
                    names.push(name.to_string());
                }
            }
            if !names.is_empty() {
                meta.set("tokenizer.chat_templates", names);
            }
        }
        Some(_) => return Err(bad()),
    }
    ChatTemplate::from_metadata(meta).map(|_| ()).at(|| place(dir, file))
}

/// The text of `dir/file`, or `None` when there is no such file.
fn read(dir: &Path, file: &str, max: u64) -> Result<Option<String>> {
    let opened = match File::open(dir.join(file)) {
        Ok(opened) => opened,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(Error::from(err).at(place(dir, file))),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits, also if it grows meanwhile.
    opened.take(max + 1).read_to_end(&mut bytes).at(|| place(dir, file))?;
    if bytes.len() as u64 > max {
        return Err(Error::limit(format!("more than {max} bytes")).at(place(dir, file)));
    }
    let wrong = |err: Error| Error::format(err.message().to_string()).at(place(dir, file));
    decode_text(bytes).map(Some).map_err(wrong)
}

fn read_json(dir: &Path, file: &str) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read(dir, file, MAX_CONFIG_BYTES)? else { return Ok(None) };
    parse(&text).map(Some).at(|| place(dir, file))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|err| Error::format(format!("malformed JSON: {err}")))
}

fn place(dir: &Path, file: &str) -> String {
    dir.join(file).display().to_string()
}

fn short(word: &str) -> String {
    word.chars().take(60).collect()
}
