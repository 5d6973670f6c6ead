//! Calls of tools, in both forms that templates write them in.

use std::path::{Path, PathBuf};

use longtake::gguf::{Gguf, GgufWriter, Value as Key};
use serde_json::{Value, json};

use crate::client::{Server, events};

/// A template that tells of tools and of calls.
const HEAD: &str = "{%- if tools %}{{- '<|im_start|>system\\nTools:\\n' }}{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{%- endfor %}{{- 'Write <tool_call>.<|im_end|>\\n' }}{%- endif %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- if m.content is string %}{{- m.content }}{%- endif %}{%- for call in m.tool_calls or [] %}";
const TAIL: &str = "{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";
const OF_JSON: &str = "{{- '<tool_call>\\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}";
const OF_TAGS: &str = "{{- '<tool_call>\\n<function=' + call.function.name + '>\\n' }}{%- for name, value in call.function.arguments | items %}{{- '<parameter=' + name + '>\\n' }}{{- value }}{{- '\\n</parameter>\\n' }}{%- endfor %}{{- '</function>\\n</tool_call>' }}";

/// The embedded model with another template.
fn model(folder: &Path, name: &str, of_calls: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/symbols/symbols.gguf");
    let file = Gguf::open(&source).unwrap();
    let mut meta = file.meta().clone();
    meta.set("tokenizer.chat_template", Key::String(format!("{HEAD}{of_calls}{TAIL}")));
    let mut writer = GgufWriter::new(meta);
    for tensor in file.tensors() {
        writer.tensor(&*tensor.name, tensor.ty, &tensor.ne).unwrap();
    }
    let path = folder.join(name);
    let fill = |i: usize, out: &mut Vec<u8>| {
        out.extend_from_slice(file.data(&file.tensors()[i]));
        Ok(())
    };
    writer.write(&path, fill).unwrap();
    path
}

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "look", "description": "Looks at a time.", "parameters": {
            "type": "object", "required": ["at", "why"], "additionalProperties": false,
            "properties": { "at": { "type": "integer", "minimum": 0, "maximum": 99 }, "why": { "enum": ["who", "what"] }, "note": { "type": "string", "maxLength": 8 } },
        } } },
        { "type": "function", "function": { "name": "stop" } },
    ])
}

fn is_good(name: &str, arguments: &Value) -> bool {
    match name {
        "look" => {
            (0..=99).contains(&arguments["at"].as_i64().unwrap())
                && ["who", "what"].contains(&arguments["why"].as_str().unwrap())
        }
        _ => name == "stop" && *arguments == json!({}),
    }
}

/// Name and arguments of the calls of a message.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let one = |call: &Value| {
        assert!(call["id"].as_str().unwrap().starts_with("call-") && call["type"] == "function", "{call}");
        let function = &call["function"];
        let arguments = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        (function["name"].as_str().unwrap().to_string(), arguments)
    };
    message["tool_calls"].as_array().into_iter().flatten().map(one).collect()
}

