//! A request for an answer: what is honoured, what is ignored, what is refused. Ranges are checked before anything is reserved.

use serde_json::{Map, Value};

use super::media::{MediaPart, option};
use super::{Code, Fault, Json, fields, short};
use crate::server::limits::*;

type Result<T> = std::result::Result<T, Fault>;

/// A checked request.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ChatRequest {
    pub model: Option<String>,
    pub turns: Vec<Turn>,
    pub stream: bool,
    pub include_usage: bool,
    pub max_tokens: Option<usize>,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub logprobs: bool,
    pub top_logprobs: usize,
    pub format: Format,
    pub ignore_eos: bool,
    pub return_progress: bool,
    pub cache_prompt: bool,
    pub timings_per_token: bool,
    /// Options for all videos, which parts override.
    pub video_options: Map<String, Value>,
    pub temporal_scale: Option<f64>,
    pub own: Own,
    /// Fields that are not known, by name.
    pub ignored: Vec<String>,
}

/// How the next token is picked, where the request says it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Sampling {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    pub seed: Option<u64>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub logit_bias: Vec<(u32, f32)>,
}

/// What form the answer has.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Format {
    #[default]
    Text,
    /// Any JSON object.
    Object,
    /// JSON of this schema.
    Schema(Value),
}

/// What stands in `longtake`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Own {
    pub max_memory: Option<u64>,
    /// Seconds.
    pub max_time: Option<f64>,
    pub context: Option<usize>,
    pub as_sent: Option<bool>,
    /// Whether a whole answer that takes long is kept alive by spaces.
    pub keep_alive: bool,
    /// Whether a take that is not ready is waited for.
    pub wait: bool,
}

impl Default for Own {
    fn default() -> Own {
        Own { max_memory: None, max_time: None, context: None, as_sent: None, keep_alive: true, wait: true }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub role: Role,
    pub parts: Vec<TurnPart>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// As templates spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TurnPart {
    Text(String),
    Media(MediaPart),
}

/// Fields that change nothing here and are known.
const HARMLESS: [&str; 19] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
    "reasoning_effort",
    "parallel_tool_calls",
    "id_slot",
    "priority",
    "request_id",
    "session_id",
    "cache_salt",
    "add_generation_prompt",
    "skip_special_tokens",
    "sse_ping_interval",
    "tool_choice",
];

/// Fields that would change the answer in a way that is not offered: refused unless they say nothing.
const REFUSED: [&str; 23] = [
    "tools",
    "functions",
    "function_call",
    "audio",
    "prediction",
    "web_search_options",
    "grammar",
    "json_schema",
    "chat_template",
    "chat_template_kwargs",
    "echo",
    "prompt_logprobs",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "continue_final_message",
    "allowed_token_ids",
    "bad_words",
    "min_tokens",
    "stop_token_ids",
    "moderation",
];

