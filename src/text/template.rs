//! Chat templates: minijinja with limits on steps, depth and output, and nothing of the host in reach.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::Value;

use super::mask::{Mask, unused_mark};
use super::message::Call;
use super::sandbox::{self, Sandbox};
use super::tokenizer::Span;
#[cfg(feature = "server")]
use super::tools::Style;
use super::{Content, MediaSource, Message, Part, Tokenizer, message};
use crate::error::Context;
use crate::gguf::Metadata;
use crate::{Error, Result};

/// The conversation format of Qwen2-VL and Qwen2.5-VL, for files that store no template. Later families have no system turn
/// of their own.
const DEFAULT: &str = "\
{%- set seen = namespace(images=0, videos=0) -%}
{%- if system_turn and messages and messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' -%}
                {%- set seen.images = seen.images + 1 -%}
                {{- 'Picture ' ~ seen.images ~ ': ' if add_vision_id else '' -}}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' -%}
                {%- set seen.videos = seen.videos + 1 -%}
                {{- 'Video ' ~ seen.videos ~ ': ' if add_vision_id else '' -}}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- else -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
";

/// A piece of a rendered and tokenized conversation, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text, tokenized.
    Tokens(Vec<u32>),
    /// Where the `n`-th image of the conversation goes (in place of one `<|image_pad|>`).
    Image(usize),
    /// Where the `n`-th video goes (in place of one `<|video_pad|>`).
    Video(usize),
}

/// A compiled template.
pub struct ChatTemplate {
    sandbox: Sandbox,
    source: String,
    /// Tokens that templates know by name (`bos_token`, `eos_token`, `pad_token`).
    named: BTreeMap<&'static str, String>,
    /// What else it is told, by name.
    options: BTreeMap<String, Value>,
    /// Set once the template had to be given up while running: it still runs, and another run would join it.
    stuck: AtomicBool,
}

/// What a template knows from elsewhere, so that no option may go by its name.
const TAKEN: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "add_vision_id",
    "system_turn",
    "bos_token",
    "eos_token",
    "pad_token",
];
/// Longest JSON text of options.
const MAX_OPTIONS_BYTES: usize = 1 << 16;

/// How to render.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderOptions<'a> {
    /// Ends with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Numbers pictures and videos (`Picture 1: `).
    pub add_vision_id: bool,
    /// Control tokens spelled in message text become tokens. Whoever writes the text can then end its turn.
    pub special: bool,
    /// Tools that the template is told of, as OpenAI's requests have them.
    pub tools: &'a [serde_json::Value],
}

