//! The document of the routes, and what the routes really answer: no field that it does not name, none missing that it promises.

use serde_json::{Value, json};

use crate::client::{Server, events, question, video};

/// Complaints about a value of a schema; fields that no schema names are complaints, too.
fn complaints(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return complaints(document, document.pointer(name.strip_prefix('#').unwrap()).unwrap(), value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Vec<Vec<String>> = any.iter().map(|schema| complaints(document, schema, value, at)).collect();
        return all.into_iter().min_by_key(Vec::len).unwrap();
    }
    let mut found = Vec::new();
    let is_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => true,
    };
    let is_listed = schema["enum"].as_array().is_none_or(|list| list.contains(value));
    if !is_type || !is_listed || schema.get("const").is_some_and(|only| only != value) {
        return vec![format!("{at} is {value}, expected {schema}")];
    }
    if let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, value) in fields {
            match known.get(name) {
                Some(schema) => found.extend(complaints(document, schema, value, &format!("{at}.{name}"))),
                None => found.push(format!("{at}.{name} is in no schema")),
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        found.extend(
            required
                .filter(|name| !fields.contains_key(name.as_str().unwrap()))
                .map(|name| format!("{at} has no {name}")),
        );
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        found.extend(
            items.iter().enumerate().flat_map(|(i, item)| complaints(document, schema, item, &format!("{at}[{i}]"))),
        );
    }
    found
}