#[test]
fn tools_are_called_in_the_words_of_the_template() {
    let dir = tempfile::tempdir().unwrap();
    for (name, of_calls) in [("json.gguf", OF_JSON), ("tags.gguf", OF_TAGS)] {
        let model = model(dir.path(), name, of_calls);
        let server = Server::start(&["-m", model.to_str().unwrap(), "--no-mmproj", "--no-store", "-c", "2048"]);
        let asked = |fields: Value| {
            let mut body =
                json!({ "messages": [{ "role": "user", "content": "Look." }], "tools": tools(), "max_tokens": 120 });
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            body
        };
        let hot = |seed: u64| json!({ "temperature": 3, "top_k": -1, "top_p": 1, "min_p": 0, "seed": seed });
        let merged = |mut a: Value, b: Value| {
            a.as_object_mut().unwrap().extend(b.as_object().unwrap().clone());
            a
        };
        let mut n_whole = 0;
        for seed in 0..6 {
            let body = asked(merged(hot(seed), json!({ "tool_choice": "required", "parallel_tool_calls": false })));
            let whole = server.ask(&body);
            let choice = &whole["choices"][0];
            if choice["finish_reason"] != "tool_calls" {
                // A text of an argument may be long; nothing else is.
                assert_eq!(choice["finish_reason"], "length", "{whole}");
                continue;
            }
            n_whole += 1;
            let called = calls(&choice["message"]);
            assert!(called.len() == 1 && choice["message"]["content"].is_null(), "{whole}");
            assert!(called.iter().all(|(name, arguments)| is_good(name, arguments)), "{called:?}");
            // The same in pieces.
            let chunks = events(&server.post("/v1/chat/completions", &merged(body, json!({ "stream": true }))).text());
            let (mut names, mut arguments) = (String::new(), String::new());
            for chunk in &chunks {
                for call in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                    assert_eq!(call["index"], 0);
                    names.push_str(call["function"]["name"].as_str().unwrap_or(""));
                    arguments.push_str(call["function"]["arguments"].as_str().unwrap_or(""));
                }
            }
            assert_eq!(vec![(names, serde_json::from_str(&arguments).unwrap())], called);
            assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        }
        assert!(n_whole > 0, "every call was cut off");
        let named = json!({ "tool_choice": { "type": "function", "function": { "name": "stop" } } });
        let whole = server.ask(&asked(named));
        assert_eq!(calls(&whole["choices"][0]["message"]), [("stop".to_string(), json!({}))]);
        // At will: whatever is called can be called, and text stays text.
        for seed in 0..4 {
            let whole = server.ask(&asked(hot(seed)));
            let called = calls(&whole["choices"][0]["message"]);
            assert!(called.iter().all(|(name, arguments)| is_good(name, arguments)), "{called:?}");
        }
        // Not at all: the same as without tools.
        let plain = server.ask(&asked(json!({ "tool_choice": "none" })));
        let without = server.ask(&asked(json!({ "tools": [] })));
        assert_eq!(plain["choices"], without["choices"]);
        assert_eq!(plain["usage"]["prompt_tokens"], without["usage"]["prompt_tokens"]);
        // A conversation with a call and what it gave.
        let talk = json!({ "tool_choice": "none", "messages": [
            { "role": "user", "content": "Look." },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "call-1", "type": "function", "function": { "name": "look", "arguments": "{\"at\": 3, \"why\": \"who\"}" } }] },
            { "role": "tool", "tool_call_id": "call-1", "content": "a ring" },
        ] });
        let count = |fields: Value| {
            let reply = server.post("/v1/chat/completions/input_tokens", &asked(fields));
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()["input_tokens"].as_u64().unwrap()
        };
        assert!(count(talk.clone()) > count(json!({ "tool_choice": "none" })) + 10);
        assert_eq!(server.post("/v1/chat/completions", &asked(talk)).status, 200);

        // The Responses API has items for them.
        let mut flat: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
        flat.iter_mut().for_each(|tool| tool["type"] = json!("function"));
        let mut body = json!({ "input": "Look.", "tools": flat, "tool_choice": { "type": "function", "name": "stop" }, "max_output_tokens": 80 });
        let whole = server.post("/v1/responses", &body).json();
        let item = &whole["output"][0];
        assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("stop")), "{whole}");
        let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments, json!({}));
        body["stream"] = json!(true);
        let told = events(&server.post("/v1/responses", &body).text());
        let kinds: Vec<&str> =
            told.iter().map(|event| event["type"].as_str().unwrap().trim_start_matches("response.")).collect();
        assert_eq!(kinds[..3], ["created", "in_progress", "output_item.added"]);
        assert_eq!(kinds[kinds.len() - 3..], ["function_call_arguments.done", "output_item.done", "completed"]);
        let more = json!({ "tools": flat, "max_output_tokens": 4, "tool_choice": "none", "input": [
            { "role": "user", "content": "Look." }, item, { "type": "function_call_output", "call_id": item["call_id"], "output": "done" },
        ] });
        let reply = server.post("/v1/responses", &more);
        assert_eq!(reply.status, 200, "{}", reply.text());

        for (fields, code, param) in [
            (
                json!({ "tools": [{ "function": { "name": "f", "parameters": { "type": "object", "properties": { "a": { "type": "wizard" } }, "required": ["a"] } } }] }),
                "invalid_schema",
                "tools",
            ),
            (json!({ "tool_choice": { "function": { "name": "nobody" } } }), "invalid_value", "tool_choice"),
            (json!({ "response_format": { "type": "json_object" } }), "invalid_value", "response_format"),
        ] {
            assert_eq!(server.post("/v1/chat/completions", &asked(fields)).refused(400, code)["param"], param);
        }
    }
    // A template that knows no tools calls none, and says so.
    let server = Server::start(&["--no-store"]);
    let body = json!({ "messages": [{ "role": "user", "content": "x" }], "tools": tools() });
    assert_eq!(server.post("/v1/chat/completions", &body).refused(400, "unsupported_parameter")["param"], "tools");
}
