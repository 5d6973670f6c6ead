//! Conversations in the Qwen spelling: `[{"role", "content": "..." | [{"type": "text"|"image"|"video", ...}]}]`.
//!
//! Parts are also read as others write them: without `type` when one key says what they are, and as in OpenAI's requests
//! (`image_url`, `video_url`, `input_text`, `input_image`, each URL by itself or as `{"url"}`). Media are named as [`Source`]
//! says.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Source;
use crate::error::Context;
use crate::{Error, Result};

/// Longest conversation, as JSON, in bytes: with videos as `data:` URLs, a third longer than their files. Nesting is capped
/// by `serde_json` (128 levels).
pub const MAX_JSON_BYTES: usize = 128 << 20;
/// Most JSON values (numbers, strings, lists, maps) in a conversation, so that small text cannot become large memory.
pub const MAX_JSON_VALUES: usize = 1 << 18;
/// Most turns.
pub const MAX_MESSAGES: usize = 4096;
/// Most parts, all turns together.
pub const MAX_PARTS: usize = 4096;
/// Most text, all turns together, in bytes: more than a million tokens.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Most frames of one video that is given as a list of pictures.
pub const MAX_FRAMES: usize = 1 << 16;
/// Longest role, in bytes.
pub const MAX_ROLE_BYTES: usize = 64;

/// One turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, or what else a template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
    /// What an answer thought before it was said (`reasoning_content`), for templates that look for it.
    pub thought: Option<String>,
    /// Tools that an answer called, for templates that know them.
    pub calls: Vec<Call>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The tool's.
    pub name: String,
    /// An object.
    pub arguments: Value,
}

impl Message {
    /// A turn without a thought and without calls.
    pub fn new(role: impl Into<String>, content: Content) -> Message {
        Message { role: role.into(), content, thought: None, calls: Vec::new() }
    }
}

/// A turn's content: plain text, or parts in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text alone.
    Text(String),
    /// Text and media.
    Parts(Vec<Part>),
}

/// A piece of a turn. Media carry their source and options as they were given; options are judged where media are read.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A picture.
    Image {
        /// Where it is, or its bytes.
        source: Source,
        /// All else that its part says (`min_pixels`, …).
        options: Map<String, Value>,
    },
    /// A video.
    Video {
        /// Where it is, its bytes, or its frames.
        source: MediaSource,
        /// All else that its part says (`fps`, `max_pixels`, …).
        options: Map<String, Value>,
    },
}

/// Where a video comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaSource {
    /// One video file, or a folder of its frames.
    Path(Source),
    /// Pictures that are its frames, in order.
    Frames(Vec<Source>),
}

/// The conversation as [`parse_messages`] reads it.
pub fn to_json(messages: &[Message]) -> String {
    let media = |kind: &str, source: Value, options: &Map<String, Value>| {
        let mut part = Map::new();
        part.insert("type".to_string(), kind.into());
        part.insert(kind.to_string(), source);
        part.extend(options.clone());
        Value::Object(part)
    };
    let part = |part: &Part| match part {
        Part::Text(text) => serde_json::json!({ "type": "text", "text": text }),
        Part::Image { source, options } => media("image", source.to_text().into(), options),
        Part::Video { source: MediaSource::Path(source), options } => media("video", source.to_text().into(), options),
        Part::Video { source: MediaSource::Frames(frames), options } => {
            media("video", frames.iter().map(Source::to_text).collect(), options)
        }
    };
    let content = |content: &Content| match content {
        Content::Text(text) => Value::from(text.as_str()),
        Content::Parts(parts) => parts.iter().map(part).collect(),
    };
    let turn = |m: &Message| {
        let mut turn = serde_json::json!({ "role": m.role, "content": content(&m.content) });
        if let Some(thought) = &m.thought {
            turn["reasoning_content"] = thought.as_str().into();
        }
        turn
    };
    let list: Value = messages.iter().map(turn).collect();
    format!("{list:#}\n")
}

/// Parses a conversation, refusing anything it does not know by its path (`messages[2].content[0].type`).
///
/// # Errors
/// `BadInput` for malformed JSON, duplicate or unknown fields and wrong types; `Limit` beyond the caps of this file.
pub fn parse_messages(json: &str) -> Result<Vec<Message>> {
    if json.len() > MAX_JSON_BYTES {
        return Err(Error::limit(format!("messages: `{}` bytes of JSON, at most {MAX_JSON_BYTES}", json.len())));
    }
    let Value::Array(items) = strict_json(json)? else {
        return Err(Error::bad_input("messages: expected a list of messages"));
    };
    if items.is_empty() {
        return Err(Error::bad_input("messages: the list is empty, expected at least one message"));
    }
    if items.len() > MAX_MESSAGES {
        return Err(Error::limit(format!("messages: `{}` messages, at most {MAX_MESSAGES}", items.len())));
    }
    let messages = items.into_iter().enumerate().map(|(i, item)| message(item, &format!("messages[{i}]")));
    let messages = messages.collect::<Result<Vec<_>>>()?;
    check_size(&messages)?;
    Ok(messages)
}

