//! A request of the Responses API, as far as it needs nothing that was kept: read as the chat request that means the same.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::chat::unsupported;
use super::{ChatRequest, Fault, Json, fields, short};

type Result<T> = std::result::Result<T, Fault>;

/// A checked request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResponseRequest {
    pub chat: ChatRequest,
    /// What the answer repeats of it.
    pub told: Value,
}

/// Fields that are honoured, beside those of sampling.
#[cfg(test)]
pub(crate) const FIELDS: [&str; 16] = [
    "input",
    "model",
    "instructions",
    "stream",
    "stream_options",
    "max_output_tokens",
    "text",
    "top_logprobs",
    "include",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "metadata",
    "store",
    "truncation",
    "longtake",
];

/// Fields that would need what is not kept here, or what is not done here: refused unless they say nothing.
const REFUSED: [&str; 6] =
    ["previous_response_id", "conversation", "background", "prompt", "context_management", "max_tool_calls"];

/// An object of JSON in the making.
fn object<'a>(fields: impl IntoIterator<Item = (&'static str, Json<'a>)>) -> Json<'a> {
    Json::Object(fields.into_iter().map(|(name, value)| (Cow::from(name), value)).collect())
}

fn word<'a>(text: &'static str) -> Json<'a> {
    Json::Text(Cow::from(text))
}

impl ResponseRequest {
    /// Reads the body of a request to `/v1/responses`.
    ///
    /// # Errors
    /// What is wrong with the first field that is; no input.
    pub(crate) fn parse(body: &Json<'_>) -> Result<ResponseRequest> {
        let (mut inner, mut messages, mut instructions) = (Vec::new(), None, None);
        let mut told = json!({
            "instructions": null, "max_output_tokens": null, "metadata": {}, "parallel_tool_calls": true,
            "previous_response_id": null, "reasoning": { "effort": null, "summary": null }, "store": false,
            "temperature": null, "text": { "format": { "type": "text" } }, "tool_choice": "auto", "tools": [],
            "top_logprobs": 0, "top_p": null, "truncation": "disabled", "background": false, "user": null,
        });
        for (key, value) in fields::object(body, "body")? {
            let at: &str = key;
            if *value == Json::Null {
                continue;
            }
            match at {
                "input" => messages = Some(input(value)?),
                "instructions" => {
                    instructions = Some(fields::text(value, at, usize::MAX)?.to_string());
                    told[at] = value.to_value();
                }
                "max_output_tokens" => {
                    inner.push((Cow::from("max_completion_tokens"), value.clone()));
                    told[at] = value.to_value();
                }
                "text" => {
                    for (key, value) in fields::object(value, at)? {
                        match &**key {
                            "format" => inner.push((Cow::from("response_format"), value.clone())),
                            "verbosity" => {}
                            other => return Err(fields::unknown(at, other)),
                        }
                    }
                    if let Some(format) = value.get("format") {
                        told["text"]["format"] = format.to_value();
                    }
                }
                "top_logprobs" => {
                    inner.push((Cow::from("logprobs"), Json::Bool(true)));
                    inner.push((key.clone(), value.clone()));
                    told[at] = value.to_value();
                }
                // Of all that may be included, likelihoods are what there is.
                "include" => {
                    let wants = fields::list(value, at)?
                        .iter()
                        .any(|item| item.as_text() == Some("message.output_text.logprobs"));
                    if wants && body.get("top_logprobs").is_none() {
                        inner.push((Cow::from("logprobs"), Json::Bool(true)));
                    }
                }
                "truncation" if value.as_text() != Some("disabled") => {
                    return Err(unsupported(at, "nothing is left out of an input; say less, or set a larger context"));
                }
                "metadata" => {
                    fields::object(value, at)?;
                    told[at] = value.to_value();
                }
                "temperature" | "top_p" => {
                    inner.push((key.clone(), value.clone()));
                    told[at] = value.to_value();
                }
                "tools" => {
                    inner.push((Cow::from("tools"), Json::List(fields::list(value, at)?.iter().map(tool).collect())));
                    told[at] = value.to_value();
                }
                "tool_choice" | "parallel_tool_calls" => {
                    inner.push((key.clone(), value.clone()));
                    told[at] = value.to_value();
                }
                "reasoning" | "store" | "truncation" | "user" => {}
                refused if REFUSED.contains(&refused) => {
                    if !value.is_empty() {
                        return Err(unsupported(
                            refused,
                            "nothing is kept between requests: send the whole conversation",
                        ));
                    }
                }
                // What belongs to another API is not known here.
                "messages" | "max_tokens" | "max_completion_tokens" | "response_format" | "logprobs" => {
                    inner.push((Cow::from(format!("body.{at}")), value.clone()));
                }
                _ => inner.push((key.clone(), value.clone())),
            }
        }
        let (mut messages, places) = messages.ok_or_else(|| Fault::value("input", "`input` is missing"))?;
        let has_instructions = instructions.is_some();
        if let Some(text) = instructions {
            messages.insert(0, object([("role", word("system")), ("content", Json::Text(Cow::from(text)))]));
        }
        inner.push((Cow::from("messages"), Json::List(messages)));
        let chat =
            ChatRequest::parse(&Json::Object(inner)).map_err(|fault| rename(fault, has_instructions, &places))?;
        Ok(ResponseRequest { chat, told })
    }
}

