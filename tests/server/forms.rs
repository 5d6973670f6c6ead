//! Answers of a form that is demanded: kept to, token by token, and never given where they cannot be.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Server, content, events, question, video};

fn asked(fields: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Describe it." }], "max_tokens": 300 });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "color": { "enum": ["red", "green", "blue"] },
            "count": { "type": "integer", "minimum": 0, "maximum": 20 },
            "sure": { "type": "boolean" },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 4 }, "minItems": 1, "maxItems": 2 },
        },
        "required": ["color", "count", "sure", "tags"],
        "additionalProperties": false,
    })
}

/// What the schema demands.
fn is_good(text: &str) -> bool {
    let Ok(Value::Object(found)) = serde_json::from_str::<Value>(text) else { return false };
    let tags = found["tags"].as_array().unwrap();
    found.keys().collect::<Vec<_>>() == ["color", "count", "sure", "tags"]
        && ["red", "green", "blue"].contains(&found["color"].as_str().unwrap())
        && (0..=20).contains(&found["count"].as_i64().unwrap())
        && found["sure"].is_boolean()
        && (1..=2).contains(&tags.len())
        && tags.iter().all(|tag| tag.as_str().unwrap().chars().count() <= 4)
}

#[test]
fn a_schema_is_kept_to_greedy_and_drawn_streamed_and_whole() {
    let server = Server::start(&["--no-store"]);
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "found", "strict": true, "schema": schema() } });
    let greedy = server.ask(&asked(json!({ "response_format": format })));
    assert!(is_good(content(&greedy)), "{greedy}");
    assert_eq!(greedy["choices"][0]["finish_reason"], "stop");
    let reply = server
        .post("/v1/chat/completions", &asked(json!({ "response_format": format, "stream": true, "logprobs": true })));
    let said: String = events(&reply.text())
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_string))
        .collect();
    assert_eq!(said, content(&greedy));
    let mut seen = std::collections::HashSet::new();
    for seed in 0..12 {
        // Hot enough that without a form it would be noise, with penalties in the way.
        let drawn = asked(json!({
            "response_format": format, "temperature": 5, "top_k": -1, "top_p": 1, "min_p": 0, "seed": seed,
            "repeat_penalty": 1.5, "frequency_penalty": 1,
        }));
        let answer = server.ask(&drawn);
        assert!(is_good(content(&answer)), "seed {seed}: {answer}");
        seen.insert(content(&answer).to_string());
    }
    assert!(seen.len() > 6, "{seen:?}");
    // Two at a time, beside one without a form: none takes another's.
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (server, format) = (&server, &format);
            scope.spawn(move || {
                let fields = json!({ "temperature": 2, "seed": i });
                let mut body = asked(fields);
                if i % 3 > 0 {
                    body["response_format"] = format.clone();
                }
                let answer = server.ask(&body);
                assert!(i % 3 == 0 || is_good(content(&answer)), "{answer}");
            });
        }
    });
}