/// Refuses a conversation with more parts or text than the caps of this file allow.
pub(super) fn check_size(messages: &[Message]) -> Result<Size> {
    let mut size = Size { n_messages: messages.len(), n_parts: 0, text_bytes: 0 };
    for message in messages {
        size.text_bytes += message.thought.as_ref().map_or(0, String::len);
        size.text_bytes +=
            message.calls.iter().map(|call| call.name.len() + call.arguments.to_string().len()).sum::<usize>();
        size.n_parts += message.calls.len();
        match &message.content {
            Content::Text(text) => size.text_bytes += text.len(),
            Content::Parts(parts) => {
                size.n_parts += parts.len();
                size.text_bytes += parts.iter().map(|p| if let Part::Text(t) = p { t.len() } else { 0 }).sum::<usize>();
            }
        }
    }
    for (n, max, what) in [
        (size.n_messages, MAX_MESSAGES, "messages"),
        (size.n_parts, MAX_PARTS, "parts"),
        (size.text_bytes, MAX_TEXT_BYTES, "bytes of text"),
    ] {
        if n > max {
            return Err(Error::limit(format!("messages: `{n}` {what} together, at most {max}")));
        }
    }
    Ok(size)
}

/// How large a conversation is.
pub(super) struct Size {
    pub n_messages: usize,
    pub n_parts: usize,
    pub text_bytes: usize,
}

fn message(item: Value, path: &str) -> Result<Message> {
    let mut fields = object(item, path)?;
    let role = string(take(&mut fields, "role", path)?, &format!("{path}.role"))?;
    if role.is_empty() || role.len() > MAX_ROLE_BYTES {
        return Err(Error::bad_input(format!("{path}.role: `{}` bytes, expected 1 to {MAX_ROLE_BYTES}", role.len())));
    }
    let content = match take(&mut fields, "content", path)? {
        Value::String(text) => Content::Text(text),
        Value::Array(parts) => {
            let parts = parts.into_iter().enumerate().map(|(i, item)| part(item, &format!("{path}.content[{i}]")));
            Content::Parts(parts.collect::<Result<_>>()?)
        }
        other => return Err(wrong(&format!("{path}.content"), &other, "a string or a list of parts")),
    };
    let thought = match fields.remove("reasoning_content") {
        None | Some(Value::Null) => None,
        Some(Value::String(thought)) => Some(thought),
        Some(other) => return Err(wrong(&format!("{path}.reasoning_content"), &other, "a string")),
    };
    no_more(&fields, path)?;
    Ok(Message { thought, ..Message::new(role, content) })
}

