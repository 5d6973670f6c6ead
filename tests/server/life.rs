//! A server from its start to its end, its page, and many clients at once.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::client::{Server, content, question, video};

#[test]
fn a_signal_ends_it_when_what_runs_is_done() {
    let mut server = Server::start(&["--checkpoint", "0"]);
    let id = server.upload(&video(6).bytes, "v.mp4");
    let film = server.upload(&video(40).bytes, "film.mp4");
    let take = server.post("/v1/takes", &json!({ "file_id": film, "reserve": 64 })).json();
    let (text, exit) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.post("/v1/chat/completions", &question(&id, &video(6).question)));
        server.until("running", || server.metric("longtake_requests_running") == 1.0);
        server.terminate();
        // Nothing new, and those who look for a server that takes work are told.
        server.until("draining", || {
            let ready = server.get("/ready");
            ready.status == 0 || ready.json()["status"] == "draining"
        });
        let refused = server.post("/v1/chat/completions", &question(&id, "?"));
        if refused.status != 0 {
            refused.refused(503, "draining");
        }
        let reply = asked.join().unwrap();
        (content(&reply.json()).to_string(), ())
    });
    let () = exit;
    assert_eq!(text, video(6).answer);
    assert_eq!(server.wait(), Some(0));
    // The film goes on by itself.
    let server = server.kill_and_restart();
    let path = format!("/v1/takes/{}", take["id"].as_str().unwrap());
    server.until("read", || server.get(&path).json()["status"] == "ready");
}

#[test]
fn many_clients_get_their_own_answers() {
    let server = Server::start(&["--parallel", "4", "--queue", "64"]);
    let ask = |i: usize| {
        let body = json!({ "messages": [{ "role": "user", "content": format!("Hello {i}") }], "max_tokens": 16, "ignore_eos": true });
        content(&server.ask(&body)).to_string()
    };
    let alone: Vec<String> = (0..8).map(ask).collect();
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (ask, alone) = (&ask, &alone);
            scope.spawn(move || (0..6).for_each(|n| assert_eq!(ask((client + n) % 8), alone[(client + n) % 8])));
        }
    });
    // A place is given back once the answer is out.
    server.until("nothing runs", || server.metric("longtake_requests_running") == 0.0);
}

#[test]
fn what_others_could_reach_does_not_start_without_a_key() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        command.args(["serve", "--demo", "--no-store", "--port", "0"]).args(args);
        command.env_remove("LONGTAKE_API_KEY").stdin(Stdio::null()).output().unwrap()
    };
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        let out = run(&["--host", host]);
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && words.contains("--api-key"), "{host}: {words}");
    }
    assert_eq!(run(&["--host", "example.com"]).status.code(), Some(2));
    assert_eq!(run(&["--api-key", " "]).status.code(), Some(2));
    // Two servers in one store would remove each other's files.
    let server = Server::start(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    let out =
        command.args(["serve", "--demo", "--port", "0", "--data", server.data.to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("in use by another server"));
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let server = Server::start(&["--api-key", "secret"]);
    let mut all = String::new();
    for path in ["/", "/page.js", "/page.css"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200);
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        let tag = reply.header("etag").unwrap();
        assert_eq!(server.send("GET", path, &[("if-none-match", tag)], b"").status, 304);
        all.push_str(&reply.text());
    }
    for word in [
        "http://",
        "https://",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "eval(",
        "onclick=",
        "style=\"",
        "<script>",
    ] {
        assert!(!all.contains(word), "{word}");
    }
    assert_eq!(Server::start(&["--no-page", "--no-store"]).get("/").status, 404);
}

#[test]
#[cfg(unix)]
fn a_socket_can_be_a_file() {
    use std::io::{BufReader, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(["serve", "--demo", "--no-store", "--host", &format!("unix:{}", path.display())]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let reply = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut stream = std::os::unix::net::UnixStream::connect(&path).ok()?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        Some(crate::client::Reply::read(&mut BufReader::new(stream))).filter(|reply| reply.status == 200)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reply.is_some());
}