#[test]
fn every_spelling_of_a_form_is_followed() {
    let server = Server::start(&["--no-store"]);
    let gbnf = "root ::= item (\",\" item){2}\nitem ::= [a-f]+ \"-\" digit\ndigit ::= [0-9] | \"(\" digit \")\"";
    let lark = "start: WORD (\"+\" WORD){3}\nWORD: \"one\" | \"two\"";
    let is_list = |text: &str| {
        text.split(',').count() == 3
            && text.split(',').all(|item| {
                let (word, digit) = item.split_once('-').unwrap();
                let digit = digit.trim_start_matches('(').trim_end_matches(')');
                !word.is_empty() && word.chars().all(|c| ('a'..='f').contains(&c)) && digit.parse::<u8>().unwrap() < 10
            })
    };
    let is_sum =
        |text: &str| text.split('+').count() == 4 && text.split('+').all(|word| ["one", "two"].contains(&word));
    let is_number = |text: &str| text.len() == 5 && text.chars().all(|c| c.is_ascii_digit());
    let is_chosen = |text: &str| ["\"A\"", "b\\c", "ä"].contains(&text);
    let is_word = |text: &str| ["one", "two"].contains(&text);
    type Judge<'a> = &'a dyn Fn(&str) -> bool;
    let rows: [(Value, Judge); 9] = [
        (json!({ "grammar": gbnf }), &is_list),
        (json!({ "guided_grammar": gbnf }), &is_list),
        (json!({ "structured_outputs": { "grammar": lark } }), &is_sum),
        (json!({ "guided_regex": "[0-9]{5}" }), &is_number),
        (json!({ "structured_outputs": { "regex": "[0-9]{5}" } }), &is_number),
        (json!({ "guided_choice": ["\"A\"", "b\\c", "ä"] }), &is_chosen),
        (json!({ "structured_outputs": { "choice": ["one", "two"] } }), &is_word),
        (json!({ "json_schema": schema() }), &is_good),
        (json!({ "response_format": { "type": "json_object", "schema": schema() } }), &is_good),
    ];
    for (fields, is) in rows {
        for seed in 0..3 {
            let mut fields = fields.clone();
            (fields["temperature"], fields["seed"]) = (json!(3), json!(seed));
            let answer = server.ask(&asked(fields.clone()));
            // What a length cut off has no end; everything else is whole.
            let is_whole = answer["choices"][0]["finish_reason"] == "stop";
            assert!(!is_whole || is(content(&answer)), "{fields}: {}", content(&answer));
            assert!(is_whole || fields["guided_grammar"].is_string() || fields["grammar"].is_string(), "{answer}");
        }
    }
    // Any object: it begins as one, and ends as one unless its length ends it.
    let answer = server.ask(&asked(json!({ "response_format": { "type": "json_object" }, "max_tokens": 60 })));
    let text = content(&answer);
    assert!(text.starts_with('{'), "{text}");
    match answer["choices"][0]["finish_reason"].as_str() {
        Some("stop") => assert!(serde_json::from_str::<Value>(text).unwrap().is_object()),
        other => assert_eq!(other, Some("length")),
    }
}

#[test]
fn a_form_and_a_video_go_together() {
    let server = Server::start(&[]);
    let video = video(6);
    let mut body = question(&server.upload(&video.bytes, "v.mp4"), &video.question);
    body["max_tokens"] = json!(40);
    let words: Vec<&str> = vec!["nothing", &video.answer, "a giraffe"];
    body["guided_choice"] = json!(words);
    let answer = server.ask(&body);
    assert_eq!(content(&answer), video.answer);
    body["guided_choice"] = json!(["nothing", "a giraffe"]);
    assert!(["nothing", "a giraffe"].contains(&content(&server.ask(&body))));
    // A plan is refused for the same reason.
    body["guided_choice"] = json!([]);
    server.post("/v1/plan", &body).refused(400, "invalid_value");
}

