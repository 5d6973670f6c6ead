//! One ledger for all memory: who does not fit now waits or is told when to come again, who never fits is told why, and what
//! conversations have read that are let go is not lost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longtake::gguf::Gguf;
use serde_json::{Value, json};

use crate::client::{Server, content, question, video};

/// What `/props` says of memory.
fn memory(server: &Server) -> Value {
    server.get("/props").json()["longtake"]["memory"].clone()
}

/// Bytes of the model, and of a conversation.
fn sizes(args: &[&str]) -> (u64, u64) {
    let memory = memory(&Server::start(args));
    assert_eq!(memory["limit"], Value::Null);
    (memory["held"]["model"].as_u64().unwrap(), memory["conversation"].as_u64().unwrap())
}

/// All that is held.
fn held(server: &Server) -> u64 {
    memory(server)["held"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

#[test]
fn what_does_not_fit_together_goes_one_after_the_other() {
    let (model, conversation) = sizes(&["-c", "2048"]);
    let most = model + conversation * 3 / 2;
    let server = Server::start(&["-c", "2048", "--parallel", "4", "--max-memory", &most.to_string()]);
    let ask = |i: usize| {
        let text = format!("{i}{}", " Hello".repeat(20 + i));
        let body = json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 30, "ignore_eos": true });
        content(&server.ask(&body)).to_string()
    };
    let alone: Vec<String> = (0..6).map(ask).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(Ordering::Relaxed) {
                peak = peak.max(held(&server));
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let asked: Vec<_> = (0..6).map(|i| scope.spawn(move || ask(i))).collect();
        asked.into_iter().zip(&alone).for_each(|(asked, alone)| assert_eq!(&asked.join().unwrap(), alone));
        is_over.store(true, Ordering::Relaxed);
        let peak = watch.join().unwrap();
        assert!(peak > model && peak <= most, "{peak} of {most}");
    });
    assert_eq!(server.metric("longtake_sessions"), 1.0);
    assert_eq!(server.metric("longtake_memory_bytes{holder=\"requests\"}"), 0.0);
    assert_eq!(server.metric("longtake_memory_bytes_limit"), most as f64);
    // A body counts, too: a conversation that nobody speaks in makes room for it.
    let text = "x".repeat(usize::try_from(most - model - conversation / 2).unwrap().min(3 << 20));
    let body = json!({ "messages": [{ "role": "user", "content": "Hello" }], "user": text, "max_tokens": 2 });
    server.ask(&body);

    // Less than one conversation: it does not start.
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(["serve", "--demo", "--no-store", "--port", "0", "-c", "2048", "--max-memory"]);
    let out = command.arg((model + conversation / 2).to_string()).stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && words.contains("--max-memory") && words.contains("lower -c"), "{words}");
}

#[test]
fn a_video_that_is_read_holds_its_memory_and_others_are_told() {
    let args = ["-c", "8192"];
    let open = Server::start(&args);
    let id = open.upload(&video(40).bytes, "v.mp4");
    let wanted = json!({ "file_id": id, "reserve": 64 });
    let plan = open.post("/v1/plan", &wanted).json();
    let conversation = memory(&open)["conversation"].as_u64().unwrap();
    drop(open);
    let most = plan["memory"]["total"].as_u64().unwrap() + conversation / 2;
    let server = Server::start(&[&args[..], &["--max-memory", &most.to_string()]].concat());
    let hello = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 2 });
    server.ask(&hello);
    let wanted = json!({ "file_id": server.upload(&video(40).bytes, "v.mp4"), "reserve": 64 });
    let take = server.post("/v1/takes", &wanted).json()["id"].as_str().unwrap().to_string();
    let takes = || server.metric("longtake_memory_bytes{holder=\"takes\"}");
    server.until("reading", || takes() > 0.0);
    let refused = server.post("/v1/chat/completions", &hello);
    if takes() > 0.0 {
        let error = refused.refused(429, "too_many_bytes");
        assert!(error["message"].as_str().unwrap().contains("/cancel"), "{error}");
        assert!(refused.header("retry-after").is_some());
    }
    assert!(held(&server) <= most);
    server.until("ready", || server.get(&format!("/v1/takes/{take}")).json()["status"] == "ready");
    server.until("given back", || takes() == 0.0);
    server.ask(&hello);
    assert_eq!(content(&server.ask(&question(&take, &video(40).question))), video(40).answer);
    assert!(held(&server) <= most);
    // What never fits is told with the way out.
    let mut body = question(&server.upload(&video(40).bytes, "v.mp4"), "?");
    body["longtake"] = json!({ "max_memory": 1 << 20 });
    let error = server.post("/v1/chat/completions", &body).refused(400, "video_does_not_fit");
    assert!(error["message"].as_str().unwrap().contains("memory"), "{error}");
}

/// A server of one conversation, which another question drives out.
fn small(args: &[&str]) -> Server {
    Server::start(&[&["--parallel", "1"], args].concat())
}

fn drive_out(server: &Server) {
    server.ask(&json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 2 }));
}

