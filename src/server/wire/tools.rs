//! Tools that an answer may call, and calls that earlier answers made.

use std::collections::HashSet;

use serde_json::{Map, json};

use super::chat::unsupported;
use super::{Code, Fault, Json, fields, short};
use crate::server::limits::{MAX_TOOL_BYTES, MAX_TOOLS};
use crate::text::message::Call;
use crate::text::tools::{Choice, MAX_NAME_BYTES, Tool};

type Result<T> = std::result::Result<T, Fault>;

/// What a request says of tools.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tools {
    pub list: Vec<Tool>,
    /// None: they are told of, and not called.
    pub choice: Option<Choice>,
    pub is_parallel: bool,
}

impl Default for Tools {
    fn default() -> Tools {
        Tools { list: Vec::new(), choice: Some(Choice::Auto), is_parallel: true }
    }
}

/// A name as functions have it.
fn name(value: Option<&Json<'_>>, at: &str) -> Result<String> {
    let value = value.ok_or_else(|| Fault::value(at, format!("`{at}` is missing")))?;
    let name = fields::text(value, at, MAX_NAME_BYTES)?;
    let is_good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    match is_good {
        true => Ok(name.to_string()),
        false => Err(Fault::value(at, format!("`{at}` is `{}`, expected letters, digits, _, - and .", short(name)))),
    }
}

/// Reads `tools`, as chat requests have them.
pub(super) fn list(value: &Json<'_>) -> Result<Vec<Tool>> {
    let items = fields::list(value, "tools")?;
    if items.len() > MAX_TOOLS {
        return Err(Fault::value("tools", format!("`tools` has `{}` items, at most {MAX_TOOLS}", items.len())));
    }
    let tools =
        items.iter().enumerate().map(|(i, item)| tool(item, &format!("tools[{i}]"))).collect::<Result<Vec<_>>>()?;
    let mut names = HashSet::new();
    if let Some(twice) = tools.iter().find(|tool| !names.insert(&*tool.name)) {
        return Err(Fault::value("tools", format!("two tools are called `{}`", twice.name)));
    }
    let n_bytes: usize = tools.iter().map(|tool| tool.told.to_string().len()).sum();
    if n_bytes > MAX_TOOL_BYTES {
        return Err(Fault::value("tools", format!("`tools` have `{n_bytes}` bytes, at most {MAX_TOOL_BYTES}")));
    }
    Ok(tools)
}

fn tool(item: &Json<'_>, at: &str) -> Result<Tool> {
    fields::object(item, at)?;
    match item.get("type").and_then(Json::as_text) {
        Some("function") | None => {}
        Some(other) => {
            let at = format!("{at}.type");
            return Err(unsupported(&at, &format!("a tool of type `{}`, expected function", short(other))));
        }
    }
    let at = format!("{at}.function");
    let function = item.get("function").ok_or_else(|| Fault::value(&at, format!("`{at}` is missing")))?;
    fields::object(function, &at)?;
    let name = name(function.get("name"), &format!("{at}.name"))?;
    let parameters = match function.get("parameters") {
        None => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        Some(schema @ Json::Object(_)) => schema.to_value(),
        Some(_) => {
            return Err(Fault::new(Code::InvalidSchema, format!("`{at}.parameters` is no object"))
                .of(format!("{at}.parameters")));
        }
    };
    let mut parameters = parameters;
    if let Some(fields) = parameters.as_object_mut() {
        // Arguments are an object, whatever else is said of them.
        fields.insert("type".to_string(), "object".into());
    }
    // What the template is told, in the order in which it was trained to read it.
    let mut told = Map::new();
    told.insert("name".to_string(), name.as_str().into());
    if let Some(description) = function.get("description") {
        told.insert(
            "description".to_string(),
            fields::text(description, &format!("{at}.description"), usize::MAX)?.into(),
        );
    }
    told.insert("parameters".to_string(), parameters.clone());
    Ok(Tool { name, parameters, told: json!({ "type": "function", "function": told }) })
}

/// Reads `tool_choice`.
pub(super) fn choice(value: &Json<'_>) -> Result<Option<Choice>> {
    let at = "tool_choice";
    match value {
        Json::Text(word) => match &**word {
            "none" => Ok(None),
            "auto" => Ok(Some(Choice::Auto)),
            "required" => Ok(Some(Choice::Required)),
            other => {
                let message = format!("`{at}` is `{}`, expected none, auto, required or a function", short(other));
                Err(Fault::value(at, message))
            }
        },
        Json::Object(_) => {
            let function = value.get("function").unwrap_or(value);
            Ok(Some(Choice::Named(name(function.get("name"), "tool_choice.function.name")?)))
        }
        other => Err(fields::wrong(other, at, "a word or a function")),
    }
}

/// Reads the `tool_calls` of an assistant's message.
pub(super) fn calls(value: &Json<'_>, at: &str) -> Result<Vec<Call>> {
    let items = fields::list(value, at)?;
    if items.len() > MAX_TOOLS {
        return Err(Fault::value(at, format!("`{at}` has `{}` items, at most {MAX_TOOLS}", items.len())));
    }
    let one = |(i, item): (usize, &Json<'_>)| {
        let at = format!("{at}[{i}].function");
        let function = item.get("function").ok_or_else(|| Fault::value(&at, format!("`{at}` is missing")))?;
        let name = name(function.get("name"), &format!("{at}.name"))?;
        let at = format!("{at}.arguments");
        let arguments = match function.get("arguments") {
            None => json!({}),
            Some(Json::Text(text)) if text.trim().is_empty() => json!({}),
            Some(Json::Text(text)) => Json::parse(text.as_bytes())
                .map(|json| json.to_value())
                .map_err(|_| Fault::value(&at, format!("`{at}` is no JSON")))?,
            Some(other) => other.to_value(),
        };
        match arguments.is_object() {
            true => Ok(Call { name, arguments }),
            false => Err(Fault::value(&at, format!("`{at}` is no object of JSON"))),
        }
    };
    items.iter().enumerate().map(one).collect()
}