/// Nothing that cannot be followed is answered, and nothing that is sent takes long: GHSA-mgrm-fgjv-mhv8, llama.cpp#19051.
#[test]
fn hostile_forms_are_refused_soon_and_harm_nobody() {
    let server = Server::start(&["--no-store"]);
    let deep =
        |n: usize| (0..n).fold(json!({ "type": "string" }), |inner, _| json!({ "type": "array", "items": inner }));
    let wide: Vec<Value> = (0..600).map(|i| json!({ "pattern": format!("^(a{{{i}}}|b*)*c$") })).collect();
    let cross: Vec<Value> = (0..12)
        .map(|i| json!({ "oneOf": (0..12).map(|j| json!({ "properties": { format!("p{i}_{j}"): { "type": "integer" } } })).collect::<Vec<_>>() }))
        .collect();
    let refused = [
        json!({ "json_schema": deep(29) , "grammar": "a" }),
        json!({ "json_schema": { "$ref": "https://example.com/schema.json" } }),
        json!({ "json_schema": { "$ref": "#/definitions/nowhere" } }),
        json!({ "json_schema": { "type": "wizard" } }),
        json!({ "json_schema": { "type": "string", "pattern": "(" } }),
        json!({ "json_schema": { "type": "string", "pattern": "(?=a)b" } }),
        json!({ "json_schema": { "type": "object", "unevaluatedProperties": false } }),
        json!({ "json_schema": { "enum": [] } }),
        json!({ "json_schema": { "type": "integer", "minimum": 5, "maximum": 3 } }),
        json!({ "json_schema": { "x-guidance": { "lenient": true }, "type": "object", "unevaluatedProperties": false } }),
        json!({ "guided_regex": "(" }),
        json!({ "grammar": "root ::= undefined" }),
        json!({ "grammar": "start: /(/" }),
        json!({ "grammar": "start: missing" }),
        json!({ "grammar": "" }),
        json!({ "grammar": format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000)) }),
        json!({ "grammar": format!("start: {}\"a\"{}", "(".repeat(20000), ")".repeat(20000)) }),
        json!({ "grammar": "x".repeat(70 << 10) }),
    ];
    // Either is right; late, or not at all, is not.
    let either = [
        json!({ "json_schema": deep(25) }),
        json!({ "json_schema": { "allOf": cross } }),
        json!({ "json_schema": { "anyOf": wide } }),
        json!({ "json_schema": { "type": "array", "minItems": 1_000_000 } }),
        json!({ "json_schema": { "type": "string", "maxLength": 1_000_000_000 } }),
        json!({ "json_schema": { "type": "string", "minLength": 1_000_000 } }),
        json!({ "json_schema": { "$ref": "#" } }),
        json!({ "json_schema": { "type": "object", "minProperties": 10000 } }),
        json!({ "json_schema": { "allOf": [{ "$ref": "#" }] } }),
        json!({ "json_schema": { "definitions": { "a": { "anyOf": [{ "$ref": "#/definitions/a" }, { "$ref": "#/definitions/a" }] } }, "$ref": "#/definitions/a" } }),
        json!({ "guided_regex": "((a{1000}){1000}){1000}" }),
        json!({ "guided_regex": "(.*a){200}" }),
        json!({ "guided_regex": "(a|b|ab)*(.{0,400}c){9}" }),
        json!({ "guided_regex": "\\w{5000}" }),
        json!({ "grammar": "root ::= root root | \"a\" | \"\"" }),
        json!({ "grammar": "root ::= (root | \"a\")* \"b\"" }),
        json!({ "grammar": "start: start start start | \"a\" | \"\"" }),
    ];
    for (is_refused, fields) in refused.iter().map(|f| (true, f)).chain(either.iter().map(|f| (false, f))) {
        let words: String = fields.to_string().chars().take(120).collect();
        let mut body = asked(fields.clone());
        body["max_tokens"] = json!(4);
        let began = Instant::now();
        let reply = server.post("/v1/chat/completions", &body);
        let time = began.elapsed();
        assert!(time < Duration::from_secs(20), "{words}: {time:?}");
        match reply.status {
            400 if is_refused => {
                let error = reply.json()["error"].clone();
                assert!(error["message"].as_str().unwrap().len() < 500, "{error}");
                assert!(
                    ["invalid_schema", "invalid_value"].contains(&error["code"].as_str().unwrap()),
                    "{words}: {error}"
                );
                assert!(!error["param"].is_null(), "{words}: {error}");
            }
            200 | 400 | 429 if !is_refused => {}
            other => panic!("{words}: {other} {}", reply.text()),
        }
    }
    assert_eq!(server.metric("longtake_job_panics_total"), 0.0);
    assert!(is_good(content(&server.ask(&asked(json!({ "json_schema": schema() }))))));
    let resident = std::fs::read_to_string(format!("/proc/{}/status", server.id())).ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("VmHWM"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    assert!(resident.is_none_or(|kib| kib < 1 << 20), "{resident:?} KiB at the peak");
}
