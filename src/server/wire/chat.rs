//! A request for an answer: what is honoured, what is ignored, what is refused. Ranges are checked before anything is reserved.

use serde_json::{Map, Value};

use super::media::option;
use super::sampling::stops;
use super::turn::turns;
use super::{Code, Fault, Json, Sampling, Tools, Turn, fields, form, short, tools};
use crate::server::limits::MAX_TOP_LOGPROBS;
use crate::text::Form;
use crate::text::tools::Choice;

type Result<T> = std::result::Result<T, Fault>;

/// A checked request.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ChatRequest {
    pub model: Option<String>,
    pub turns: Vec<Turn>,
    /// The text of the only turn is the whole prompt, and no template is laid around it.
    pub is_raw: bool,
    pub stream: bool,
    pub include_usage: bool,
    pub max_tokens: Option<usize>,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub logprobs: bool,
    pub top_logprobs: usize,
    /// The form that the answer has to have, and the field that says so.
    pub form: Option<(Form, &'static str)>,
    pub ignore_eos: bool,
    pub return_progress: bool,
    pub cache_prompt: bool,
    pub timings_per_token: bool,
    pub tools: Tools,
    /// Options for all videos, which parts override.
    pub video_options: Map<String, Value>,
    pub temporal_scale: Option<f64>,
    pub own: Own,
    /// Fields that are not known, by name.
    pub ignored: Vec<String>,
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
    /// Whether it is told where the answer looked.
    pub looks: bool,
}

impl Default for Own {
    fn default() -> Own {
        let (keep_alive, wait, looks) = (true, true, false);
        Own { max_memory: None, max_time: None, context: None, as_sent: None, keep_alive, wait, looks }
    }
}

/// Fields that do what they say, beside those of [`Sampling::FIELDS`] and [`form::FIELDS`].
pub(crate) const HONOURED: [&str; 22] = [
    "messages",
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "logprobs",
    "top_logprobs",
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
    "tools",
    "tool_choice",
    "parallel_tool_calls",
];

/// Fields that change nothing here and are known.
pub(crate) const HARMLESS: [&str; 17] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
    "reasoning_effort",
    "id_slot",
    "priority",
    "request_id",
    "session_id",
    "cache_salt",
    "add_generation_prompt",
    "skip_special_tokens",
    "sse_ping_interval",
];

