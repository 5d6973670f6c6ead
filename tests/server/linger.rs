//! Clients that leave and come back: what they find is what they would have got.

use std::io::{BufRead, Read};

use longtake::random::Rng;
use serde_json::{Value, json};

use crate::client::{Server, content, events, only, question, times, video};

fn is_idle(server: &Server) -> bool {
    server.metric("longtake_requests_running") == 0.0
}

/// Asks with a stream and leaves after so many bytes; waits until that was noticed.
fn leave_after(server: &Server, body: &Value, n_bytes: usize) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let mut stream = server.open("/v1/chat/completions", &body);
    stream.read_exact(&mut vec![0; n_bytes]).unwrap();
    drop(stream);
    server.until("stopped", || is_idle(server));
}

/// The text and the log probabilities of a stream.
fn heard(server: &Server, body: &Value) -> (String, Vec<Value>) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let chunks = events(&server.post("/v1/chat/completions", &body).text());
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let logs = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
    (text, logs.flatten().cloned().collect())
}

const N: u32 = 2000;

#[test]
fn an_answer_that_was_left_goes_on_with_its_next_token() {
    let server = Server::start(&["-c", "4096"]);
    let made = || server.metric("longtake_generated_tokens_total");
    let resumed = || server.metric("longtake_resumed_total");
    let hello = json!([{ "role": "user", "content": "Hello" }]);
    // Of a few words, so that every token is text.
    let words = ["diamond", "red", "circle", "blue"].map(|word| only(&server, word));
    let words: serde_json::Map<String, Value> =
        words.iter().flat_map(|word| word.as_object().unwrap().clone()).collect();
    let words = Value::Object(words);
    let mut rng = Rng(5);
    for manner in [
        json!({ "temperature": 0 }),
        json!({ "temperature": 1.5, "seed": 7, "repeat_penalty": 1.1 }),
        json!({ "temperature": 1, "seed": 9, "logprobs": true, "top_logprobs": 2, "stop": ["qqqq"] }),
    ] {
        let mut body = manner;
        (body["messages"], body["max_tokens"], body["ignore_eos"]) = (hello.clone(), json!(N), json!(true));
        body["logit_bias"] = words.clone();
        let want = heard(&server, &body);
        assert!(want.0.len() > N as usize);
        for _ in 0..times("LONGTAKE_LEAVES", 1) {
            let (before, n) = (made(), resumed());
            let mut n_left = [0.0; 2];
            // Left twice, at any byte; the second time soon, since then much comes at once.
            for (n_left, most) in n_left.iter_mut().zip([20_000, 1500]) {
                leave_after(&server, &body, 1 + rng.below(most));
                *n_left = made() - before;
                assert!(*n_left < f64::from(N), "it went on for nobody");
            }
            assert!(heard(&server, &body) == want, "the answer differs after {n_left:?} tokens");
            // Each token was made once.
            assert!(made() - before == f64::from(N) && resumed() > n, "{n_left:?}");
        }
        // What is asked otherwise is another answer.
        leave_after(&server, &body, 5000);
        let n = resumed();
        body["max_tokens"] = json!(40);
        let short = heard(&server, &body);
        assert!(want.0.starts_with(&short.0) && resumed() == n);
    }
    // A draw without a seed is drawn anew.
    let mut body =
        json!({ "messages": hello, "max_tokens": N, "ignore_eos": true, "temperature": 1, "logit_bias": words });
    let n = resumed();
    leave_after(&server, &body, 3000);
    let drawn = content(&server.ask(&body)).to_string();
    assert!(resumed() == n && drawn.len() > N as usize);
    // As is all where nothing is to be kept.
    let server = Server::start(&["--linger", "0"]);
    body["temperature"] = json!(0);
    leave_after(&server, &body, 3000);
    assert_eq!(server.ask(&body)["usage"]["completion_tokens"], N);
    assert_eq!(server.metric("longtake_resumed_total"), 0.0);
}

/// Asks about a video and leaves once so many tokens were read.
fn leave_reading(server: &Server, body: &Value, left_at: u64) {
    let mut body = body.clone();
    (body["stream"], body["return_progress"]) = (json!(true), json!(true));
    let mut stream = server.open("/v1/chat/completions", &body);
    let has_read = |line: &str| line.split_once("\"processed\":")?.1.split(',').next()?.parse::<u64>().ok();
    let mut line = String::new();
    while has_read(&line).is_none_or(|n| n < left_at) {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it ended early");
    }
}

#[test]
fn a_request_ends_in_time_while_it_is_read_too() {
    let video = video(40);
    let server = Server::start(&["--max-request", "0.05s"]);
    let body = question(&server.upload(&video.bytes, "v.mp4"), &video.question);
    let error = server.post("/v1/chat/completions", &body).refused(400, "video_does_not_fit");
    assert!(error["message"].as_str().unwrap().contains("--max-request"), "{error}");
    server.until("over", || is_idle(&server));
    assert!(server.frames_read() < video.n_frames as f64);
}

#[test]
fn a_prompt_that_is_more_than_half_read_is_read_to_its_end_and_waited_for() {
    let video = video(40);
    let start = |args: &[&str]| {
        let server = Server::start(args);
        let body = question(&server.upload(&video.bytes, "v.mp4"), &video.question);
        (server, body)
    };
    let frames = |server: &Server| server.frames_read();
    let all = video.n_frames as f64;
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap();
    // Nobody comes back while it is read.
    let (server, body) = start(&[]);
    leave_reading(&server, &body, 3200);
    server.until("read to the end", || is_idle(&server));
    assert_eq!((frames(&server), server.metric("longtake_generated_tokens_total")), (all, 0.0));
    let answer = server.ask(&body);
    assert!(content(&answer) == video.answer && frames(&server) == all);
    assert!(cached(&answer) >= 0.99 * answer["usage"]["prompt_tokens"].as_f64().unwrap(), "{answer}");
    // Somebody asks the same at once: it is read once.
    let (server, body) = start(&["--parallel", "4"]);
    leave_reading(&server, &body, 3200);
    server.until("left", || server.metric("longtake_requests_lingering") == 1.0 || is_idle(&server));
    assert_eq!(content(&server.ask(&body)), video.answer);
    assert_eq!(frames(&server), all);
    // Less than half, or no time for it: it stops.
    for (args, left_at) in [(&["--linger", "60"], 1000), (&["--linger", "0"], 3200)] {
        let (server, body) = start(args);
        leave_reading(&server, &body, left_at);
        server.until("stopped", || is_idle(&server));
        assert!(frames(&server) < all, "it was read on");
        assert_eq!(content(&server.ask(&body)), video.answer);
    }
}