impl ChatTemplate {
    /// The template stored in the file, or the Qwen2-VL one when it stores none.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn from_metadata(meta: &Metadata) -> Result<ChatTemplate> {
        const KEY: &str = "tokenizer.chat_template";
        let stored = meta.str(KEY)?;
        let mut template = ChatTemplate::new(stored.unwrap_or(DEFAULT)).at(|| format!("key `{KEY}`"))?;
        let later = ["qwen3vl", "qwen35"];
        let is_later = |arch: &str| later.iter().any(|family| arch.starts_with(family));
        if stored.is_none() && !meta.str("general.architecture")?.is_some_and(is_later) {
            template.options.insert("system_turn".to_string(), true.into());
        }
        let tokens = meta.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        for (name, key) in [
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
        ] {
            let id = meta.uint(key)?.and_then(|id| usize::try_from(id).ok());
            if let Some(token) = id.and_then(|id| tokens.get(id)) {
                template.named.insert(name, token.clone());
            }
        }
        Ok(template)
    }

    /// Compiles `source`.
    ///
    /// # Errors
    /// `Format` for a template that is no Jinja; `Limit` for one that is too long.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let sandbox = Sandbox::new(source)?;
        Ok(ChatTemplate {
            sandbox,
            source: source.to_string(),
            named: BTreeMap::new(),
            options: BTreeMap::new(),
            stuck: AtomicBool::new(false),
        })
    }

    /// Options that the template looks at by name, as a JSON object: `{"enable_thinking": false}`. What an earlier call set
    /// stays unless it is set again.
    ///
    /// # Errors
    /// `BadInput` for what is no JSON object, and for a name that means something else; `Limit` for one that is too long.
    pub fn set_options(&mut self, json: &str) -> Result<()> {
        if json.len() > MAX_OPTIONS_BYTES {
            return Err(Error::limit(format!("`{}` bytes of options, at most {MAX_OPTIONS_BYTES}", json.len())));
        }
        let options: BTreeMap<String, serde_json::Value> = serde_json::from_str(json)
            .map_err(|err| Error::bad_input(format!("options of the chat template: {err}, expected a JSON object")))?;
        if let Some(name) = options.keys().find(|name| TAKEN.contains(&name.as_str())) {
            return Err(Error::bad_input(format!("options of the chat template: `{name}` is not for options to set")));
        }
        self.options
            .extend(options.iter().map(|(name, value)| (name.clone(), json_value(value, &|text| Value::from(text)))));
        Ok(())
    }

    /// How the template writes calls of tools, if it knows any.
    #[cfg(feature = "server")]
    pub(crate) fn tool_style(&self) -> Option<Style> {
        Style::of(&self.source)
    }

    /// The conversation as one string, exactly as the reference renders it.
    ///
    /// # Errors
    /// `BadInput` for a conversation that the template refuses; `Limit` for a conversation beyond the caps of
    /// [`message`], and for a template beyond its limits; `Format` for a template that fails.
    ///
    /// [`message`]: super::message
    pub fn render(&self, messages: &[Message], options: RenderOptions) -> Result<String> {
        self.run(messages, options, &|text| Value::from(text))
    }

    /// The conversation as tokens and media slots. Special tokens written by the user inside message text stay text, unless
    /// [`RenderOptions::special`]; only those that the template writes become special. Errors when slots and media parts do not match one to one.
    ///
    /// Everything else that users type, noncharacters included, arrives unchanged. A token that the template puts together
    /// around user text (`'<|' + role + '|>'`) counts as written by the template.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`]; `Mismatch` for media that the template leaves out or adds.
    pub fn tokenize(&self, tokenizer: &Tokenizer, messages: &[Message], options: RenderOptions) -> Result<Vec<Piece>> {
        let mask = Mask::new(tokenizer.control_tokens());
        let mut texts: Vec<Cow<str>> = messages.iter().flat_map(strings).collect();
        options.tools.iter().for_each(|tool| json_strings(tool, &mut texts));
        if let Some(c) = texts.iter().find_map(|text| mask.single_in(text)).filter(|_| !options.special) {
            let way = "only `--special` lets a prompt hold control tokens";
            return Err(Error::bad_input(format!("messages: {c:?} is a control token of this model; {way}")));
        }
        let mark = unused_mark(texts.iter().map(|text| &**text).chain([self.source.as_str()]))
            .ok_or_else(|| Error::bad_input("messages: the text uses every noncharacter of Unicode"))?;
        let rendered = match options.special {
            true => self.render(messages, options)?,
            false => self.run(messages, options, &|text| Value::from(mask.apply(text, mark)))?,
        };

        let mut pieces = Pieces::new(tokenizer);
        for span in tokenizer.split_special(&rendered) {
            match span {
                Span::Token(id) => pieces.push_token(id),
                Span::Text(text) => pieces.push_tokens(tokenizer.encode(&text.replace(mark, ""), false)?),
            }
        }
        pieces.finish(messages)
    }

    /// Renders; `string` turns each string of the conversation into the value that the template sees.
    fn run(&self, messages: &[Message], options: RenderOptions, string: &dyn Fn(&str) -> Value) -> Result<String> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(Error::limit("chat template: it was given up before, while it was running"));
        }
        let mut size = message::check_size(messages)?;
        let mut words = Vec::new();
        options.tools.iter().for_each(|tool| json_strings(tool, &mut words));
        (size.n_parts, size.text_bytes) =
            (size.n_parts + words.len(), size.text_bytes + words.iter().map(|word| word.len()).sum::<usize>());
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        // Known to the reference, and none there unless tools are in use.
        let tools = options.tools.iter().map(|tool| json_value(tool, string)).collect::<Vec<_>>();
        context.insert("tools", if tools.is_empty() { Value::from(()) } else { tools.into() });
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", options.add_generation_prompt.into());
        context.insert("add_vision_id", options.add_vision_id.into());
        context.extend(self.named.iter().map(|(name, token)| (*name, Value::from(token.as_str()))));
        context.extend(self.options.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let messages: Vec<Value> = messages.iter().map(|message| message_value(message, string)).collect();
        context.insert("messages", messages.into());

        let rendered = self.sandbox.render(context.into(), size.n_messages + size.n_parts, size.text_bytes);
        if rendered.as_ref().is_err_and(sandbox::is_stuck) {
            self.stuck.store(true, Ordering::Relaxed);
        }
        rendered
    }
}