impl ChatRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// What is wrong with the first field that is; a request without messages.
    pub(crate) fn parse(body: &Json<'_>) -> Result<ChatRequest> {
        let mut request = ChatRequest { cache_prompt: true, ..ChatRequest::default() };
        let mut messages = None;
        let (mut max_old, mut max_new) = (None, None);
        for (key, value) in fields::object(body, "body")? {
            let at: &str = key;
            if *value == Json::Null {
                if at == "messages" || !(is_known(at)) {
                    request.note(at);
                }
                continue;
            }
            match at {
                "messages" => messages = Some(value),
                "model" => {
                    let name = fields::text(value, at, 1024)?;
                    request.model = Some(name.to_string()).filter(|name| !name.is_empty());
                }
                "stream" => request.stream = fields::flag(value, at)?,
                "stream_options" => request.stream_options(value)?,
                "max_tokens" => max_old = Some(fields::count(value, at, (1, 1 << 40))? as usize),
                "max_completion_tokens" => max_new = Some(fields::count(value, at, (1, 1 << 40))? as usize),
                "stop" => request.stop = stops(value)?,
                "logprobs" => request.logprobs = fields::flag(value, at)?,
                "top_logprobs" => {
                    request.top_logprobs = fields::count(value, at, (0, MAX_TOP_LOGPROBS as i64))? as usize
                }
                "response_format" => request.format = format(value)?,
                "ignore_eos" => request.ignore_eos = fields::flag(value, at)?,
                "return_progress" => request.return_progress = fields::flag(value, at)?,
                "cache_prompt" => request.cache_prompt = fields::flag(value, at)?,
                "timings_per_token" => request.timings_per_token = fields::flag(value, at)?,
                "media_io_kwargs" => io_kwargs(value, &mut request.video_options)?,
                "mm_processor_kwargs" => processor_kwargs(value, &mut request.video_options)?,
                "temporal_scale" => request.temporal_scale = Some(scale(value, at)?),
                "longtake" => request.own = own(value)?,
                "n" => {
                    if fields::count(value, at, (1, 1 << 40))? != 1 {
                        return Err(unsupported(at, "one answer at a time is given: ask again for another"));
                    }
                }
                "modalities" => {
                    if fields::list(value, at)?.iter().any(|item| item.as_text() != Some("text")) {
                        return Err(unsupported(at, "answers are text"));
                    }
                }
                "tool_choice" if !matches!(value.as_text(), Some("none" | "auto")) => {
                    return Err(unsupported(at, "tools are not called here"));
                }
                _ if request.sampling.field(at, value)? => {}
                known if HARMLESS.contains(&known) => {}
                known if REFUSED.contains(&known) => {
                    if !value.is_empty() {
                        return Err(unsupported(known, "it would change the answer in a way that is not offered here"));
                    }
                }
                _ => request.note(at),
            }
        }
        if request.top_logprobs > 0 && !request.logprobs {
            return Err(Fault::value("top_logprobs", "`top_logprobs` needs `logprobs`: true"));
        }
        request.max_tokens = max_new.or(max_old);
        let messages = messages.ok_or_else(|| Fault::value("messages", "`messages` is missing"))?;
        request.turns = turns(messages, &mut request.ignored)?;
        if let Some(scale) = request.temporal_scale {
            request.video_options.entry("temporal_scale").or_insert(scale.into());
        }
        Ok(request)
    }

    /// Notes a field that is not known.
    fn note(&mut self, name: &str) {
        note(&mut self.ignored, name);
    }

    fn stream_options(&mut self, value: &Json<'_>) -> Result<()> {
        for (key, value) in fields::object(value, "stream_options")? {
            match &**key {
                "include_usage" if *value != Json::Null => {
                    self.include_usage = fields::flag(value, "stream_options.include_usage")?
                }
                "include_usage" | "include_obfuscation" | "continuous_usage_stats" => {}
                other => self.note(&format!("stream_options.{}", short(other))),
            }
        }
        Ok(())
    }
}

/// Adds a name to the list of what is ignored, which is short.
fn note(ignored: &mut Vec<String>, name: &str) {
    const MOST: usize = 32;
    if ignored.len() < MOST {
        ignored.push(short(name));
    }
}

/// Whether null stands for the default of a field.
fn is_known(name: &str) -> bool {
    const HONOURED: [&str; 31] = [
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "logprobs",
        "top_logprobs",
        "response_format",
        "ignore_eos",
        "return_progress",
        "cache_prompt",
        "timings_per_token",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "temporal_scale",
        "longtake",
        "n",
        "modalities",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
        "repetition_penalty",
        "logit_bias",
        "messages",
        "tool_choice",
    ];
    HONOURED.contains(&name) || HARMLESS.contains(&name) || REFUSED.contains(&name)
}

/// The refusal of something that is not offered.
fn unsupported(param: &str, why: &str) -> Fault {
    Fault::new(Code::UnsupportedParameter, format!("`{param}` is not supported: {why}")).of(param)
}

