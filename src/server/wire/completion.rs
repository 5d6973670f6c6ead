//! A request of the older API for the text after a prompt: read as a chat request whose only message is the prompt.

use std::borrow::Cow;

use super::chat::unsupported;
use super::{ChatRequest, Fault, Json, fields};
use crate::server::limits::{MAX_TEXT_BYTES, MAX_TOP_LOGPROBS};

type Result<T> = std::result::Result<T, Fault>;

/// Fields of its own, and those of chat requests that mean the same, beside sampling and forms.
#[cfg(test)]
pub(crate) const FIELDS: [&str; 16] = [
    "prompt",
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "stop",
    "logprobs",
    "ignore_eos",
    "return_progress",
    "cache_prompt",
    "longtake",
    "n",
    "best_of",
    "echo",
    "suffix",
    "user",
];

impl ChatRequest {
    /// Reads the body of a request to `/v1/completions`.
    ///
    /// # Errors
    /// What is wrong with the first field that is; no prompt, or several.
    pub(crate) fn parse_completion(body: &Json<'_>) -> Result<ChatRequest> {
        let (mut inner, mut prompt, mut ignored) = (Vec::new(), None, Vec::new());
        for (key, value) in fields::object(body, "body")? {
            let at: &str = key;
            match at {
                "prompt" => prompt = Some(text(value)?),
                "logprobs" if *value != Json::Null => {
                    let n = match value {
                        // As chat requests have it.
                        Json::Bool(wants) => i64::from(*wants) - 1,
                        _ => fields::count(value, at, (0, MAX_TOP_LOGPROBS as i64))?,
                    };
                    inner.push((Cow::from("logprobs"), Json::Bool(n >= 0)));
                    inner.push((Cow::from("top_logprobs"), Json::Number(n.max(0).into())));
                }
                "best_of" if *value != Json::Null => {
                    if fields::count(value, at, (1, 1 << 40))? != 1 {
                        return Err(unsupported(at, "one answer at a time is given: ask again for another"));
                    }
                }
                "suffix" if value.as_text().is_none_or(|text| !text.is_empty()) && !value.is_empty() => {
                    return Err(unsupported(at, "text is only written at the end of a prompt"));
                }
                "suffix" | "best_of" => {}
                "messages" | "tools" | "tool_choice" | "top_logprobs" => ignored.push(at.to_string()),
                _ => inner.push((key.clone(), value.clone())),
            }
        }
        let prompt = prompt.ok_or_else(|| Fault::value("prompt", "`prompt` is missing"))?;
        let message = vec![
            (Cow::from("role"), Json::Text(Cow::from("user"))),
            (Cow::from("content"), Json::Text(Cow::from(prompt))),
        ];
        inner.push((Cow::from("messages"), Json::List(vec![Json::Object(message)])));
        let mut request = ChatRequest::parse(&Json::Object(inner)).map_err(|fault| match fault.param.as_deref() {
            Some(param) if param.starts_with("messages") => fault.of("prompt"),
            _ => fault,
        })?;
        request.is_raw = true;
        request.ignored.extend(ignored);
        Ok(request)
    }
}

/// The one prompt, which may stand in a list.
fn text<'j>(value: &'j Json<'_>) -> Result<&'j str> {
    match value {
        Json::List(items) if items.len() == 1 && items[0].as_text().is_some() => text(&items[0]),
        Json::List(_) => Err(unsupported("prompt", "one prompt of text at a time is answered")),
        _ => fields::text(value, "prompt", MAX_TEXT_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::wire::{Code, TurnPart};

    #[test]
    fn a_prompt_is_read_as_it_stands() {
        let of = |body: &str| ChatRequest::parse_completion(&Json::parse(body.as_bytes()).unwrap());
        let request =
            of(r#"{"prompt":["<|im_start|>x"],"logprobs":2,"max_tokens":5,"suffix":"","echo":false,"mood":1}"#)
                .unwrap();
        assert!(request.is_raw && request.logprobs);
        assert_eq!((request.top_logprobs, request.max_tokens), (2, Some(5)));
        assert_eq!(request.turns[0].parts, [TurnPart::Text("<|im_start|>x".into())]);
        assert_eq!(request.ignored, ["mood"]);
        for (body, code, param) in [
            ("{}", Code::InvalidValue, "prompt"),
            (r#"{"prompt":3}"#, Code::InvalidValue, "prompt"),
            (r#"{"prompt":["a","b"]}"#, Code::UnsupportedParameter, "prompt"),
            (r#"{"prompt":[1,2]}"#, Code::UnsupportedParameter, "prompt"),
            (r#"{"prompt":"a","suffix":"b"}"#, Code::UnsupportedParameter, "suffix"),
            (r#"{"prompt":"a","echo":true}"#, Code::UnsupportedParameter, "echo"),
            (r#"{"prompt":"a","best_of":2}"#, Code::UnsupportedParameter, "best_of"),
            (r#"{"prompt":"a","logprobs":21}"#, Code::InvalidValue, "logprobs"),
        ] {
            let fault = of(body).expect_err(body);
            assert_eq!((fault.code, fault.param.as_deref()), (code, Some(param)), "{body}");
        }
    }
}
