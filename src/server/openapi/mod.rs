//! What there is, as OpenAPI 3.1: paths from the table of routes, schemas from the files beside this one. Tests compare it
//! with what is read and what is answered, so that it cannot say something else.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::routes::{Body, Content, Operation, TABLE};

/// The schemas by name: what is sent, what comes back.
const SCHEMAS: [&str; 2] = [include_str!("requests.json"), include_str!("replies.json")];

/// Statuses of refusals that every route has: who may not come in, what is no request.
const OF_ALL: [u16; 4] = [401, 403, 405, 431];

/// What refusals of a status mean.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Something in the request is wrong; `param` names it",
        401 => "No key, or an unknown one",
        403 => "This page, or this name of the server, may not ask",
        404 => "There is nothing of this id or name",
        405 => "This path does not take this method",
        411 => "A body without a length",
        413 => "A body or file that is too large",
        415 => "A body of another type",
        429 => "Too many requests or bytes at a time; `Retry-After` says when to come again",
        431 => "A head that is too large",
        500 => "Something failed here",
        503 => "The model is being loaded, or the server is about to end",
        507 => "The store is full",
        _ => "Good",
    }
}

fn named(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// The whole document, made once.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut paths = Map::new();
        for route in TABLE.iter().filter(|route| !route.told.is_empty()) {
            let told = route.told.iter().map(|told| (told.method.to_string(), operation(route.path, told)));
            paths.insert(route.path.to_string(), Value::Object(told.collect()));
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "longtake serve", "version": env!("CARGO_PKG_VERSION"),
                "description": "Questions about long videos, as OpenAI's clients ask; see docs/server.md.",
                "license": { "name": "MIT OR Apache-2.0" },
            },
            "security": [{}, { "key": [] }],
            "paths": paths,
            "components": {
                "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
                "schemas": schemas(),
            },
        })
    })
}

