//! Clients that leave: what was computed for them stops, nothing of it is lost, and nobody else notices.

use std::io::{BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longtake::random::Rng;
use serde_json::json;

use crate::client::{Server, content, only, question, times, video};

/// Whether nothing runs.
fn is_idle(server: &Server) -> bool {
    server.metric("longtake_requests_running") == 0.0
}

#[test]
fn a_client_that_leaves_stops_the_work_and_a_retry_goes_on_there() {
    let server = Server::start(&["--parallel", "1"]);
    let video = video(40);
    let id = server.upload(&video.bytes, "v.mp4");
    let mut body = question(&id, &video.question);
    body["stream"] = json!(true);
    let frames = || server.frames_read();
    body["return_progress"] = json!(true);
    for left_at in [300, 1500] {
        let mut stream = server.open("/v1/chat/completions", &body);
        // It leaves once so many tokens were read.
        let has_read = |line: &str| {
            let (_, rest) = line.split_once("\"processed\":")?;
            rest.split(',').next()?.parse::<u64>().ok()
        };
        let mut line = String::new();
        while has_read(&line).is_none_or(|n| n < left_at) {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0, "it ended early");
        }
        drop(stream);
        let left = Instant::now();
        server.until("stopped", || is_idle(&server));
        assert!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    }
    assert_eq!(server.metric("longtake_cancelled_total"), 2.0);
    let before = frames();
    assert!(before > 0.0 && before < video.n_frames as f64, "{before}");
    // The first attempts left their frames behind, to the step: together they are hardly more than one.
    body["stream"] = json!(false);
    let answer = server.ask(&body);
    assert_eq!(content(&answer), video.answer);
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached > 144, "{cached} tokens were kept");
    let after = frames();
    assert!(after <= video.n_frames as f64 + 2.0 * 3.0 * 8.0, "{after} frames for {}", video.n_frames);
    assert!(after - before < video.n_frames as f64);
}

#[test]
fn leaving_at_any_byte_harms_nobody_else() {
    let server = Server::start(&["--parallel", "4"]);
    let body = json!({
        "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 300, "ignore_eos": true, "stream": true,
        "logit_bias": only(&server, "diamond"), "cache_prompt": true,
    });
    let calm = json!({ "messages": body["messages"], "max_tokens": 120, "ignore_eos": true });
    let want = content(&server.ask(&calm)).to_string();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One that stays hears the same all the while.
        let steady = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(content(&server.ask(&calm)), want);
                n += 1;
            }
            n
        });
        let mut rng = Rng(12345);
        for _ in 0..times("LONGTAKE_LEAVES", 20) {
            let mut stream = server.open("/v1/chat/completions", &body);
            let mut bytes = vec![0; rng.below(12_000)];
            let _ = stream.read_exact(&mut bytes);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(steady.join().unwrap() > 0);
    });
    server.until("all stopped", || is_idle(&server));
    assert_eq!(content(&server.ask(&calm)), want);
    assert_eq!(server.metric("longtake_job_panics_total"), 0.0);
}

/// How many steps an answer still takes is known where answers are given (`crew.rs`); here, that the word gets there at once
/// from wherever in a stream a client leaves.
#[test]
fn leaving_at_any_byte_stops_the_work() {
    const MOST: u32 = 3000;
    let server = Server::start(&["-c", "4096"]);
    let body = json!({
        "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": MOST, "ignore_eos": true, "stream": true,
        "logit_bias": only(&server, "diamond"),
    });
    let mut rng = Rng(4);
    for i in 0..times("LONGTAKE_LEAVES", 6) {
        let before = server.metric("longtake_generated_tokens_total");
        let mut stream = server.open("/v1/chat/completions", &body);
        let n = rng.below(20_000);
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).unwrap();
        drop(stream);
        let left = Instant::now();
        server.until("stopped", || is_idle(&server));
        let n_tokens = server.metric("longtake_generated_tokens_total") - before;
        assert!(n_tokens < f64::from(MOST), "the whole answer was made for nobody who heard {n} bytes");
        assert!(left.elapsed() < Duration::from_secs(5), "{i}: {:?} after {n} bytes", left.elapsed());
    }
}

#[test]
fn the_queue_is_short_and_honest() {
    let server = Server::start(&["--parallel", "1", "--queue", "1"]);
    let id = server.upload(&video(40).bytes, "v.mp4");
    let long = {
        let mut body = question(&id, "?");
        body["stream"] = json!(true);
        body
    };
    let first = server.open("/v1/chat/completions", &long);
    server.until("running", || server.metric("longtake_requests_running") == 1.0);
    let quick = json!({ "messages": [{ "role": "user", "content": "Hi" }], "stream": true, "return_progress": true, "max_tokens": 2 });
    let waiting = server.open("/v1/chat/completions", &quick);
    server.until("waiting", || server.metric("longtake_requests_waiting") == 1.0);
    let refused = server.post("/v1/chat/completions", &quick);
    refused.refused(429, "queue_full");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&seconds));
    // One that waits and leaves makes room, and the one that runs goes on.
    drop(waiting);
    server.until("left", || server.metric("longtake_requests_waiting") == 0.0);
    assert_eq!(server.metric("longtake_requests_running"), 1.0);
    let mut second = server.open("/v1/chat/completions", &quick);
    server.until("waiting again", || server.metric("longtake_requests_waiting") == 1.0);
    drop(first);
    let mut text = String::new();
    second.read_to_string(&mut text).unwrap();
    assert!(text.contains("\"queue_position\":1") && text.contains("[DONE]"), "{text}");
    assert_eq!(server.metric("longtake_queue_rejected_total"), 1.0);
}

#[test]
fn an_answer_waits_for_a_step_and_not_for_a_film() {
    let server = Server::start(&[]);
    // A take that is there already, and words alone.
    let short = server.upload(&video(6).bytes, "short.mp4");
    let short = server.post("/v1/takes", &json!({ "file_id": short, "reserve": 64 })).json()["id"].clone();
    server.until("read", || server.get(&format!("/v1/takes/{}", short.as_str().unwrap())).json()["status"] == "ready");
    let from_take = question(short.as_str().unwrap(), &video(6).question);
    let hello = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 2 });
    server.ask(&hello);
    let file = server.upload(&video(40).bytes, "v.mp4");
    let take = server.post("/v1/takes", &json!({ "file_id": file, "reserve": 64 })).json();
    let path = format!("/v1/takes/{}", take["id"].as_str().unwrap());
    let status = || server.get(&path).json()["status"].as_str().unwrap().to_string();
    server.until("reading", || status() != "queued");
    let mut n = 0;
    let began = Instant::now();
    while status() == "reading" && n < 5 {
        server.ask(&hello);
        assert_eq!(content(&server.ask(&from_take)), video(6).answer);
        n += 1;
    }
    // Each of them was answered while the film was read, which takes as long as it takes.
    assert!(n >= 3, "only {n} answers in {:?}", began.elapsed());
    server.until("read", || status() == "ready");
}