impl Sampling {
    /// Takes a field if it is one of its own.
    fn field(&mut self, at: &str, value: &Json<'_>) -> Result<bool> {
        let within = |range| fields::number(value, at, range).map(|n| Some(n as f32));
        match at {
            "temperature" => self.temperature = within((0.0, 100.0))?,
            "top_p" => self.top_p = within((0.0, 1.0))?,
            "min_p" => self.min_p = within((0.0, 1.0))?,
            // -1 and 0: all.
            "top_k" => self.top_k = Some(fields::count(value, at, (-1, 1 << 31))?.max(0) as usize),
            // Any 64 bits, with a sign or without.
            "seed" => {
                let Json::Number(seed) = value else { return Err(fields::wrong(value, at, "a whole number")) };
                let bits = seed.as_u64().or_else(|| seed.as_i64().map(|seed| seed as u64));
                self.seed =
                    Some(bits.ok_or_else(|| Fault::value(at, format!("`seed` is `{seed}`, expected a whole number")))?);
            }
            "frequency_penalty" => self.frequency_penalty = within((-2.0, 2.0))?,
            "presence_penalty" => self.presence_penalty = within((-2.0, 2.0))?,
            "repeat_penalty" | "repetition_penalty" => self.repeat_penalty = within((0.01, 1000.0))?,
            "logit_bias" => self.logit_bias = biases(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn biases(value: &Json<'_>) -> Result<Vec<(u32, f32)>> {
    let given = fields::object(value, "logit_bias")?;
    if given.len() > MAX_LOGIT_BIASES {
        let message = format!("`logit_bias` has `{}` tokens, at most {MAX_LOGIT_BIASES}", given.len());
        return Err(Fault::value("logit_bias", message));
    }
    let one = |(id, bias): &(std::borrow::Cow<'_, str>, Json<'_>)| {
        let at = format!("logit_bias.{}", short(id));
        let id = id.parse::<u32>().map_err(|_| Fault::value(&at, format!("`{}` is no token id", short(id))))?;
        Ok((id, fields::number(bias, &at, (-100.0, 100.0))? as f32))
    };
    given.iter().map(one).collect()
}

fn stops(value: &Json<'_>) -> Result<Vec<String>> {
    let one = |value: &Json<'_>, at: &str| {
        let text = fields::text(value, at, MAX_STOP_BYTES)?;
        if text.is_empty() {
            return Err(Fault::value(at, format!("`{at}` is empty")));
        }
        Ok(text.to_string())
    };
    if let Json::Text(_) = value {
        return Ok(vec![one(value, "stop")?]);
    }
    let list = fields::list(value, "stop")?;
    if list.len() > MAX_STOPS {
        return Err(Fault::value("stop", format!("`stop` has `{}` strings, at most {MAX_STOPS}", list.len())));
    }
    list.iter().enumerate().map(|(i, value)| one(value, &format!("stop[{i}]"))).collect()
}

fn format(value: &Json<'_>) -> Result<Format> {
    let at = "response_format";
    let name = value.get("type").and_then(Json::as_text).unwrap_or_default();
    let schema = |value: Option<&Json<'_>>| match value {
        Some(schema @ Json::Object(_)) => {
            let schema = schema.to_value();
            match serde_json::to_string(&schema).map_or(usize::MAX, |text| text.len()) {
                n if n > MAX_SCHEMA_BYTES => {
                    let message = format!("a schema of `{n}` bytes, at most {MAX_SCHEMA_BYTES}");
                    Err(Fault::new(Code::InvalidSchema, message).of(at))
                }
                _ => Ok(Format::Schema(schema)),
            }
        }
        _ => Err(Fault::new(Code::InvalidSchema, "the schema is missing, or is no object").of(at)),
    };
    match name {
        "text" => Ok(Format::Text),
        "json_object" if value.get("schema").is_some() => schema(value.get("schema")),
        "json_object" => Ok(Format::Object),
        "json_schema" => {
            let inner = value.get("json_schema");
            schema(inner.and_then(|inner| inner.get("schema")).or_else(|| value.get("schema")))
        }
        other => {
            let message =
                format!("`response_format.type` is `{}`, expected text, json_object or json_schema", short(other));
            Err(Fault::value("response_format.type", message))
        }
    }
}

/// vLLM's options for its loader.
fn io_kwargs(value: &Json<'_>, options: &mut Map<String, Value>) -> Result<()> {
    for (kind, value) in fields::object(value, "media_io_kwargs")? {
        let at = format!("media_io_kwargs.{}", short(kind));
        match &**kind {
            "video" => {
                for (key, value) in fields::object(value, &at)? {
                    match &**key {
                        "fps" | "num_frames" => option(key, value, &at, options)?,
                        other => return Err(fields::unknown(&at, other)),
                    }
                }
            }
            "image" | "audio" if value.is_empty() => {}
            other => return Err(fields::unknown("media_io_kwargs", other)),
        }
    }
    Ok(())
}

/// vLLM's options for the processor.
fn processor_kwargs(value: &Json<'_>, options: &mut Map<String, Value>) -> Result<()> {
    let at = "mm_processor_kwargs";
    for (key, value) in fields::object(value, at)? {
        match &**key {
            "fps" | "min_pixels" | "max_pixels" => option(key, value, at, options)?,
            // Of lists of frames all are taken anyway; of files never.
            "do_sample_frames" => drop(fields::flag(value, "mm_processor_kwargs.do_sample_frames")?),
            other => return Err(fields::unknown(at, other)),
        }
    }
    Ok(())
}

/// A temporal scale: a number, or the name of a preset.
pub(super) fn scale(value: &Json<'_>, at: &str) -> Result<f64> {
    let text = match value {
        Json::Text(text) => short(text),
        other => fields::number(other, at, (1e-6, 1e6))?.to_string(),
    };
    crate::position::parse_temporal_scale(&text).map_err(|err| Fault::value(at, err.message()))
}

/// A context, in tokens.
pub(super) fn context(value: &Json<'_>, at: &str) -> Result<usize> {
    Ok(fields::count(value, at, (1, 1 << 31))? as usize)
}

fn own(value: &Json<'_>) -> Result<Own> {
    let mut own = Own::default();
    for (key, value) in fields::object(value, "longtake")? {
        let at = format!("longtake.{}", short(key));
        match &**key {
            "max_memory" => own.max_memory = Some(fields::bytes(value, &at)?),
            "max_time" => own.max_time = Some(fields::seconds(value, &at)?),
            "context" => own.context = Some(context(value, &at)?),
            "keep_alive" => own.keep_alive = fields::flag(value, &at)?,
            "wait" => own.wait = fields::flag(value, &at)?,
            "media_order" => {
                own.as_sent = Some(match fields::text(value, &at, 32)? {
                    "as-sent" => true,
                    "video-first" => false,
                    other => {
                        let message = format!("`{at}` is `{}`, expected video-first or as-sent", short(other));
                        return Err(Fault::value(&at, message));
                    }
                })
            }
            other => return Err(fields::unknown("longtake", other)),
        }
    }
    Ok(own)
}

fn turns(value: &Json<'_>, ignored: &mut Vec<String>) -> Result<Vec<Turn>> {
    let list = fields::list(value, "messages")?;
    if list.is_empty() || list.len() > MAX_MESSAGES {
        let message = format!("`messages` has `{}` messages, expected 1 to {MAX_MESSAGES}", list.len());
        return Err(Fault::value("messages", message));
    }
    let turns = list.iter().enumerate().map(|(i, value)| turn(value, &format!("messages[{i}]"), ignored));
    let turns = turns.collect::<Result<Vec<_>>>()?;
    let parts = || turns.iter().flat_map(|turn| &turn.parts);
    let n_text: usize = parts().map(|part| if let TurnPart::Text(text) = part { text.len() } else { 0 }).sum();
    let media = parts().filter_map(|part| if let TurnPart::Media(media) = part { Some(media) } else { None });
    let (images, videos): (Vec<_>, Vec<_>) = media.partition(|media| media.named == super::media::Named::Image);
    for (n, most, what) in [
        (parts().count(), MAX_PARTS, "parts"),
        (n_text, MAX_TEXT_BYTES, "bytes of text"),
        (images.len(), MAX_IMAGES, "pictures"),
        (videos.len(), MAX_VIDEOS, "videos"),
    ] {
        if n > most {
            return Err(Fault::value("messages", format!("`messages` have `{n}` {what} together, at most {most}")));
        }
    }
    if turns.last().is_some_and(|turn| turn.role == Role::Assistant) {
        let message = "the last message is the assistant's own: to go on with an answer is not supported";
        return Err(Fault::new(Code::UnsupportedParameter, message).of("messages"));
    }
    Ok(turns)
}

fn turn(value: &Json<'_>, at: &str, ignored: &mut Vec<String>) -> Result<Turn> {
    let (mut role, mut parts) = (None, None);
    for (key, value) in fields::object(value, at)? {
        let here = format!("{at}.{key}");
        match &**key {
            "role" => {
                role = Some(match fields::text(value, &here, 64)? {
                    "system" | "developer" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" | "function" => return Err(unsupported(&here, "tools are not called here")),
                    other => {
                        let message = format!("`{here}` is `{}`, expected system, user or assistant", short(other));
                        return Err(Fault::value(here, message));
                    }
                })
            }
            "content" => parts = Some(content(value, &here)?),
            "tool_calls" | "function_call" if !value.is_empty() => {
                return Err(unsupported(&here, "tools are not called here"));
            }
            "name" | "refusal" | "annotations" | "audio" | "tool_calls" | "function_call" | "reasoning_content" => {}
            other => note(ignored, &format!("{at}.{other}")),
        }
    }
    let role = role.ok_or_else(|| Fault::value(format!("{at}.role"), format!("`{at}.role` is missing")))?;
    let parts = parts.ok_or_else(|| Fault::value(format!("{at}.content"), format!("`{at}.content` is missing")))?;
    if role != Role::User && parts.iter().any(|part| matches!(part, TurnPart::Media(_))) {
        return Err(Fault::value(format!("{at}.content"), "pictures and videos stand in the user's messages"));
    }
    Ok(Turn { role, parts })
}

fn content(value: &Json<'_>, at: &str) -> Result<Vec<TurnPart>> {
    match value {
        // Of an assistant that called a tool, and of nothing else.
        Json::Null => Ok(Vec::new()),
        Json::Text(text) => Ok(vec![TurnPart::Text(text.to_string())]),
        Json::List(items) => {
            if items.len() > MAX_PARTS {
                return Err(Fault::value(at, format!("`{at}` has `{}` parts, at most {MAX_PARTS}", items.len())));
            }
            items.iter().enumerate().map(|(i, item)| part(item, &format!("{at}[{i}]"))).collect()
        }
        other => Err(fields::wrong(other, at, "a string or a list of parts")),
    }
}

fn part(value: &Json<'_>, at: &str) -> Result<TurnPart> {
    if let Json::Text(text) = value {
        return Ok(TurnPart::Text(text.to_string()));
    }
    fields::object(value, at)?;
    let missing = |field: &str| Fault::value(format!("{at}.{field}"), format!("`{at}.{field}` is missing"));
    let name = value.get("type").ok_or_else(|| missing("type"))?;
    match fields::text(name, &format!("{at}.type"), 64)? {
        "text" | "input_text" | "output_text" => {
            let text = value.get("text").ok_or_else(|| missing("text"))?;
            Ok(TurnPart::Text(fields::text(text, &format!("{at}.text"), usize::MAX)?.to_string()))
        }
        name => MediaPart::parse(name, value, at).map(TurnPart::Media),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> Result<ChatRequest> {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}]{fields}}}"#);
        ChatRequest::parse(&Json::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_honoured_is_read() {
        let request = parse(
            r#","model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":5,"max_completion_tokens":7,
            "temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"seed":-3,"stop":["a","b"],"frequency_penalty":1,
            "presence_penalty":-1,"repetition_penalty":1.1,"logit_bias":{"5":-100},"logprobs":true,"top_logprobs":3,
            "response_format":{"type":"json_object"},"ignore_eos":true,"return_progress":true,"cache_prompt":false,
            "media_io_kwargs":{"video":{"num_frames":8}},"mm_processor_kwargs":{"fps":1,"max_pixels":50000},
            "temporal_scale":"retrieval","longtake":{"max_memory":"3G","max_time":"20m","context":4096,"media_order":"as-sent"},
            "user":"u","foo":1,"bar":null"#,
        )
        .unwrap();
        assert!(request.stream && request.include_usage && request.logprobs && request.ignore_eos);
        assert_eq!((request.max_tokens, request.top_logprobs), (Some(7), 3));
        let sampling = &request.sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (Some(0.5), Some(0), Some(-3i64 as u64)));
        assert_eq!((sampling.repeat_penalty, &*sampling.logit_bias), (Some(1.1), &[(5, -100.0)][..]));
        assert_eq!(request.stop, ["a", "b"]);
        let options = serde_json::json!({"nframes": 8, "fps": 1.0, "max_pixels": 50000, "temporal_scale": 0.75});
        assert_eq!(Value::Object(request.video_options), options);
        let own = Own {
            max_memory: Some(3 << 30),
            max_time: Some(1200.0),
            context: Some(4096),
            as_sent: Some(true),
            ..Own::default()
        };
        assert_eq!(request.own, own);
        assert_eq!(request.ignored, ["foo", "bar"]);
        assert_eq!(parse("").unwrap().turns[0].parts, [TurnPart::Text("Hi".into())]);
    }