#[test]
fn answers_are_what_the_document_says() {
    let server = Server::start(&["--slots", "-c", "2048"]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let check = |method: &str, path: &str, status: u16, value: &Value| {
        let operation = &document["paths"][path][method];
        let content = &operation["responses"][status.to_string()]["content"];
        let kind = if content["application/json"].is_object() { "application/json" } else { "text/event-stream" };
        let schema = content[kind].get("x-event-data").unwrap_or(&content[kind]["schema"]);
        assert!(schema.is_object(), "{method} {path} {status} is not told of");
        let found = complaints(&document, schema, value, path);
        assert!(found.is_empty(), "{found:#?}");
        seen.borrow_mut().insert(operation["operationId"].as_str().unwrap().to_string());
    };
    let get = |path: &str, told: &str| {
        let reply = server.get(path);
        check("get", told, reply.status, &reply.json());
        reply.json()
    };
    let post = |path: &str, told: &str, body: &Value| {
        let reply = server.post(path, body);
        check("post", told, reply.status, &reply.json());
        reply.json()
    };
    for path in ["/health", "/ready", "/v1/models", "/v1/files", "/v1/takes", "/props", "/openapi.json"] {
        get(path, path);
    }
    let model = get("/v1/models", "/v1/models")["data"][0]["id"].as_str().unwrap().to_string();
    get(&format!("/v1/models/{model}"), "/v1/models/{id}");
    get("/v1/models/gpt-5", "/v1/models/{id}");

    let video = video(6);
    let file = server.upload(&video.bytes, "v.mp4");
    let reply = server.send("PUT", "/v1/files?filename=w.mp4&purpose=video&expires_after=3600", &[], &video.bytes);
    check("put", "/v1/files", 200, &reply.json());
    let form = b"--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"v.mp4\"\r\n\r\n";
    let form = [&form[..], &video.bytes, b"\r\n--x--\r\n"].concat();
    let reply = server.send("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=x")], &form);
    check("post", "/v1/files", 200, &reply.json());
    get("/v1/files", "/v1/files");
    let other = reply.json()["id"].as_str().unwrap().to_string();
    get(&format!("/v1/files/{other}"), "/v1/files/{id}");
    check("delete", "/v1/files/{id}", 200, &server.delete(&format!("/v1/files/{other}")).json());
    get("/v1/files/nothing", "/v1/files/{id}");

    let mut body = question(&file, &video.question);
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(2));
    const CHAT: &str = "/v1/chat/completions";
    post(CHAT, CHAT, &body);
    post(CHAT, CHAT, &json!({ "messages": [] }));
    post("/v1/chat/completions/input_tokens", "/v1/chat/completions/input_tokens", &body);
    post("/v1/plan", "/v1/plan", &body);
    (body["stream"], body["return_progress"], body["timings_per_token"]) = (json!(true), json!(true), json!(true));
    body["stream_options"] = json!({ "include_usage": true });
    body["cache_prompt"] = json!(false);
    let content = &document["paths"][CHAT]["post"]["responses"]["200"]["content"];
    let chunk = &content["text/event-stream"]["x-event-data"];
    let chunks = events(&server.post(CHAT, &body).text());
    assert!(chunks.len() > 3 && chunks.iter().any(|chunk| chunk["prompt_progress"].is_object()));
    for told in &chunks {
        let found = complaints(&document, chunk, told, "chunk");
        assert!(found.is_empty(), "{found:#?}");
    }
    const TEXT: &str = "/v1/completions";
    let told = &document["paths"][TEXT]["post"]["responses"]["200"]["content"]["text/event-stream"]["x-event-data"];
    let mut body = json!({ "prompt": "A red", "max_tokens": 4, "logprobs": 2 });
    post(TEXT, TEXT, &body);
    (body["stream"], body["stream_options"]) = (json!(true), json!({ "include_usage": true }));
    for chunk in events(&server.post(TEXT, &body).text()) {
        let found = complaints(&document, told, &chunk, "chunk");
        assert!(found.is_empty(), "{found:#?}");
    }
    const RESPONSE: &str = "/v1/responses";
    let told = &document["paths"][RESPONSE]["post"]["responses"]["200"]["content"]["text/event-stream"]["x-event-data"];
    let mut body = json!({ "input": "A red", "max_output_tokens": 4, "top_logprobs": 1, "instructions": "Say." });
    post(RESPONSE, RESPONSE, &body);
    body["stream"] = json!(true);
    for event in events(&server.post(RESPONSE, &body).text()) {
        let found = complaints(&document, told, &event, "event");
        assert!(found.is_empty(), "{found:#?}");
    }
    post("/v1/tokenize", "/v1/tokenize", &json!({ "content": "red ring", "with_pieces": true }));
    post("/v1/tokenize", "/v1/tokenize", &json!({ "content": "red ring" }));

    let wanted = json!({ "file_id": file, "reserve": 128 });
    post("/v1/plan", "/v1/plan", &wanted);
    let take = post("/v1/takes", "/v1/takes", &wanted)["id"].as_str().unwrap().to_string();
    for told in events(&server.get(&format!("/v1/takes/{take}/events")).text()) {
        check("get", "/v1/takes/{id}/events", 200, &told);
    }
    post("/v1/takes", "/v1/takes", &wanted);
    get(&format!("/v1/takes/{take}"), "/v1/takes/{id}");
    get("/v1/takes", "/v1/takes");
    post(&format!("/v1/takes/{take}/cancel"), "/v1/takes/{id}/cancel", &json!({}));
    post(&format!("/v1/takes/{take}/resume"), "/v1/takes/{id}/resume", &json!({}));
    get("/slots", "/slots");
    let line = json!({ "custom_id": "a", "url": "/v1/completions", "body": { "prompt": "x", "max_tokens": 1 } });
    let lines = server.send("PUT", "/v1/files?filename=in.jsonl&purpose=batch", &[], line.to_string().as_bytes());
    check("put", "/v1/files", 200, &lines.json());
    let batch = post(
        "/v1/batches",
        "/v1/batches",
        &json!({ "input_file_id": lines.json()["id"], "endpoint": "/v1/completions" }),
    );
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    server.until("a batch", || get(&path, "/v1/batches/{id}")["status"] == "completed");
    get("/v1/batches", "/v1/batches");
    post(&format!("{path}/cancel"), "/v1/batches/{id}/cancel", &json!({}));
    get("/v1/batches/nothing", "/v1/batches/{id}");
    check("delete", "/v1/takes/{id}", 200, &server.delete(&format!("/v1/takes/{take}")).json());

    // Two are text; everything else was seen.
    let paths = document["paths"].as_object().unwrap();
    let all = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let missed: Vec<&str> =
        all.map(|told| told["operationId"].as_str().unwrap()).filter(|id| !seen.borrow().contains(*id)).collect();
    assert_eq!(missed, ["fileContent", "metrics"]);
    assert!(server.get("/metrics").text().contains("longtake_requests_total{route=\"/openapi.json\""));
}