/// Where in a take the first key lies.
fn first_key(path: &Path) -> usize {
    let file = Gguf::open(path).unwrap();
    usize::try_from(file.file_offset(file.tensor("cache.k").unwrap())).unwrap()
}

#[test]
fn what_a_conversation_has_read_is_a_take_when_it_is_let_go() {
    let video = video(6);
    let server = small(&["--keep-read", "0"]);
    let frames = |server: &Server| server.frames_read();
    let kept = |server: &Server| server.metric("longtake_takes_kept_total");
    let file = server.upload(&video.bytes, "v.mp4");
    let mut body = question(&file, &video.question);
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(3));
    let more = |text: &str| {
        let mut body = body.clone();
        let turns = body["messages"].as_array_mut().unwrap();
        turns.extend([json!({ "role": "assistant", "content": "red" }), json!({ "role": "user", "content": text })]);
        body
    };
    let tell = |server: &Server, body: &Value| server.ask(body)["choices"][0].clone();
    let want = [tell(&server, &body), tell(&server, &more("And then?"))];
    assert_eq!(content(&json!({ "choices": [want[0]] })), video.answer);
    let all = frames(&server);
    assert_eq!(all, video.n_frames as f64);
    drive_out(&server);
    server.until("kept", || kept(&server) == 1.0);
    // It is a take like any other,
    let takes = server.get("/v1/takes").json()["data"].clone();
    let take = &takes[0];
    assert!(takes.as_array().unwrap().len() == 1 && take["status"] == "ready" && take["name"] == "v.mp4", "{takes}");
    let id = take["id"].as_str().unwrap();
    assert_eq!(content(&server.ask(&question(id, &video.question))), video.answer);
    // and the next turn goes on from it, whatever came between. The step behind the video is cut elsewhere, which may change the
    // last bits of a likelihood once.
    let again = [body.clone(), more("And then?")].map(|body| {
        drive_out(&server);
        let answer = server.ask(&body);
        assert!(answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(800), "{answer}");
        assert_eq!(answer["longtake"]["media"][0]["source"], "take");
        answer["choices"][0].clone()
    });
    for (again, want) in again.iter().zip(&want) {
        let likely = |choice: &Value| choice["logprobs"]["content"][0]["logprob"].as_f64().unwrap();
        assert_eq!(again["message"], want["message"]);
        assert!((likely(again) - likely(want)).abs() < 1e-5, "{again} {want}");
    }
    assert_eq!((frames(&server), kept(&server)), (all, 1.0));
    // So it does after a kill, to the bit.
    let server = server.kill_and_restart();
    assert_eq!(tell(&server, &body), again[0]);
    assert_eq!(frames(&server), 0.0);
    // A damaged one is told of and not used; the next one takes its place.
    let path = server.data.join("takes").join(format!("{id}.take"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[first_key(&path)] ^= 1;
    // A new file: the old one is still mapped.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let server = server.kill_and_restart();
    assert_eq!(tell(&server, &body), want[0]);
    assert_eq!(frames(&server), all);
    assert_eq!(server.get(&format!("/v1/takes/{id}")).json()["status"], "failed");
    drive_out(&server);
    server.until("kept", || kept(&server) == 1.0);
    server.get(&format!("/v1/takes/{id}")).refused(404, "take_not_found");
    // One that is removed is gone.
    let takes = server.get("/v1/takes").json()["data"].clone();
    assert_eq!(takes.as_array().unwrap().len(), 1);
    assert_eq!(server.delete(&format!("/v1/takes/{}", takes[0]["id"].as_str().unwrap())).status, 200);
    assert_eq!(tell(&server, &body)["message"], want[0]["message"]);
    assert_eq!(frames(&server), 2.0 * all);
}

#[test]
fn the_end_of_a_server_loses_nothing_that_took_long_to_read() {
    let video = video(6);
    let whole = question("", &video.question);
    let mut thinned = whole.clone();
    thinned["messages"][0]["content"][1]["dedup"] = json!(32);
    let mut n_tokens = Vec::new();
    for mut body in [whole, thinned] {
        let mut server = small(&["--keep-read", "0"]);
        body["messages"][0]["content"][1]["file"]["file_id"] = json!(server.upload(&video.bytes, "v.mp4"));
        let want = server.ask(&body);
        server.terminate();
        assert_eq!(server.wait(), Some(0));
        let server = server.kill_and_restart();
        let again = server.ask(&body);
        assert_eq!((&again["choices"], server.frames_read()), (&want["choices"], 0.0));
        assert_eq!(again["usage"]["prompt_tokens"], want["usage"]["prompt_tokens"]);
        n_tokens.push(want["usage"]["prompt_tokens"].as_u64().unwrap());
    }
    assert!(n_tokens[1] < n_tokens[0], "nothing was left out: {n_tokens:?}");
    // What was read in a moment is read again in a moment.
    let server = small(&["--keep-read", "3600"]);
    let body = question(&server.upload(&video.bytes, "v.mp4"), &video.question);
    server.ask(&body);
    drive_out(&server);
    server.ask(&body);
    assert_eq!(server.frames_read(), 2.0 * video.n_frames as f64);
    assert_eq!(server.get("/v1/takes").json()["data"], json!([]));
}