/// A message as templates know it from the reference: a map with `role` and `content`, and `reasoning_content` where there is some.
fn message_value(message: &Message, string: &dyn Fn(&str) -> Value) -> Value {
    let content = match &message.content {
        Content::Text(text) => string(text),
        Content::Parts(parts) => parts.iter().map(|part| part_value(part, string)).collect::<Vec<_>>().into(),
    };
    let thought = message.thought.iter().map(|thought| ("reasoning_content", string(thought)));
    let call = |call: &Call| -> Value {
        let function = [("name", string(&call.name)), ("arguments", json_value(&call.arguments, string))];
        let function: Value = function.into_iter().collect::<BTreeMap<_, _>>().into();
        BTreeMap::from([("type", Value::from("function")), ("function", function)]).into()
    };
    let calls =
        (!message.calls.is_empty()).then(|| ("tool_calls", message.calls.iter().map(call).collect::<Vec<_>>().into()));
    let told = [("role", string(&message.role)), ("content", content)];
    thought.chain(calls).chain(told).collect::<BTreeMap<_, _>>().into()
}

/// JSON as templates see it, its words turned by `string`.
fn json_value(json: &serde_json::Value, string: &dyn Fn(&str) -> Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(n) => Value::from(n),
            None => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => string(text),
        // As deep as the reader of JSON allows, which is not deep.
        serde_json::Value::Array(items) => items.iter().map(|item| json_value(item, string)).collect::<Vec<_>>().into(),
        serde_json::Value::Object(map) => {
            let field = |(name, value): (&String, _)| (string(name), json_value(value, string));
            Value::from_pairs(map.iter().map(field))
        }
    }
}

/// All words of JSON: names of fields and texts.
fn json_strings<'a>(json: &'a serde_json::Value, all: &mut Vec<Cow<'a, str>>) {
    match json {
        serde_json::Value::String(text) => all.push(text.into()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| json_strings(item, all)),
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                all.push(name.into());
                json_strings(value, all);
            }
        }
        _ => {}
    }
}

/// A part as templates know it: a map with `type` and the key of that name.
fn part_value(part: &Part, string: &dyn Fn(&str) -> Value) -> Value {
    let (kind, value) = match part {
        Part::Text(text) => ("text", string(text)),
        Part::Image { source, .. } => ("image", string(&source.to_string())),
        Part::Video { source: MediaSource::Path(source), .. } => ("video", string(&source.to_string())),
        Part::Video { source: MediaSource::Frames(frames), .. } => {
            ("video", frames.iter().map(|frame| string(&frame.to_string())).collect::<Vec<_>>().into())
        }
    };
    BTreeMap::from([("type", Value::from(kind)), (kind, value)]).into()
}

