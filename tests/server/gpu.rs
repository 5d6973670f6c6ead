//! Layers on the emulated GPU behind the front doors: answers at the same time, and what `longtake bench` measures of contexts
//! that decode together.

use std::process::Command;

use serde_json::{Value, json};

use crate::client::Server;

fn complete(server: &Server, i: usize) -> String {
    let prompt = ["A circle, then", "Red blue green", "What", "One two three four five"][i % 4];
    let body = json!({ "prompt": prompt, "max_tokens": 6, "ignore_eos": true, "cache_prompt": false });
    let reply = server.post("/v1/completions", &body);
    let answer: Value = reply.json();
    assert_eq!(answer["usage"]["completion_tokens"], 6, "{answer}");
    answer["choices"][0]["text"].as_str().unwrap().to_string()
}

#[test]
fn answers_at_the_same_time_are_those_one_by_one() {
    for ngl in ["1", "all"] {
        let server = Server::start(&["-ngl", ngl, "--parallel", "4"]);
        assert!(server.log().contains("emulated GPU: layers"), "{}", server.log());
        let alone: Vec<String> = (0..4).map(|i| complete(&server, i)).collect();
        let server = &server;
        let together: Vec<String> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..4).map(|i| scope.spawn(move || complete(server, i))).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(together, alone, "-ngl {ngl}");
    }
}

#[test]
fn bench_lets_contexts_decode_together() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/random_model/demo.gguf");
    for ngl in ["1", "all"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        command.args(["bench", "-m", file, "-p", "0", "-n", "2", "-e", "none", "-r", "1", "--parallel", "1,4"]);
        let out = command.args(["-ngl", ngl]).env("LONGTAKE_CUDA_EMULATED", "1").output().unwrap();
        let (text, log) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && log.contains("emulated GPU: layers"), "{log}");
        assert!(text.contains("tg2 x1") && text.contains("tg2 x4"), "{text}");
    }
}
