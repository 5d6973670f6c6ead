//! The other APIs for text: completions of a prompt, and responses that nothing is kept of.

use serde_json::{Value, json};

use crate::client::{Server, content, events, question, video};

#[test]
fn a_prompt_is_gone_on_with_as_it_stands() {
    let server = Server::start(&["--no-store"]);
    // What the template would write, written by hand: the same answer.
    let chat = server
        .ask(&json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 8, "ignore_eos": true }));
    let prompt = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
    let mut body = json!({ "prompt": prompt, "max_tokens": 8, "ignore_eos": true, "logprobs": 2 });
    let reply = server.post("/v1/completions", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let whole = reply.json();
    let choice = &whole["choices"][0];
    if whole["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"] {
        assert_eq!(choice["text"], content(&chat));
    } else {
        panic!("another prompt: {} tokens and {}", whole["usage"], chat["usage"]);
    }
    assert_eq!((&whole["object"], &choice["finish_reason"]), (&json!("text_completion"), &json!("length")));
    let logs = &choice["logprobs"];
    let of = |name: &str| logs[name].as_array().unwrap().len();
    assert_eq!([of("tokens"), of("token_logprobs"), of("top_logprobs"), of("text_offset")], [8; 4]);
    // Control tokens have no text of an answer, and a likelihood.
    let tokens: String = logs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.replace("<|im_end|>", ""), choice["text"].as_str().unwrap());
    (body["stream"], body["stream_options"]) = (json!(true), json!({ "include_usage": true }));
    let chunks = events(&server.post("/v1/completions", &body).text());
    let said: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(said, choice["text"].as_str().unwrap());
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 8);
    // Forms, stops and refusals are those of chats.
    let answer = server.post("/v1/completions", &json!({ "prompt": "A", "guided_choice": ["one", "two"] })).json();
    assert!(["one", "two"].contains(&answer["choices"][0]["text"].as_str().unwrap()), "{answer}");
    for (body, code, param) in [
        (json!({ "prompt": "" }), "invalid_value", "prompt"),
        (json!({ "prompt": "a", "echo": true }), "unsupported_parameter", "echo"),
        (json!({ "prompt": "diamond ".repeat(40_000) }), "context_length_exceeded", "prompt"),
    ] {
        assert_eq!(server.post("/v1/completions", &body).refused(400, code)["param"], param);
    }
}

#[test]
fn a_response_is_told_whole_and_in_events() {
    let server = Server::start(&[]);
    let video = video(6);
    let file = server.upload(&video.bytes, "v.mp4");
    let mut body = json!({
        "input": [{ "role": "user", "content": [
            { "type": "input_file", "file_id": file }, { "type": "input_text", "text": video.question },
        ] }],
        "metadata": { "job": "7" },
    });
    let reply = server.post("/v1/responses", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let whole = reply.json();
    let text = |response: &Value| response["output"][0]["content"][0]["text"].as_str().unwrap().to_string();
    assert_eq!((text(&whole), &whole["status"]), (video.answer.clone(), &json!("completed")));
    assert_eq!((&whole["metadata"]["job"], &whole["store"]), (&json!("7"), &json!(false)));
    assert!(whole["usage"]["input_tokens"].as_u64().unwrap() > 100);
    // The chat API has read the same prompt.
    let chat = server.ask(&question(&file, &video.question));
    assert!(chat["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 100);

    body["stream"] = json!(true);
    let reply = server.post("/v1/responses", &body);
    let told = events(&reply.text());
    let kinds: Vec<&str> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let n = kinds.iter().filter(|kind| **kind == "response.output_text.delta").count();
    let opens = ["created", "in_progress", "output_item.added", "content_part.added"];
    let ends = ["output_text.done", "content_part.done", "output_item.done", "completed"];
    let named = |list: [&str; 4]| list.map(|kind| format!("response.{kind}"));
    assert_eq!(kinds[..4], named(opens));
    assert!(n > 0 && kinds[4 + n..] == named(ends), "{kinds:?}");
    assert!(told.iter().enumerate().all(|(i, event)| event["sequence_number"] == i), "{told:?}");
    assert!(reply.text().contains("event: response.completed\n") && !reply.text().contains("[DONE]"));
    let deltas: String = told.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!((deltas, text(&told.last().unwrap()["response"])), (video.answer.clone(), video.answer.clone()));

    // An answer that is cut off says so; a conversation goes on when all of it is sent.
    let cut = server.post("/v1/responses", &json!({ "input": "Hello", "max_output_tokens": 1 })).json();
    if cut["status"] == "incomplete" {
        assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");
    }
    let more = json!({ "instructions": "Be brief.", "max_output_tokens": 4, "input": [
        { "role": "user", "content": "Hello" }, cut["output"][0], { "role": "user", "content": "Again" },
    ] });
    let reply = server.post("/v1/responses", &more);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let form = json!({ "type": "json_schema", "name": "x", "schema": { "enum": ["one", "two"] } });
    let formed = server.post("/v1/responses", &json!({ "input": "?", "text": { "format": form } })).json();
    assert!(["\"one\"", "\"two\""].contains(&&*text(&formed)), "{formed}");
    let refused = server.post("/v1/responses", &json!({ "input": "x", "previous_response_id": "resp_1" }));
    assert_eq!(refused.refused(400, "unsupported_parameter")["param"], "previous_response_id");
}