    /// CVE-2026-34756, CVE-2026-21869, CVE-2025-48944: numbers without bounds, below zero, malformed tools.
    #[test]
    fn what_is_refused_is_named() {
        for (fields, code, param) in [
            (r#""n":2"#, Code::UnsupportedParameter, "n"),
            (r#""n":1e18"#, Code::InvalidValue, "n"),
            (r#""n":-1"#, Code::InvalidValue, "n"),
            (r#""max_tokens":-5"#, Code::InvalidValue, "max_tokens"),
            (r#""max_tokens":0"#, Code::InvalidValue, "max_tokens"),
            (r#""temperature":-0.1"#, Code::InvalidValue, "temperature"),
            (r#""temperature":"hot""#, Code::InvalidValue, "temperature"),
            (r#""top_logprobs":21,"logprobs":true"#, Code::InvalidValue, "top_logprobs"),
            (r#""top_logprobs":2"#, Code::InvalidValue, "top_logprobs"),
            (r#""stop":[""]"#, Code::InvalidValue, "stop[0]"),
            (
                r#""tools":[{"type":"function","function":{"parameters":{"pattern":"("}}}]"#,
                Code::UnsupportedParameter,
                "tools",
            ),
            (r#""tool_choice":"required""#, Code::UnsupportedParameter, "tool_choice"),
            (r#""chat_template":"{{ x }}""#, Code::UnsupportedParameter, "chat_template"),
            (r#""chat_template_kwargs":{"tokenize":false}"#, Code::UnsupportedParameter, "chat_template_kwargs"),
            (r#""grammar":"root ::= x""#, Code::UnsupportedParameter, "grammar"),
            (r#""echo":true"#, Code::UnsupportedParameter, "echo"),
            (r#""modalities":["text","audio"]"#, Code::UnsupportedParameter, "modalities"),
            (r#""longtake":{"contxt":1}"#, Code::UnsupportedParameter, "longtake.contxt"),
            (r#""media_io_kwargs":{"video":{"frames":1}}"#, Code::UnsupportedParameter, "media_io_kwargs.video.frames"),
            (r#""mm_processor_kwargs":{"size":{}}"#, Code::UnsupportedParameter, "mm_processor_kwargs.size"),
            (r#""response_format":{"type":"json_schema"}"#, Code::InvalidSchema, "response_format"),
            (r#""response_format":{"type":"xml"}"#, Code::InvalidValue, "response_format.type"),
            (r#""logit_bias":{"x":1}"#, Code::InvalidValue, "logit_bias.x"),
            (r#""logit_bias":{"1":101}"#, Code::InvalidValue, "logit_bias.1"),
        ] {
            let fault = parse(&format!(",{fields}")).expect_err(fields);
            assert_eq!((fault.code, fault.param.as_deref()), (code, Some(param)), "{fields}: {}", fault.message);
        }
        assert!(parse(r#","tools":[],"tool_choice":"none","chat_template_kwargs":{},"n":1,"echo":false"#).is_ok());
        let many =
            format!(r#","logit_bias":{{{}}}"#, (0..1025).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(","));
        assert_eq!(parse(&many).unwrap_err().param.as_deref(), Some("logit_bias"));
    }

    #[test]
    fn messages_are_checked_by_place() {
        let of = |messages: &str| {
            ChatRequest::parse(&Json::parse(format!(r#"{{"messages":{messages}}}"#).as_bytes()).unwrap())
        };
        for (messages, param) in [
            ("[]", "messages"),
            ("3", "messages"),
            ("[3]", "messages[0]"),
            (r#"[{"role":"user"}]"#, "messages[0].content"),
            (r#"[{"content":"x"}]"#, "messages[0].role"),
            (r#"[{"role":"wizard","content":"x"}]"#, "messages[0].role"),
            (r#"[{"role":"tool","content":"x"}]"#, "messages[0].role"),
            (r#"[{"role":"user","content":[{"type":"sound"}]}]"#, "messages[0].content[0].type"),
            (r#"[{"role":"user","content":[{"text":"x"}]}]"#, "messages[0].content[0].type"),
            (r#"[{"role":"user","content":[{"type":"text"}]}]"#, "messages[0].content[0].text"),
            (r#"[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]"#, "messages"),
            (
                r#"[{"role":"system","content":[{"type":"image_url","image_url":"data:;base64,AAEC"}]}]"#,
                "messages[0].content",
            ),
        ] {
            assert_eq!(of(messages).expect_err(messages).param.as_deref(), Some(param), "{messages}");
        }
        let parts = vec![r#"{"type":"text","text":"x"}"#; MAX_PARTS + 1].join(",");
        assert!(of(&format!(r#"[{{"role":"user","content":[{parts}]}}]"#)).is_err());
        let pictures = vec![r#"{"type":"image_url","image_url":"data:;base64,AAEC"}"#; MAX_IMAGES + 1].join(",");
        let fault = of(&format!(r#"[{{"role":"user","content":[{pictures}]}}]"#)).unwrap_err();
        assert!(fault.message.contains("65"));
        let fine = r#"[{"role":"developer","content":"a","name":"n"},{"role":"user","content":["b",{"type":"input_text","text":"c"}],"mood":1}]"#;
        let request = of(fine).unwrap();
        assert_eq!(request.ignored, ["messages[1].mood"]);
        assert_eq!(request.turns[0].role, Role::System);
    }
}
