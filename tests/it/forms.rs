//! Answers of a demanded form from the command line.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.gguf");
const VIDEO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.mp4");

fn longtake(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that refuses its flags reads nothing.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child.wait_with_output().unwrap()
}

const SCHEMA: &str = r#"{"type":"object","properties":{"shape":{"enum":["ring","star"]},"n":{"type":"integer","maximum":9,"minimum":0}},"required":["shape","n"],"additionalProperties":false}"#;

#[test]
fn run_ask_and_chat_answer_in_the_form_that_is_demanded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let is_good = |text: &[u8]| {
        let found: Value = serde_json::from_slice(text).unwrap();
        assert!(found["shape"] == "ring" && (0..10).contains(&found["n"].as_i64().unwrap()), "{found}");
    };
    let question = "What shape is shown?";
    let out = longtake(&["run", "-m", MODEL, "--video", VIDEO, "-p", question, "-j", SCHEMA, "-q"], "");
    is_good(&out.stdout);

    let (take, grammar, schema) = (at("v.take"), at("g.gbnf"), at("s.json"));
    std::fs::write(&grammar, "root ::= (\"star\" | \"ring\") \" is shown.\"\n").unwrap();
    std::fs::write(&schema, SCHEMA).unwrap();
    let out = longtake(&["watch", VIDEO, "-m", MODEL, "-o", &take, "-c", "2048", "--reserve", "256"], "");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let ask = ["ask", &take, question, question, "-m", MODEL, "-q"];
    let out = longtake(&[&ask[..], &["--grammar-file", &grammar]].concat(), "");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "ring is shown.\nring is shown.\n");
    let out = longtake(&[&ask[..], &["--json-schema-file", &schema, "--json"]].concat(), "");
    for line in out.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let answer: Value = serde_json::from_slice(line).unwrap();
        is_good(answer["text"].as_str().unwrap().as_bytes());
    }
    let chat = ["chat", "--take", &take, "-m", MODEL, "--grammar", "start: \"yes\" | \"no\""];
    let out = longtake(&chat, "Is it a ring?\nIs it a star?\n");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.lines().count() == 2 && said.lines().all(|line| ["yes", "no"].contains(&line)), "{said}");
}

#[test]
fn what_cannot_be_followed_is_said_before_any_work() {
    for (args, word) in [
        (&["--json-schema", "{"][..], "--json-schema"),
        (&["-j", r#"{"type":"wizard"}"#], "--json-schema"),
        (&["--grammar", "root ::= nobody"], "`nobody`"),
        (&["--grammar-file", "/nowhere/g.gbnf"], "/nowhere/g.gbnf"),
        (&["-j", "{}", "--ignore-eos"], "--ignore-eos"),
        (&["-j", "{}", "--grammar", "x"], "--grammar"),
    ] {
        let out = longtake(&[&["run", "-m", MODEL, "-p", "?", "-n", "4"], args].concat(), "");
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && words.contains(word) && out.stdout.is_empty(), "{args:?}: {words}");
        assert!(!words.contains("panicked"), "{words}");
    }
}
