//! Messages: who says what.

use super::chat::{note, unsupported};
use super::{Fault, Json, MediaPart, fields, short};
use crate::server::limits::{MAX_IMAGES, MAX_MESSAGES, MAX_PARTS, MAX_TEXT_BYTES, MAX_VIDEOS};
use crate::text::message::Call;

type Result<T> = std::result::Result<T, Fault>;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub role: Role,
    pub parts: Vec<TurnPart>,
    /// Tools that an answer called.
    pub calls: Vec<Call>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    /// What a tool gave.
    Tool,
}

impl Role {
    /// As templates spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TurnPart {
    Text(String),
    Media(MediaPart),
}

/// Reads `messages`.
pub(super) fn turns(value: &Json<'_>, ignored: &mut Vec<String>) -> Result<Vec<Turn>> {
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
        return Err(Fault::new(super::Code::UnsupportedParameter, message).of("messages"));
    }
    Ok(turns)
}

fn turn(value: &Json<'_>, at: &str, ignored: &mut Vec<String>) -> Result<Turn> {
    let (mut role, mut parts, mut calls) = (None, None, Vec::new());
    for (key, value) in fields::object(value, at)? {
        let here = format!("{at}.{key}");
        match &**key {
            "role" => {
                role = Some(match fields::text(value, &here, 64)? {
                    "system" | "developer" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" => Role::Tool,
                    "function" => {
                        return Err(unsupported(&here, "functions are `tools` here, and their answers of role tool"));
                    }
                    other => {
                        let message =
                            format!("`{here}` is `{}`, expected system, user, assistant or tool", short(other));
                        return Err(Fault::value(here, message));
                    }
                })
            }
            "content" => parts = Some(content(value, &here)?),
            "tool_calls" if *value != Json::Null => calls = super::tools::calls(value, &here)?,
            "function_call" if !value.is_empty() => {
                return Err(unsupported(&here, "functions are `tools` here"));
            }
            "tool_call_id" | "name" | "refusal" | "annotations" | "audio" | "tool_calls" | "function_call"
            | "reasoning_content" => {}
            other => note(ignored, &format!("{at}.{other}")),
        }
    }
    let role = role.ok_or_else(|| Fault::value(format!("{at}.role"), format!("`{at}.role` is missing")))?;
    if !calls.is_empty() && role != Role::Assistant {
        return Err(Fault::value(format!("{at}.tool_calls"), "tools are called by the assistant"));
    }
    // A call may stand alone.
    let parts = parts
        .or_else(|| (!calls.is_empty()).then(Vec::new))
        .ok_or_else(|| Fault::value(format!("{at}.content"), format!("`{at}.content` is missing")))?;
    if role != Role::User && parts.iter().any(|part| matches!(part, TurnPart::Media(_))) {
        return Err(Fault::value(format!("{at}.content"), "pictures and videos stand in the user's messages"));
    }
    Ok(Turn { role, parts, calls })
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
    use super::super::ChatRequest;
    use super::*;

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
            (r#"[{"role":"function","content":"x"}]"#, "messages[0].role"),
            (
                r#"[{"role":"assistant","tool_calls":[{"function":{"name":"a","arguments":"["}}]}]"#,
                "messages[0].tool_calls[0].function.arguments",
            ),
            (r#"[{"role":"user","tool_calls":[{"function":{"name":"a"}}]}]"#, "messages[0].tool_calls"),
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