/// Which items a message is made of: the first, and the one of its first call.
struct Place {
    item: usize,
    call: usize,
}

/// A complaint in the words of this API.
fn rename(fault: Fault, has_instructions: bool, places: &[Place]) -> Fault {
    let Some(param) = fault.param.clone() else { return fault };
    let named = match param.strip_prefix("messages") {
        Some(rest) => match indexed(rest) {
            Some((0, _)) if has_instructions => "instructions".to_string(),
            Some((i, rest)) => {
                match (places.get(i - usize::from(has_instructions)), rest.strip_prefix(".tool_calls")) {
                    (Some(place), Some(of_calls)) => match indexed(of_calls) {
                        Some((k, rest)) => format!("input[{}]{}", place.call + k, flat(rest)),
                        None => format!("input[{}]", place.call),
                    },
                    (Some(place), None) => format!("input[{}]{rest}", place.item),
                    (None, _) => "input".to_string(),
                }
            }
            None => format!("input{rest}"),
        },
        None if param.starts_with("tools[") => flat(&param),
        None if param.starts_with("response_format") => param.replacen("response_format", "text.format", 1),
        None if param == "max_completion_tokens" => "max_output_tokens".to_string(),
        None => return fault,
    };
    Fault { message: fault.message.replace(&param, &named), ..fault }.of(named)
}

/// The number in front, and what is behind it.
fn indexed(path: &str) -> Option<(usize, &str)> {
    let (i, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((i.parse().ok()?, rest))
}

/// Functions are flat here.
fn flat(path: &str) -> String {
    path.replacen(".function", "", 1)
}

/// The messages of an input: a text, or a list of items. Calls belong to the message of the model in front of them.
fn input<'a>(value: &Json<'a>) -> Result<(Vec<Json<'a>>, Vec<Place>)> {
    if let Json::Text(_) = value {
        let message = object([("role", word("user")), ("content", value.clone())]);
        return Ok((vec![message], vec![Place { item: 0, call: 0 }]));
    }
    let (mut messages, mut places) = (Vec::new(), Vec::new());
    for (i, item) in fields::list(value, "input")?.iter().enumerate() {
        if item.get("type").and_then(Json::as_text) != Some("function_call") {
            messages.push(message(item, &format!("input[{i}]"))?);
            places.push(Place { item: i, call: i + 1 });
            continue;
        }
        let call = call(item, &format!("input[{i}]"))?;
        match messages.last_mut() {
            Some(Json::Object(before))
                if before.iter().any(|(name, value)| name == "role" && value.as_text() == Some("assistant")) =>
            {
                match before.iter_mut().find(|(name, _)| name == "tool_calls") {
                    Some((_, Json::List(calls))) => calls.push(call),
                    _ => before.push((Cow::from("tool_calls"), Json::List(vec![call]))),
                }
            }
            _ => {
                messages.push(object([("role", word("assistant")), ("tool_calls", Json::List(vec![call]))]));
                places.push(Place { item: i, call: i });
            }
        }
    }
    Ok((messages, places))
}