/// The schemas.
fn schemas() -> Value {
    // They are part of the program, and a test reads them.
    let parts = SCHEMAS.iter().filter_map(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    Value::Object(parts.flatten().collect())
}

fn operation(path: &str, told: &Operation) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    if path.contains("{id}") {
        parameters.push(
            json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }),
        );
    }
    let query = told.query.iter();
    parameters.extend(query.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": named(schema) })));
    let mut replies = Map::new();
    for (status, content, schema) in told.replies {
        let reply = replies
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": meaning(*status), "content": {} }));
        reply["content"][content.name()] = match content {
            // Every event's data are of the schema. Version 3.1 has no words for that, and readers take a schema of the stream for
            // one of its events.
            Content::Events => json!({ "x-event-data": named(schema) }),
            _ => json!({ "schema": named(schema) }),
        };
    }
    for status in OF_ALL.iter().chain(told.refusals) {
        let refusal =
            json!({ "description": meaning(*status), "content": { "application/json": { "schema": named("Error") } } });
        replies.entry(status.to_string()).or_insert(refusal);
    }
    let mut operation = json!({
        "operationId": told.id, "summary": told.summary, "parameters": parameters, "responses": replies,
    });
    let body = match told.body {
        Body::None => None,
        Body::Json(schema) => Some(("application/json", named(schema))),
        Body::Form(schema) => Some(("multipart/form-data", named(schema))),
        Body::Raw => Some(("application/octet-stream", json!({ "type": "string", "format": "binary" }))),
    };
    if let Some((kind, schema)) = body {
        operation["requestBody"] = json!({ "required": true, "content": { kind: { "schema": schema } } });
    }
    operation
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::server::wire::{
        ChatRequest, Code, Fault, Json, ResponseRequest, Sampling, TakeRequest, chat, completion, form, response,
    };

    fn names(schema: &str) -> BTreeSet<String> {
        let schemas = schemas();
        schemas[schema]["properties"].as_object().unwrap().keys().cloned().collect()
    }

    /// Every name that is referred to is there, and every schema is referred to.
    #[test]
    fn references_lead_somewhere() {
        fn walk(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(name)) = fields.get("$ref") {
                        found.insert(name.strip_prefix("#/components/schemas/").unwrap().to_string());
                    }
                    fields.values().for_each(|value| walk(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
                _ => {}
            }
        }
        let (document, mut found) = (document(), BTreeSet::new());
        walk(document, &mut found);
        let there: BTreeSet<String> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(found, there);
        let ids: BTreeSet<&str> = TABLE.iter().flat_map(|route| route.told).map(|told| told.id).collect();
        assert_eq!(ids.len(), TABLE.iter().map(|route| route.told.len()).sum::<usize>(), "a name twice");
    }

    #[test]
    fn fields_are_those_that_are_read() {
        let read = [&chat::HONOURED[..], &Sampling::FIELDS, &form::FIELDS, &chat::HARMLESS].concat();
        assert_eq!(names("ChatRequest"), read.iter().map(|name| name.to_string()).collect());
        let read = [&completion::FIELDS[..], &Sampling::FIELDS, &form::FIELDS].concat();
        assert_eq!(names("CompletionRequest"), read.iter().map(|name| name.to_string()).collect());
        let read = [&response::FIELDS[..], &Sampling::FIELDS].concat();
        assert_eq!(names("ResponseRequest"), read.iter().map(|name| name.to_string()).collect());
        let with = |field: &str, value: &Value| {
            let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
            body[field] = value.clone();
            ChatRequest::parse(&Json::parse(body.to_string().as_bytes()).unwrap()).map(|request| request.ignored)
        };
        let take = |field: &str, value: &Value| {
            let mut body = json!({ "path": "a.mp4" });
            body[field] = value.clone();
            TakeRequest::parse(&Json::parse(body.to_string().as_bytes()).unwrap()).map(|_| Vec::new())
        };
        let own = |field: &str, value: &Value| with("longtake", &json!({ field: value }));
        let after = |field: &str, value: &Value| {
            let mut body = json!({ "prompt": "x" });
            body[field] = value.clone();
            ChatRequest::parse_completion(&Json::parse(body.to_string().as_bytes()).unwrap())
                .map(|request| request.ignored)
        };
        let response = |field: &str, value: &Value| {
            let mut body = json!({ "input": "x" });
            body[field] = value.clone();
            ResponseRequest::parse(&Json::parse(body.to_string().as_bytes()).unwrap())
                .map(|request| request.chat.ignored)
        };
        check("ChatRequest", &with);
        check("CompletionRequest", &after);
        check("ResponseRequest", &response);
        check("TakeRequest", &take);
        check("Own", &own);
        // What is not in the document is not read.
        assert_eq!(with("unheard_of", &json!(1)).unwrap(), ["unheard_of"]);
        assert!(take("unheard_of", &json!(1)).is_err() && own("unheard_of", &json!(1)).is_err());
    }

    /// Reads a body with one more field; the fields that were ignored.
    type Parse<'a> = &'a dyn Fn(&str, &Value) -> Result<Vec<String>, Fault>;

    /// Every field of `schema` is known, and its bounds are those that are kept.
    fn check(schema: &str, parse: Parse) {
        let schemas = schemas();
        for (field, said) in schemas[schema]["properties"].as_object().unwrap() {
            let said = said.get("anyOf").and_then(|any| any.get(0)).unwrap_or(said);
            let name = format!("{schema}.{field}");
            let is_whole = said["type"] == "integer";
            let number = |n: f64| if is_whole { json!(n as i64) } else { json!(n) };
            for (bound, beyond) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(at) = said[bound].as_f64() else { continue };
                assert!(accepted(parse(field, &number(at)), field), "{name}: {bound}");
                let far = if at.abs() < 1.0 { beyond } else { at + beyond * at.abs() };
                assert!(parse(field, &number(far)).is_err(), "{name}: beyond its {bound}");
            }
            for value in said["enum"].as_array().into_iter().flatten().chain(said.get("const")) {
                assert!(accepted(parse(field, value), field), "{name}: {value}");
            }
            if said["type"] == "boolean" {
                assert!(accepted(parse(field, &json!(true)), field), "{name}");
            }
            if said.get("type").is_some() || said.get("enum").is_some() {
                let wrong = if said["type"] == "string" { json!(3) } else { json!("\u{1}") };
                assert!(parse(field, &wrong).is_err(), "{name}: {wrong}");
            }
            // At the least it is not called unknown.
            let ignored = parse(field, &json!({ "?": "?" }));
            assert!(!ignored.is_ok_and(|ignored| ignored.iter().any(|name| name == field)), "{name}");
        }
    }

    /// Whether a value was taken, or only lacks a companion.
    fn accepted(result: Result<Vec<String>, Fault>, field: &str) -> bool {
        match result {
            Ok(ignored) => !ignored.iter().any(|name| name == field),
            Err(fault) => fault.code == Code::InvalidValue && fault.message.contains("needs"),
        }
    }
}