/// All strings of a message that come from the user, media by their names.
fn strings(message: &Message) -> Vec<Cow<'_, str>> {
    let mut all = vec![Cow::from(&message.role)];
    all.extend(message.thought.iter().map(Cow::from));
    for call in &message.calls {
        all.push((&call.name).into());
        json_strings(&call.arguments, &mut all);
    }
    match &message.content {
        Content::Text(text) => all.push(text.into()),
        Content::Parts(parts) => {
            for part in parts {
                match part {
                    Part::Text(text) => all.push(text.into()),
                    Part::Image { source, .. } | Part::Video { source: MediaSource::Path(source), .. } => {
                        all.push(source.to_string().into())
                    }
                    Part::Video { source: MediaSource::Frames(frames), .. } => {
                        all.extend(frames.iter().map(|frame| Cow::from(frame.to_string())))
                    }
                }
            }
        }
    }
    all
}

/// Collects tokens and media slots.
struct Pieces {
    done: Vec<Piece>,
    image_pad: Option<u32>,
    video_pad: Option<u32>,
    n_images: usize,
    n_videos: usize,
}

impl Pieces {
    fn new(tokenizer: &Tokenizer) -> Pieces {
        let pad = |token| tokenizer.token_id(token);
        let (image_pad, video_pad) = (pad("<|image_pad|>"), pad("<|video_pad|>"));
        Pieces { done: Vec::new(), image_pad, video_pad, n_images: 0, n_videos: 0 }
    }

    fn push_token(&mut self, id: u32) {
        if Some(id) == self.image_pad {
            self.done.push(Piece::Image(self.n_images));
            self.n_images += 1;
        } else if Some(id) == self.video_pad {
            self.done.push(Piece::Video(self.n_videos));
            self.n_videos += 1;
        } else {
            self.push_tokens(vec![id]);
        }
    }

    fn push_tokens(&mut self, ids: Vec<u32>) {
        match self.done.last_mut() {
            _ if ids.is_empty() => {}
            Some(Piece::Tokens(tokens)) => tokens.extend(ids),
            _ => self.done.push(Piece::Tokens(ids)),
        }
    }

    /// The pieces, if there is one slot for each image and video.
    fn finish(self, messages: &[Message]) -> Result<Vec<Piece>> {
        let parts = messages.iter().flat_map(|m| if let Content::Parts(parts) = &m.content { &parts[..] } else { &[] });
        let (mut n_images, mut n_videos) = (0, 0);
        for part in parts {
            match part {
                Part::Image { .. } => n_images += 1,
                Part::Video { .. } => n_videos += 1,
                Part::Text(_) => {}
            }
        }
        for (slots, given, what) in [(self.n_images, n_images, "images"), (self.n_videos, n_videos, "videos")] {
            if slots != given {
                let message =
                    format!("chat template: it makes room for `{slots}` {what}, the conversation has {given}");
                return Err(Error::mismatch(message));
            }
        }
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tools_and_calls_are_what_they_are_in_json() {
        // Fields in the order given, which is not that of the alphabet.
        let source = "{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- for m in messages %}{%- for call in m.tool_calls or [] %}\
            {%- for name, value in call.function.arguments | items %}{{- call.function.name ~ '.' ~ name ~ '=' ~ value }};{%- endfor %}\
            {{- call.function.arguments | tojson }}{%- endfor %}{%- endfor %}{{- 'none' if not tools }}";
        let template = ChatTemplate::new(source).unwrap();
        let tools = [
            json!({ "type": "function", "function": { "name": "look", "parameters": { "required": ["at"] }, "also": 1 } }),
        ];
        let call = Call { name: "look".into(), arguments: json!({ "why": "who", "at": 3 }) };
        let messages = [Message { calls: vec![call], ..Message::new("assistant", Content::Text(String::new())) }];
        let render = |tools| template.render(&messages, RenderOptions { tools, ..RenderOptions::default() }).unwrap();
        let called = r#"look.why=who;look.at=3;{"why": "who", "at": 3}"#;
        let told =
            r#"{"type": "function", "function": {"name": "look", "parameters": {"required": ["at"]}, "also": 1}}"#;
        assert_eq!(render(&tools), format!("{told}{called}"));
        assert_eq!(render(&[]), format!("{called}none"));
    }
}
