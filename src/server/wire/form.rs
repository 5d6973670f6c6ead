//! The form that an answer has to have, in OpenAI's words, llama.cpp's and vLLM's.

use serde_json::Value;

use super::{Code, Fault, Json, fields, short};
use crate::text::Form;
use crate::text::guide::MAX_FORM_BYTES;

type Result<T> = std::result::Result<T, Fault>;

/// The fields that demand a form; a request has one of them at most.
pub(crate) const FIELDS: [&str; 8] = [
    "response_format",
    "json_schema",
    "grammar",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
];

/// The fields of `structured_outputs`, and what each is called alone.
const STRUCTURED: [(&str, &str); 4] =
    [("json", "guided_json"), ("regex", "guided_regex"), ("choice", "guided_choice"), ("grammar", "guided_grammar")];

/// Reads one of [`FIELDS`]; nothing where any text is good.
///
/// # Errors
/// What is wrong with it, by its path.
pub(super) fn form(at: &str, value: &Json<'_>) -> Result<Option<Form>> {
    Ok(Some(match at {
        "response_format" => return response_format(value),
        "json_schema" | "guided_json" => Form::Schema(schema(Some(value), at)?),
        "grammar" | "guided_grammar" => Form::Grammar(words(value, at)?),
        "guided_regex" => Form::Regex(words(value, at)?),
        "guided_choice" => {
            let one = |(i, item): (usize, &Json<'_>)| words(item, &format!("{at}[{i}]"));
            let list = fields::list(value, at)?;
            if list.is_empty() {
                return Err(Fault::value(at, format!("`{at}` is empty, expected at least one string")));
            }
            Form::Choice(list.iter().enumerate().map(one).collect::<Result<_>>()?)
        }
        _ => return structured(value, at),
    }))
}

/// A grammar or an expression.
fn words(value: &Json<'_>, at: &str) -> Result<String> {
    Ok(fields::text(value, at, MAX_FORM_BYTES)?.to_string())
}

/// vLLM's object, one of whose fields says the form.
fn structured(value: &Json<'_>, at: &str) -> Result<Option<Form>> {
    let mut found = None;
    for (key, value) in fields::object(value, at)? {
        let Some((_, alone)) = STRUCTURED.iter().find(|(name, _)| name == key) else {
            if value.is_empty() {
                continue;
            }
            return Err(fields::unknown(at, key));
        };
        if *value == Json::Null {
            continue;
        }
        if found.is_some() {
            return Err(Fault::value(at, format!("`{at}` demands two forms, expected one")));
        }
        found = form(alone, value).map_err(|fault| fault.of(format!("{at}.{}", short(key))))?;
    }
    Ok(found)
}

/// A schema: an object, `true`, or a text that holds one.
fn schema(value: Option<&Json<'_>>, at: &str) -> Result<Value> {
    let invalid = |message: String| Fault::new(Code::InvalidSchema, message).of(at);
    let schema = match value {
        Some(schema @ (Json::Object(_) | Json::Bool(true))) => schema.to_value(),
        Some(Json::Text(text)) => {
            serde_json::from_str::<Value>(text).map_err(|err| invalid(format!("the schema is no JSON: {err}")))?
        }
        _ => return Err(invalid("the schema is missing, or is no object".to_string())),
    };
    if !matches!(schema, Value::Object(_) | Value::Bool(true)) {
        return Err(invalid("the schema is no object".to_string()));
    }
    match serde_json::to_string(&schema).map_or(usize::MAX, |text| text.len()) {
        n if n > MAX_FORM_BYTES => Err(invalid(format!("a schema of `{n}` bytes, at most {MAX_FORM_BYTES}"))),
        _ => Ok(schema),
    }
}

/// OpenAI's object; llama.cpp's spelling of it, too.
fn response_format(value: &Json<'_>) -> Result<Option<Form>> {
    let at = "response_format";
    fields::object(value, at)?;
    let name = value.get("type").and_then(Json::as_text).unwrap_or_default();
    match name {
        "text" => Ok(None),
        "json_object" => Ok(Some(match value.get("schema") {
            Some(given) => Form::Schema(schema(Some(given), at)?),
            None => Form::Object,
        })),
        "json_schema" => {
            // Without a schema of its own, it is flat, as in the Responses API.
            let inner = value.get("json_schema").and_then(|inner| inner.get("schema"));
            Ok(Some(Form::Schema(schema(inner.or_else(|| value.get("schema")), at)?)))
        }
        other => {
            let message =
                format!("`response_format.type` is `{}`, expected text, json_object or json_schema", short(other));
            Err(Fault::value("response_format.type", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_dialect_is_one_form() {
        let of = |field: &str, body: &str| form(field, &Json::parse(body.as_bytes()).unwrap());
        let schema = json!({ "type": "object" });
        for (field, body, want) in [
            ("response_format", r#"{"type":"text"}"#, None),
            ("response_format", r#"{"type":"json_object"}"#, Some(Form::Object)),
            (
                "response_format",
                r#"{"type":"json_object","schema":{"type":"object"}}"#,
                Some(Form::Schema(schema.clone())),
            ),
            (
                "response_format",
                r#"{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object"}}}"#,
                Some(Form::Schema(schema.clone())),
            ),
            (
                "response_format",
                r#"{"type":"json_schema","name":"x","schema":{"type":"object"}}"#,
                Some(Form::Schema(schema.clone())),
            ),
            ("json_schema", r#"{"type":"object"}"#, Some(Form::Schema(schema.clone()))),
            ("guided_json", r#""{\"type\":\"object\"}""#, Some(Form::Schema(schema.clone()))),
            ("grammar", r#""root ::= \"a\"""#, Some(Form::Grammar("root ::= \"a\"".into()))),
            ("guided_choice", r#"["a","b"]"#, Some(Form::Choice(vec!["a".into(), "b".into()]))),
            ("structured_outputs", r#"{"regex":"a+","json":null}"#, Some(Form::Regex("a+".into()))),
            ("structured_outputs", "{}", None),
        ] {
            assert_eq!(of(field, body).unwrap(), want, "{field}: {body}");
        }
        for (field, body, code, param) in [
            ("response_format", r#"{"type":"json_schema"}"#, Code::InvalidSchema, "response_format"),
            ("response_format", r#"{"type":"xml"}"#, Code::InvalidValue, "response_format.type"),
            ("response_format", "3", Code::InvalidValue, "response_format"),
            ("json_schema", "[]", Code::InvalidSchema, "json_schema"),
            ("guided_json", r#""{""#, Code::InvalidSchema, "guided_json"),
            ("guided_json", r#""3""#, Code::InvalidSchema, "guided_json"),
            ("guided_choice", "[]", Code::InvalidValue, "guided_choice"),
            ("guided_choice", r#"["a",3]"#, Code::InvalidValue, "guided_choice[1]"),
            ("structured_outputs", r#"{"regex":"a","grammar":"b"}"#, Code::InvalidValue, "structured_outputs"),
            (
                "structured_outputs",
                r#"{"structural_tag":"b"}"#,
                Code::UnsupportedParameter,
                "structured_outputs.structural_tag",
            ),
        ] {
            let fault = of(field, body).expect_err(body);
            assert_eq!((fault.code, fault.param.as_deref()), (code, Some(param)), "{field}: {body}");
        }
        let large = format!(r#"{{"title":"{}"}}"#, "x".repeat(MAX_FORM_BYTES));
        assert_eq!(of("json_schema", &large).unwrap_err().code, Code::InvalidSchema);
    }
}
