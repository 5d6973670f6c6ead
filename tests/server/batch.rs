//! `longtake batch`: every request is answered once, whatever ends the program in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Server, video};

/// Requests of every kind: about a video, of a form, of the other APIs, and some that are refused.
fn requests(folder: &Path) -> String {
    std::fs::write(folder.join("v.mp4"), &video(6).bytes).unwrap();
    let url = format!("file://{}", folder.join("v.mp4").display());
    let mut lines = Vec::new();
    for i in 0..18 {
        let text = format!("Say {i}");
        let message = json!([{ "role": "user", "content": text }]);
        let (path, body) = match i % 6 {
            0 => (
                "/v1/chat/completions",
                json!({ "messages": [{ "role": "user", "content": [
                { "type": "video_url", "video_url": { "url": url } }, { "type": "text", "text": format!("{} {i}", video(6).question) },
            ] }], "max_tokens": 6 }),
            ),
            1 => ("/v1/chat/completions", json!({ "messages": message, "guided_choice": ["yes", "no"] })),
            2 => ("/v1/completions", json!({ "prompt": text, "max_tokens": 5, "ignore_eos": true })),
            3 => ("/v1/responses", json!({ "input": text, "max_output_tokens": 5 })),
            4 => ("/v1/chat/completions", json!({ "messages": [], "n": i })),
            _ => (
                "/v1/chat/completions",
                json!({ "messages": message, "max_tokens": 20, "ignore_eos": true, "temperature": 1, "seed": i }),
            ),
        };
        lines.push(json!({ "custom_id": format!("r{i}"), "method": "POST", "url": path, "body": body }).to_string());
    }
    lines.join("\n")
}

fn start(folder: &Path, output: &str, more: &[&str]) -> Child {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command
        .args(["batch", &at("in.jsonl"), "-o", &at(output), "--demo", "-t", "2", "-q", "--media-path", &at("")])
        .args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Answers by id: status and what was said. An id twice is a failure.
fn answers(path: &Path) -> BTreeMap<String, (u64, String)> {
    let mut found = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["id"].as_str().unwrap().starts_with("batch_req") && line["error"].is_null(), "{line}");
        let (response, body) = (&line["response"], &line["response"]["body"]);
        assert!(response["request_id"].is_string());
        let said = [
            &body["choices"][0]["message"]["content"],
            &body["choices"][0]["text"],
            &body["output"][0]["content"][0]["text"],
            &body["error"]["code"],
        ];
        let said = said.iter().find_map(|said| said.as_str()).unwrap_or_else(|| panic!("{line}")).to_string();
        let id = line["custom_id"].as_str().unwrap().to_string();
        assert!(found.insert(id.clone(), (response["status_code"].as_u64().unwrap(), said)).is_none(), "{id} twice");
    }
    found
}

#[test]
fn every_request_is_answered_once_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in.jsonl"), requests(dir.path())).unwrap();
    finish(start(dir.path(), "whole.jsonl", &[]));
    let whole = answers(&dir.path().join("whole.jsonl"));
    assert_eq!(whole.len(), 18);
    let refused = whole.values().filter(|(status, _)| *status == 400).count();
    assert_eq!((refused, whole.values().filter(|(status, _)| *status == 200).count()), (3, 15), "{whole:?}");
    assert!(["yes", "no"].contains(&&*whole["r1"].1));
    // Once more: nothing is asked again.
    let before = std::fs::read(dir.path().join("whole.jsonl")).unwrap();
    finish(start(dir.path(), "whole.jsonl", &[]));
    assert_eq!(std::fs::read(dir.path().join("whole.jsonl")).unwrap(), before);

    // Killed at many moments, with a line torn now and then: the same answers, each once.
    let output = dir.path().join("killed.jsonl");
    let mut n_kills = 0;
    loop {
        let mut child = start(dir.path(), "killed.jsonl", &["--parallel", "3"]);
        // Later every time, so that it ends.
        std::thread::sleep(Duration::from_millis(150 + 170 * n_kills));
        if child.try_wait().unwrap().is_some() {
            finish(child);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        n_kills += 1;
        if n_kills % 2 == 0 && output.exists() {
            let text = std::fs::read(&output).unwrap();
            std::fs::write(&output, &text[..text.len().saturating_sub(7)]).unwrap();
        }
    }
    assert!(n_kills > 0);
    assert_eq!(answers(&output), whole, "after {n_kills} kills");

    // Shards, in another order of lines: together all of it.
    let text = requests(dir.path());
    let reversed: Vec<&str> = text.lines().rev().collect();
    std::fs::write(dir.path().join("in.jsonl"), reversed.join("\n")).unwrap();
    let mut all = BTreeMap::new();
    for i in 0..3 {
        let name = format!("shard{i}.jsonl");
        finish(start(dir.path(), &name, &["--shard", &format!("{i}/3")]));
        let part = answers(&dir.path().join(name));
        assert!(part.len() < 18);
        all.extend(part);
    }
    assert_eq!(all, whole);
}