/// A call of a tool, as chat messages have it.
fn call<'a>(item: &Json<'a>, at: &str) -> Result<Json<'a>> {
    let given = fields::object(item, at)?.iter();
    let function = given.filter(|(name, _)| name == "name" || name == "arguments").cloned();
    Ok(object([("type", word("function")), ("function", Json::Object(function.collect()))]))
}

/// A tool, flat here, as chat requests have it.
fn tool<'a>(item: &Json<'a>) -> Json<'a> {
    let Json::Object(given) = item else { return item.clone() };
    let (kind, function): (Vec<_>, Vec<_>) = given.iter().cloned().partition(|(name, _)| name == "type");
    Json::Object(kind.into_iter().chain([(Cow::from("function"), Json::Object(function))]).collect())
}

/// An item as a message.
fn message<'a>(item: &Json<'a>, at: &str) -> Result<Json<'a>> {
    let given = fields::object(item, at)?;
    match item.get("type").and_then(Json::as_text) {
        None | Some("message") => {
            // What an earlier answer says of itself is no news.
            let told = ["type", "id", "status"];
            Ok(Json::Object(given.iter().filter(|(name, _)| !told.contains(&&**name)).cloned().collect()))
        }
        Some("function_call_output") => {
            let output = item.get("output").cloned().unwrap_or(Json::Null);
            Ok(object([("role", word("tool")), ("content", output)]))
        }
        Some(other) => {
            let message = format!("an item of type `{}` is not understood here, expected message", short(other));
            Err(Fault::new(super::Code::UnsupportedContentPart, message).of(format!("{at}.type")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::wire::turn::Role;
    use crate::server::wire::{Code, TurnPart};
    use crate::text::Form;

    #[test]
    fn an_input_is_a_conversation() {
        let of = |body: &str| ResponseRequest::parse(&Json::parse(body.as_bytes()).unwrap());
        let request = of(
            r#"{"model":"m","instructions":"Be brief.","input":[
                {"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"data:;base64,AAEC"}]},
                {"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"b","annotations":[]}]},
                {"role":"user","content":"c"}],
            "max_output_tokens":9,"temperature":0.5,"text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}}},
            "store":true,"metadata":{"k":"v"},"previous_response_id":null,"reasoning":{"effort":"low"}}"#,
        )
        .unwrap();
        let chat = &request.chat;
        let roles: Vec<Role> = chat.turns.iter().map(|turn| turn.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
        assert_eq!(chat.turns[2].parts, [TurnPart::Text("b".into())]);
        assert_eq!((chat.max_tokens, chat.sampling.temperature), (Some(9), Some(0.5)));
        assert!(matches!(&chat.form, Some((Form::Schema(_), "response_format"))));
        assert_eq!((&request.told["metadata"]["k"], &request.told["store"]), (&json!("v"), &json!(false)));
        assert_eq!(of(r#"{"input":"x"}"#).unwrap().chat.turns.len(), 1);
        for (body, code, param) in [
            ("{}", Code::InvalidValue, "input"),
            (r#"{"input":[]}"#, Code::InvalidValue, "input"),
            (
                r#"{"input":[{"role":"user","content":[{"type":"sound"}]}]}"#,
                Code::UnsupportedContentPart,
                "input[0].content[0].type",
            ),
            (r#"{"instructions":"i","input":[{"role":"wizard","content":"x"}]}"#, Code::InvalidValue, "input[0].role"),
            (r#"{"input":[{"type":"reasoning"}]}"#, Code::UnsupportedContentPart, "input[0].type"),
            (r#"{"input":"x","previous_response_id":"resp_1"}"#, Code::UnsupportedParameter, "previous_response_id"),
            (r#"{"input":"x","background":true}"#, Code::UnsupportedParameter, "background"),
            (r#"{"input":"x","truncation":"auto"}"#, Code::UnsupportedParameter, "truncation"),
            (r#"{"input":"x","max_output_tokens":0}"#, Code::InvalidValue, "max_output_tokens"),
            (r#"{"input":"x","text":{"format":{"type":"xml"}}}"#, Code::InvalidValue, "text.format.type"),
        ] {
            let fault = of(body).expect_err(body);
            assert_eq!((fault.code, fault.param.as_deref()), (code, Some(param)), "{body}");
        }
    }
}