fn part(item: Value, path: &str) -> Result<Part> {
    let mut fields = object(item, path)?;
    let (kind, given) = kind_of(&mut fields, path)?;
    let at = format!("{path}.{given}");
    match kind {
        Kind::Text => {
            let text = string(take(&mut fields, given, path)?, &at)?;
            no_more(&fields, path)?;
            Ok(Part::Text(text))
        }
        Kind::Image => {
            let source = source(take(&mut fields, given, path)?, &at)?;
            Ok(Part::Image { source, options: fields })
        }
        Kind::Video => {
            let source = match take(&mut fields, given, path)? {
                Value::Array(frames) if frames.is_empty() => {
                    return Err(Error::bad_input(format!("{at}: the list of frames is empty")));
                }
                Value::Array(frames) if frames.len() > MAX_FRAMES => {
                    return Err(Error::limit(format!("{at}: `{}` frames, at most {MAX_FRAMES}", frames.len())));
                }
                Value::Array(frames) => {
                    let frames = frames.into_iter().enumerate().map(|(i, f)| source(f, &format!("{at}[{i}]")));
                    MediaSource::Frames(frames.collect::<Result<_>>()?)
                }
                one @ (Value::String(_) | Value::Object(_)) => MediaSource::Path(source(one, &at)?),
                other => return Err(wrong(&at, &other, "a path or a list of picture paths")),
            };
            Ok(Part::Video { source, options: fields })
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Image,
    Video,
}

/// What a part of some `type` is, and the keys that may hold it.
const TYPES: [(&str, Kind, &[&str]); 9] = [
    ("text", Kind::Text, &["text"]),
    ("image", Kind::Image, &["image", "image_url", "url", "path"]),
    ("video", Kind::Video, &["video", "video_url", "url", "path"]),
    ("image_url", Kind::Image, &["image_url", "image"]),
    ("video_url", Kind::Video, &["video_url", "video"]),
    ("input_text", Kind::Text, &["text"]),
    ("output_text", Kind::Text, &["text"]),
    ("input_image", Kind::Image, &["image_url", "image"]),
    ("input_video", Kind::Video, &["video_url", "video"]),
];
/// What a part without a `type` is, by the one key of these that it has.
const KEYS: [(&str, Kind); 5] = [
    ("text", Kind::Text),
    ("image", Kind::Image),
    ("image_url", Kind::Image),
    ("video", Kind::Video),
    ("video_url", Kind::Video),
];

/// What a part is, and the key that holds it. Takes the type out of its fields.
fn kind_of(fields: &mut Map<String, Value>, path: &str) -> Result<(Kind, &'static str)> {
    if !fields.contains_key("type") {
        let mut found = KEYS.into_iter().filter(|(key, _)| fields.contains_key(*key));
        return match (found.next(), found.next()) {
            (Some((key, kind)), None) => Ok((kind, key)),
            (None, _) => Err(Error::bad_input(format!("{path}.type is missing, and no key says what the part is"))),
            (Some((a, _)), Some((b, _))) => {
                Err(Error::bad_input(format!("{path}: `{a}` and `{b}` in one part, expected one of them")))
            }
        };
    }
    let name = string(take(fields, "type", path)?, &format!("{path}.type"))?;
    let Some((_, kind, keys)) = TYPES.into_iter().find(|(known, ..)| *known == name) else {
        let message = format!("`{}` is unknown, expected `text`, `image` or `video`", short(&name));
        return Err(Error::bad_input(message).at(format!("{path}.type")));
    };
    let key = keys.iter().find(|key| fields.contains_key(**key)).unwrap_or(&keys[0]);
    // Tables of parts have every column in every row, those of other kinds empty.
    for (other, _) in KEYS.into_iter().filter(|(other, _)| other != key) {
        if fields.shift_remove(other).is_some_and(|value| !value.is_null()) {
            return Err(Error::bad_input(format!("{path}: `{key}` and `{other}` in one part, expected one of them")));
        }
    }
    Ok((kind, key))
}

fn object(item: Value, path: &str) -> Result<Map<String, Value>> {
    match item {
        Value::Object(fields) => Ok(fields),
        other => Err(wrong(path, &other, "an object")),
    }
}

fn string(value: Value, path: &str) -> Result<String> {
    match value {
        Value::String(s) => Ok(s),
        other => Err(wrong(path, &other, "a string")),
    }
}

/// A media source: a path or URL, by itself or as `{"url"}`.
fn source(value: Value, path: &str) -> Result<Source> {
    let text = match value {
        Value::Object(mut fields) => {
            let url = string(take(&mut fields, "url", path)?, &format!("{path}.url"))?;
            // How closely other programs are to look; here sizes say that.
            fields.shift_remove("detail");
            no_more(&fields, path)?;
            url
        }
        other => string(other, path)?,
    };
    Source::parse(&text).at(|| path)
}

fn take(fields: &mut Map<String, Value>, key: &str, path: &str) -> Result<Value> {
    // `shift_remove` keeps the order of what stays behind as options.
    fields.shift_remove(key).ok_or_else(|| Error::bad_input(format!("{path}.{key} is missing")))
}

fn no_more(fields: &Map<String, Value>, path: &str) -> Result<()> {
    match fields.keys().next() {
        None => Ok(()),
        Some(key) => Err(Error::bad_input(format!("{path}: the field `{}` is unknown", short(key)))),
    }
}

fn wrong(path: &str, value: &Value, expected: &str) -> Error {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(s) if s.is_empty() => "an empty string",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::bad_input(format!("{path}: found {found}, expected {expected}"))
}

/// At most 40 characters of a word that comes from outside.
fn short(word: &str) -> String {
    word.chars().take(40).collect()
}

/// JSON in which a field that is given twice is an error and the number of values is capped.
fn strict_json(json: &str) -> Result<Value> {
    let n_values = Cell::new(0);
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = Strict(&n_values).deserialize(&mut deserializer).and_then(|v| deserializer.end().map(|()| v));
    value.map_err(|err| {
        if n_values.get() > MAX_JSON_VALUES {
            Error::limit(format!("messages: more than {MAX_JSON_VALUES} JSON values"))
        } else {
            Error::bad_input(format!("messages: {err}"))
        }
    })
}

/// Reads one JSON value and counts it.
struct Strict<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > MAX_JSON_VALUES {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict(self.0))? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict(self.0))?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the field `{}` is given twice", short(&key))));
            }
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn every_spelling_is_understood() {
        let json = r#"[{"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": "i.png", "max_pixels": 3136},
            {"fps": 2.0, "type": "video", "video": "v.mp4", "nframes": 8}, {"type": "video", "video": ["1.png", "2.png"]}]}]"#;
        let messages = parse_messages(json).unwrap();
        assert_eq!(messages[0], Message::new("system", Content::Text("Be brief.".into())));
        let Content::Parts(parts) = &messages[1].content else { panic!("expected parts") };
        assert_eq!(parts[0], Part::Text("a".into()));
        let Part::Image { source, options } = &parts[1] else { panic!("expected an image") };
        assert_eq!((source, options["max_pixels"].as_u64()), (&"i.png".into(), Some(3136)));
        let Part::Video { source, options } = &parts[2] else { panic!("expected a video") };
        assert_eq!(*source, MediaSource::Path("v.mp4".into()));
        assert_eq!(options.keys().collect::<Vec<_>>(), ["fps", "nframes"]);
        let Part::Video { source, .. } = &parts[3] else { panic!("expected a video") };
        assert_eq!(*source, MediaSource::Frames(vec!["1.png".into(), "2.png".into()]));
    }

    #[test]
    fn errors_name_the_path() {
        for (json, want) in [
            ("", "messages: EOF"),
            ("{}", "messages: expected a list"),
            ("[]", "messages: the list is empty"),
            ("[1]", "messages[0]: found a number, expected an object"),
            (r#"[{"content": "a"}]"#, "messages[0].role is missing"),
            (r#"[{"role": "user"}]"#, "messages[0].content is missing"),
            (r#"[{"role": "", "content": "a"}]"#, "messages[0].role: `0` bytes"),
            (r#"[{"role": "user", "content": null}]"#, "messages[0].content: found null"),
            (r#"[{"role": "user", "content": "a", "name": "b"}]"#, "messages[0]: the field `name` is unknown"),
            (r#"[{"role": "user", "role": "x", "content": "a"}]"#, "the field `role` is given twice"),
            (r#"[{"role": "user", "content": ["a"]}]"#, "messages[0].content[0]: found a string"),
            (
                r#"[{"role": "user", "content": [{"type": "audio"}]}]"#,
                "messages[0].content[0].type: `audio` is unknown",
            ),
            (r#"[{"role": "user", "content": [{"words": "a"}]}]"#, "messages[0].content[0].type is missing"),
            (r#"[{"role": "user", "content": [{"text": "a", "image": "b"}]}]"#, "`text` and `image` in one part"),
            (
                r#"[{"role": "user", "content": [{"image": "http://a/b"}]}]"#,
                "messages[0].content[0].image: `http://a/b`",
            ),
            (
                r#"[{"role": "user", "content": [{"type": "text", "text": 1}]}]"#,
                "messages[0].content[0].text: found a number",
            ),
            (r#"[{"role": "user", "content": [{"type": "image"}]}]"#, "messages[0].content[0].image is missing"),
            (
                r#"[{"role": "user", "content": [{"type": "video", "video": []}]}]"#,
                "content[0].video: the list of frames is empty",
            ),
            (
                r#"[{"role": "user", "content": [{"type": "video", "video": ["a", 1]}]}]"#,
                "content[0].video[1]: found a number",
            ),
            (r#"[{"role": "user", "content": "\ud800"}]"#, "messages: "),
        ] {
            let err = parse_messages(json).unwrap_err();
            assert!(err.to_string().contains(want), "{json}: `{err}` should say `{want}`");
            assert_eq!(err.kind(), ErrorKind::BadInput, "{json}");
        }
    }

    #[test]
    fn caps_hold_before_memory_does() {
        let many = |n, item: &str| format!("[{}]", vec![item; n].join(","));
        let turn = r#"{"role": "user", "content": "a"}"#;
        assert_eq!(parse_messages(&many(MAX_MESSAGES, turn)).unwrap().len(), MAX_MESSAGES);
        let part = r#"{"type": "text", "text": "a"}"#;
        let long = format!(r#"[{{"role": "user", "content": "{}"}}]"#, "a".repeat(MAX_TEXT_BYTES + 1));
        let frames = format!(r#"[{{"type": "video", "video": {}}}]"#, many(MAX_FRAMES + 1, "\"f\""));
        for json in [
            many(MAX_MESSAGES + 1, turn),
            format!(r#"[{{"role": "user", "content": {}}}]"#, many(MAX_PARTS + 1, part)),
            format!(r#"[{{"role": "user", "content": {frames}}}]"#),
            many(MAX_JSON_VALUES + 1, "0"),
            long,
            " ".repeat(MAX_JSON_BYTES + 1),
        ] {
            assert_eq!(parse_messages(&json).unwrap_err().kind(), ErrorKind::Limit);
        }
        let deep = "[".repeat(1_000_000);
        assert_eq!(parse_messages(&deep).unwrap_err().kind(), ErrorKind::BadInput);
    }
}