#[test]
fn what_is_wrong_with_a_batch_is_said_before_anything_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"x"}],"max_tokens":1}}"#;
    let ask = |text: &str, more: &[&str]| {
        std::fs::write(dir.path().join("in.jsonl"), text).unwrap();
        let out = start(dir.path(), "out.jsonl", more).wait_with_output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (text, more, why) in [
        (format!("{good}\n{good}\n"), &[][..], "line 2"),
        (format!("{good}\n{{\n"), &[], "line 2"),
        (good.to_string(), &["--shard", "2/2"], "shard"),
    ] {
        let (code, words) = ask(&text, more);
        assert!(code == Some(2) && words.contains(why), "{code:?} {words}");
        assert!(!dir.path().join("out.jsonl").exists());
    }
    // Nor are requests, by whatever name they are reached.
    let same = format!("{}/./in.jsonl", dir.path().display());
    let (code, words) = ask(good, &["-o", &same]);
    assert!(code == Some(2) && words.contains("over the requests"), "{code:?} {words}");
    assert_eq!(std::fs::read_to_string(&same).unwrap(), good);
    // A file that is no output of a batch is not written to.
    std::fs::write(dir.path().join("out.jsonl"), "precious\n").unwrap();
    let (code, words) = ask(good, &[]);
    assert!(code == Some(2) && words.contains("left alone"), "{words}");
    assert_eq!(std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap(), "precious\n");
}

#[test]
fn a_batch_over_http_outlives_its_server_and_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--media-path", dir.path().to_str().unwrap()]);
    // One endpoint for each batch, as OpenAI has it.
    let chats: Vec<String> =
        requests(dir.path()).lines().filter(|line| line.contains("/v1/chat/completions")).map(str::to_string).collect();
    let upload = |server: &Server, lines: &str| {
        let reply = server.send("PUT", "/v1/files?filename=in.jsonl&purpose=batch", &[], lines.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["id"].as_str().unwrap().to_string()
    };
    let input = upload(&server, &chats.join("\n"));
    let wanted = json!({ "input_file_id": input, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": { "job": "7" } });
    let batch = server.post("/v1/batches", &wanted).json();
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    assert_eq!((&batch["object"], &batch["metadata"]["job"]), (&json!("batch"), &json!("7")));
    // Killed in the middle, twice: what was answered stays answered.
    server.until("some answers", || server.get(&path).json()["request_counts"]["completed"].as_u64().unwrap() > 1);
    let server = server.kill_and_restart();
    server.until("more answers", || server.get(&path).json()["request_counts"]["completed"].as_u64().unwrap() > 4);
    let server = server.kill_and_restart();
    server.until("the end", || server.get(&path).json()["status"] == "completed");
    let done = server.get(&path).json();
    // Refusals are counted as such, whoever answered them.
    assert_eq!(done["request_counts"], json!({ "total": chats.len(), "completed": chats.len() - 3, "failed": 3 }));
    let output = done["output_file_id"].as_str().unwrap();
    let lines = server.get(&format!("/v1/files/{output}/content"));
    assert_eq!((lines.status, lines.header("content-type")), (200, Some("application/jsonl")));
    let kept = dir.path().join("kept.jsonl");
    std::fs::write(&kept, &lines.body).unwrap();
    let found = answers(&kept);
    assert_eq!(found.len(), chats.len());
    assert_eq!(found.values().filter(|(status, _)| *status == 400).count(), 3);

    // Stopped: it ends, and what was answered is there.
    let many: Vec<String> = (0..200)
        .map(|i| json!({ "custom_id": format!("m{i}"), "url": "/v1/completions", "body": { "prompt": "x", "max_tokens": 20, "ignore_eos": true } }).to_string())
        .collect();
    let input = upload(&server, &many.join("\n"));
    let batch = server.post("/v1/batches", &json!({ "input_file_id": input, "endpoint": "/v1/completions" })).json();
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    server.until("an answer", || server.get(&path).json()["request_counts"]["completed"].as_u64().unwrap() > 0);
    // One that waits behind it is over as soon as it is told to be.
    let waiting = server.post("/v1/batches", &json!({ "input_file_id": input, "endpoint": "/v1/completions" })).json();
    let waiting = format!("/v1/batches/{}", waiting["id"].as_str().unwrap());
    assert_eq!(server.post(&format!("{waiting}/cancel"), &json!({})).json()["status"], "cancelled");
    let began = std::time::Instant::now();
    let status = server.post(&format!("{path}/cancel"), &json!({})).json()["status"].clone();
    assert!(status == "cancelling" || status == "cancelled", "{status}");
    server.until("stopped", || server.get(&path).json()["status"] == "cancelled");
    assert!(began.elapsed() < Duration::from_secs(20) && server.get(&path).json()["output_file_id"].is_string());
    // Nothing of it goes on, and nothing keeps a place.
    for of in ["running", "waiting"] {
        server.until(of, || server.metric(&format!("longtake_requests_{of}")) == 0.0);
    }
    // It is still over after a restart, with the same output.
    let stopped = server.get(&path).json();
    let server = server.kill_and_restart();
    assert_eq!(server.get(&path).json(), stopped);

    // Lines that are none fail the batch, with the reason; what is no file of lines is refused.
    let input = upload(&server, "{");
    let batch = server.post("/v1/batches", &json!({ "input_file_id": input, "endpoint": "/v1/completions" })).json();
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    server.until("failed", || server.get(&path).json()["status"] == "failed");
    let errors = server.get(&path).json()["errors"].to_string();
    assert!(errors.contains("JSON") && !errors.contains("blobs"), "{errors}");
    let film = server.upload(&video(6).bytes, "v.mp4");
    server.get(&format!("/v1/files/{film}/content")).refused(404, "file_not_found");
    for (body, param) in [
        (json!({ "input_file_id": film, "endpoint": "/v1/completions" }), "input_file_id"),
        (json!({ "input_file_id": input, "endpoint": "/v1/embeddings" }), "endpoint"),
        (json!({ "input_file_id": input }), "endpoint"),
    ] {
        assert_eq!(server.post("/v1/batches", &body).refused(400, "invalid_value")["param"], param);
    }
    server.get("/v1/batches/batch-1").refused(404, "batch_not_found");
}