/// Fields that would change the answer in a way that is not offered: refused unless they say nothing.
pub(crate) const REFUSED: [&str; 15] = [
    "functions",
    "function_call",
    "audio",
    "prediction",
    "web_search_options",
    "chat_template",
    "chat_template_kwargs",
    "echo",
    "prompt_logprobs",
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
                "tools" => request.tools.list = tools::list(value)?,
                "tool_choice" => request.tools.choice = tools::choice(value)?,
                "parallel_tool_calls" => request.tools.is_parallel = fields::flag(value, at)?,
                _ if request.sampling.field(at, value)? => {}
                _ if request.form(at, value)? => {}
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
        request.check_tools()?;
        if let (true, Some((_, field))) = (request.ignore_eos, &request.form) {
            let message = format!("`ignore_eos` and `{field}` exclude each other: a form says where the answer ends");
            return Err(Fault::value("ignore_eos", message));
        }
        request.max_tokens = max_new.or(max_old);
        let messages = messages.ok_or_else(|| Fault::value("messages", "`messages` is missing"))?;
        request.turns = turns(messages, &mut request.ignored)?;
        if let Some(scale) = request.temporal_scale {
            request.video_options.entry("temporal_scale").or_insert(scale.into());
        }
        Ok(request)
    }

    /// Whether tools may be called.
    pub(crate) fn calls_tools(&self) -> bool {
        !self.tools.list.is_empty() && self.tools.choice.is_some()
    }

    /// # Errors
    /// A choice of a tool that is not there; what a call excludes.
    fn check_tools(&self) -> Result<()> {
        let Tools { list, choice, .. } = &self.tools;
        let is_there = match choice {
            None | Some(Choice::Auto) => true,
            Some(Choice::Required) => !list.is_empty(),
            Some(Choice::Named(name)) => list.iter().any(|tool| tool.name == *name),
        };
        if !is_there {
            return Err(Fault::value("tool_choice", "`tool_choice` demands a tool that is not among `tools`"));
        }
        if let (true, Some((_, field))) = (self.calls_tools(), &self.form) {
            let message =
                format!("`tools` and `{field}` exclude each other: pass `tool_choice`: \"none\" for the form");
            return Err(Fault::value(*field, message));
        }
        if self.calls_tools() && self.ignore_eos {
            return Err(Fault::value("ignore_eos", "`ignore_eos` and `tools` exclude each other: calls end an answer"));
        }
        Ok(())
    }

    /// Takes a field if it says the form of the answer.
    fn form(&mut self, at: &str, value: &Json<'_>) -> Result<bool> {
        let Some(field) = form::FIELDS.into_iter().find(|field| *field == at) else { return Ok(false) };
        if let Some(form) = form::form(field, value)? {
            if let Some((_, other)) = self.form {
                let message = format!("`{other}` and `{field}` demand two forms, expected one");
                return Err(Fault::value(field, message));
            }
            self.form = Some((form, field));
        }
        Ok(true)
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
pub(super) fn note(ignored: &mut Vec<String>, name: &str) {
    const MOST: usize = 32;
    if ignored.len() < MOST {
        ignored.push(short(name));
    }
}

/// Whether null stands for the default of a field.
fn is_known(name: &str) -> bool {
    [&HONOURED[..], &Sampling::FIELDS, &form::FIELDS, &HARMLESS, &REFUSED].concat().contains(&name)
}

/// The refusal of something that is not offered.
pub(super) fn unsupported(param: &str, why: &str) -> Fault {
    Fault::new(Code::UnsupportedParameter, format!("`{param}` is not supported: {why}")).of(param)
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
            "where" => own.looks = fields::flag(value, &at)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::wire::TurnPart;

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
            "response_format":{"type":"text"},"ignore_eos":true,"return_progress":true,"cache_prompt":false,
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
        assert_eq!((request.ignored, request.form), (vec!["foo".to_string(), "bar".to_string()], None));
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
                Code::InvalidValue,
                "tools[0].function.name",
            ),
            (r#""tools":[{"type":"retrieval"}]"#, Code::UnsupportedParameter, "tools[0].type"),
            (r#""tools":[{"function":{"name":"a b"}}]"#, Code::InvalidValue, "tools[0].function.name"),
            (r#""tools":[{"function":{"name":"a"}},{"function":{"name":"a"}}]"#, Code::InvalidValue, "tools"),
            (
                r#""tools":[{"function":{"name":"a","parameters":[]}}]"#,
                Code::InvalidSchema,
                "tools[0].function.parameters",
            ),
            (
                r#""tools":[{"function":{"name":"a"}}],"response_format":{"type":"json_object"}"#,
                Code::InvalidValue,
                "response_format",
            ),
            (
                r#""tools":[{"function":{"name":"a"}}],"tool_choice":{"function":{"name":"b"}}"#,
                Code::InvalidValue,
                "tool_choice",
            ),
            (r#""tool_choice":"required""#, Code::InvalidValue, "tool_choice"),
            (r#""tool_choice":"perhaps""#, Code::InvalidValue, "tool_choice"),
            (r#""chat_template":"{{ x }}""#, Code::UnsupportedParameter, "chat_template"),
            (r#""chat_template_kwargs":{"tokenize":false}"#, Code::UnsupportedParameter, "chat_template_kwargs"),
            (r#""grammar":3"#, Code::InvalidValue, "grammar"),
            (r#""grammar":"a","guided_regex":"b""#, Code::InvalidValue, "guided_regex"),
            (r#""grammar":"a","ignore_eos":true"#, Code::InvalidValue, "ignore_eos"),
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
}
