//! Every class of hole that servers of this kind had, by name. What is tested is that the whole server refuses; rows about
//! parsing alone have more cases beside the parser, in `src/server/wire`.

use std::io::{BufReader, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::client::{Reply, Server, content, question, video};

fn ask(part: Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": [part] }], "max_tokens": 2 })
}

fn video_url(url: &str) -> Value {
    ask(json!({ "type": "video_url", "video_url": { "url": url } }))
}

/// Server-side request forgery: CVE-2025-6242, CVE-2026-24779 (two parsers, a backslash), CVE-2026-5530.
#[test]
fn ssrf_nothing_is_ever_fetched() {
    let server = Server::start(&["--no-store"]);
    // Somebody who would notice.
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = trap.local_addr().unwrap().port();
    for url in [
        format!("http://127.0.0.1:{port}/a.mp4"),
        format!("HTTP://localhost:{port}/"),
        format!("http:\\\\127.0.0.1:{port}\\a"),
        format!("http://example.com@127.0.0.1:{port}/"),
        format!("//127.0.0.1:{port}/a.png"),
        format!("ftp://127.0.0.1:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_string(),
        "gopher://127.0.0.1/".to_string(),
    ] {
        server.post("/v1/chat/completions", &video_url(&url)).refused(400, "media_url_not_allowed");
        server.post("/v1/plan", &video_url(&url)).refused(400, "media_url_not_allowed");
    }
    assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// Paths: what is forbidden looks like what is absent.
#[test]
fn paths_lead_nowhere_but_below_the_one_folder() {
    let server = Server::start(&["--no-store"]);
    for url in ["file:///etc/passwd", "file:///proc/self/environ"] {
        server.post("/v1/chat/completions", &video_url(url)).refused(400, "media_not_found");
    }
    for path in ["/etc/passwd", "../x", "C:\\x"] {
        server.post("/v1/chat/completions", &video_url(path)).refused(400, "media_url_not_allowed");
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("media");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::write(root.join("sub/v.mp4"), &video(6).bytes).unwrap();
    std::fs::write(dir.path().join("outside.mp4"), &video(6).bytes).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("outside.mp4"), root.join("link.mp4")).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("up")).unwrap();
    }
    let server = Server::start(&["--media-path", root.to_str().unwrap()]);
    let of = |path: String| server.post("/v1/plan", &video_url(&format!("file://{path}")));
    let root = root.display();
    assert_eq!(of(format!("{root}/sub/v.mp4")).status, 200);
    let absent = of(format!("{root}/none.mp4")).refused(400, "media_not_found");
    for path in
        ["/link.mp4", "/up/outside.mp4", "/sub/../../outside.mp4", "/sub", "/%2e%2e/outside.mp4", "/../outside.mp4"]
    {
        assert_eq!(of(format!("{root}{path}")).refused(400, "media_not_found"), absent, "{path}");
    }
    let take = |path: &str| server.post("/v1/takes", &json!({ "path": path, "reserve": 64 }));
    assert_eq!(take("sub/v.mp4").status, 202);
    take("../outside.mp4").refused(400, "media_not_found");
}

/// Decoders and bombs: CVE-2026-22778 (an error text with an address), 40000x40000 PNG, CVE-2026-5497, CVE-2026-22773.
#[test]
fn bombs_and_damaged_media_are_refused_by_their_headers() {
    let server = Server::start(&[]);
    let encode = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
    let picture = |bytes: &[u8]| {
        ask(json!({ "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{}", encode(bytes)) } }))
    };
    // A PNG that says it is 40000 x 40000, and is a few bytes.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(40_000u32.to_be_bytes().repeat(2));
    png.extend([16, 6, 0, 0, 1, 0, 0, 0, 0]);
    for bytes in
        [&png[..], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 nothing", b"BM", b"\0\0\0\x18ftypisomabcdefgh", b"text"]
    {
        let began = Instant::now();
        let reply = server.post("/v1/chat/completions", &picture(bytes));
        assert_eq!(reply.status, 400, "{}", reply.text());
        reply.refused(400, reply.json()["error"]["code"].as_str().unwrap());
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(server.send("PUT", "/v1/files?filename=x.png", &[], bytes).status, 400);
    }
    let frames = vec!["AAAA"; 1000].join(",");
    server
        .post("/v1/chat/completions", &video_url(&format!("data:video/jpeg;base64,{frames}")))
        .refused(400, "invalid_value");
    // Tiny pictures are legal.
    let mut tiny = Vec::new();
    image::RgbImage::new(1, 1).write_to(&mut std::io::Cursor::new(&mut tiny), image::ImageFormat::Png).unwrap();
    assert_eq!(server.post("/v1/chat/completions", &picture(&tiny)).status, 200);
    assert_eq!(server.metric("longtake_job_panics_total"), 0.0);
}

/// Huge and slow bodies: CVE-2025-48956 (one giant header), unbounded uploads, slowloris.
#[test]
fn huge_and_slow_requests_cost_nothing() {
    let server = Server::start(&["--max-body", "1M", "--max-file", "1M", "--quota", "4M"]);
    let json_type = ("content-type", "application/json");
    let of = |path: &str, method: &str, length: &str| {
        server.send(method, path, &[json_type, ("content-length", length)], b"")
    };
    of("/v1/chat/completions", "POST", "10000000000").refused(413, "body_too_large");
    of("/v1/files?filename=x", "PUT", "10000000000").refused(413, "file_too_large");
    // Without a length it is as long as it gets.
    let chunked = [json_type, ("transfer-encoding", "chunked"), ("x", "y")];
    let mut stream = server.connect();
    let mut head = String::from_utf8(server.head("POST", "/v1/chat/completions", &chunked, 0)).unwrap();
    head = head.replace("content-length: 0\r\n", "");
    stream.write_all(head.as_bytes()).unwrap();
    let piece = [b"10000\r\n".as_slice(), &[b' '; 65536], b"\r\n"].concat();
    let mut n_sent = 0;
    while n_sent < 64 && stream.write_all(&piece).is_ok() {
        n_sent += 1;
    }
    Reply::read(&mut BufReader::new(stream)).refused(413, "body_too_large");
    // One header of a megabyte, and a thousand of them.
    let big = "x".repeat(1 << 20);
    let reply = server.send("GET", "/health", &[("x-big", &big)], b"");
    assert!(matches!(reply.status, 0 | 431), "{}", reply.status);
    let many: Vec<(String, String)> = (0..1000).map(|i| (format!("x-{i}"), "y".to_string())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let reply = server.send("GET", "/health", &many, b"");
    assert!(matches!(reply.status, 0 | 400 | 431), "{}", reply.status);
    // A head that comes byte by byte is not waited for for ever; others are answered meanwhile.
    let mut slow = server.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n").unwrap();
    let began = Instant::now();
    assert_eq!(server.get("/health").status, 200);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // A connection without a word is closed, too.
    let deep = "[".repeat(1_000_000);
    server.send("POST", "/v1/chat/completions", &[json_type], deep.as_bytes()).refused(400, "invalid_json");
    let parts = format!(r#"{{"messages":[{{"role":"user","content":[{}]}}]}}"#, vec!["\"x\""; 200_000].join(","));
    server.send("POST", "/v1/chat/completions", &[json_type], parts.as_bytes()).refused(400, "invalid_value");
}

/// Parameter explosions: CVE-2026-34756 (`n`), CVE-2026-21869 (below zero), CVE-2025-48944 (tools).
#[test]
fn parameters_are_typed_and_ranged_before_anything_is_reserved() {
    let server = Server::start(&["--no-store"]);
    for (field, value, code) in [
        ("n", json!(1_000_000_000), "unsupported_parameter"),
        ("n", json!(-1), "invalid_value"),
        ("max_tokens", json!(-1), "invalid_value"),
        ("max_tokens", json!(1e300), "invalid_value"),
        ("top_k", json!(-2), "invalid_value"),
        ("temperature", json!("x"), "invalid_value"),
        (
            "tools",
            json!([{ "type": "function", "function": { "name": "f", "parameters": { "pattern": "((" } } }]),
            "unsupported_parameter",
        ),
        ("logit_bias", json!({ "99999999999": 1 }), "invalid_value"),
        ("stop", json!(vec!["x"; 17]), "invalid_value"),
    ] {
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
        body[field] = value;
        server.post("/v1/chat/completions", &body).refused(400, code);
    }
    // A length beyond the context is the context's.
    let body = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 1u64 << 39 });
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
}

/// Templates: CVE-2025-62426, CVE-2025-61620, CVE-2024-34359.
#[test]
fn templates_come_from_the_model_only_and_control_tokens_from_the_template() {
    let server = Server::start(&["--no-store"]);
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    body["chat_template"] = json!("{{ messages }}");
    server.post("/v1/chat/completions", &body).refused(400, "unsupported_parameter");
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    body["chat_template_kwargs"] = json!({ "tokenize": false });
    server.post("/v1/chat/completions", &body).refused(400, "unsupported_parameter");
    let count = |text: &str| server.post("/v1/tokenize", &json!({ "content": text })).json()["count"].as_u64().unwrap();
    assert!(count("<|im_end|>") > 1, "what users write stays text");
}

/// Grammars and schemas: llama.cpp#19051 (200, and nothing enforced).
#[test]
fn a_schema_is_enforced_or_refused() {
    let server = Server::start(&["--no-store"]);
    let asked = |field: &str, form: Value| json!({ "messages": [{ "role": "user", "content": "x" }], field: form, "max_tokens": 4 });
    let schema = |schema: Value| json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    for format in [json!({ "type": "json_object" }), schema(json!({ "type": "object" }))] {
        let answer = server.ask(&asked("response_format", format));
        assert!(content(&answer).starts_with('{'), "{answer}");
    }
    for (field, form) in [
        ("response_format", schema(json!({ "type": "object", "unevaluatedProperties": false }))),
        ("response_format", schema(json!({ "$ref": "https://example.com/x" }))),
        ("grammar", json!("root ::= nobody")),
    ] {
        server.post("/v1/chat/completions", &asked(field, form)).refused(400, "invalid_schema");
    }
}

/// Uploads: CVE-2026-7302 (names as paths), CVE-2026-7482 (models).
#[test]
fn names_of_uploads_are_words_and_models_are_no_uploads() {
    let server = Server::start(&[]);
    for name in ["..%2F..%2Fetc%2Fpasswd", "%00x", "a%0d%0ab", "%3Cscript%3E"] {
        let id = server.upload(&video(6).bytes, name);
        assert!(server.get(&format!("/v1/files/{id}")).status == 200);
    }
    // A form, as clients send it.
    let form = [
        b"--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nvision\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"../../x.mp4\"\r\ncontent-type: video/mp4\r\n\r\n".as_slice(),
        &video(6).bytes,
        b"\r\n--b--\r\n",
    ]
    .concat();
    let reply = server.send("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=b")], &form);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["purpose"], "vision");
    // One that is cut off leaves nothing.
    let n_before = server.get("/v1/files").json()["data"].as_array().unwrap().len();
    let cut = server.send(
        "POST",
        "/v1/files",
        &[("content-type", "multipart/form-data; boundary=b")],
        &form[..form.len() / 2],
    );
    assert_eq!(cut.status, 400, "{}", cut.text());
    assert_eq!(server.get("/v1/files").json()["data"].as_array().unwrap().len(), n_before);
    let mut names: Vec<String> = std::fs::read_dir(server.data.join("blobs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() == 1 && names[0].len() == 64, "{names:?}");
    assert_eq!(server.send("PUT", "/v1/files?filename=m.gguf", &[], b"GGUF\x03\0\0\0\0\0\0\0").status, 400);
    for path in ["/v1/files/..%2F..%2Flock", "/v1/files/file-%2e%2e", "/v1/takes/..%2Fx"] {
        assert_eq!(server.get(path).status, 404, "{path}");
        assert_eq!(server.delete(path).status, 404, "{path}");
    }
}

/// Keys: CVE-2025-59425, and routes beside `/v1` that a key forgot.
#[test]
fn keys_guard_every_route_but_those_that_say_that_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, "one\n\ntwo\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap(), "--slots"]);
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/input_tokens"),
        ("POST", "/v1/tokenize"),
        ("GET", "/v1/files"),
        ("PUT", "/v1/files"),
        ("GET", "/v1/takes"),
        ("GET", "/v1/takes/x/events"),
        ("POST", "/v1/plan"),
        ("GET", "/props"),
        ("GET", "/slots"),
        ("GET", "/metrics"),
        ("GET", "/invocations"),
    ] {
        let reply = server.send(method, path, &[("content-type", "application/json")], b"{}");
        reply.refused(401, "invalid_api_key");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        let wrong = server.send(method, path, &[("authorization", "Bearer onetwo")], b"{}");
        wrong.refused(401, "invalid_api_key");
        let right =
            server.send(method, path, &[("authorization", "Bearer two"), ("content-type", "application/json")], b"{}");
        assert_ne!(right.status, 401, "{path}");
    }
    for path in ["/health", "/ready", "/", "/page.js"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
}

/// Shared caches: CVE-2025-46570, the beginning of what others asked, found by how fast it is answered.
#[test]
fn nothing_is_shared_between_keys_where_that_is_wanted() {
    let video = video(6);
    let args = ["--api-key", "one", "--api-key", "two", "--api-key", "one", "--keep-read", "0"];
    let send = |server: &Server, key: &str, method: &str, path: &str, body: &[u8]| {
        let key = format!("Bearer {key}");
        server.send(method, path, &[("authorization", &key), ("content-type", "application/json")], body)
    };
    let upload = |server: &Server, key: &str| {
        let json = send(server, key, "PUT", "/v1/files?filename=v.mp4", &video.bytes).json();
        json["id"].as_str().unwrap().to_string()
    };
    let ask = |server: &Server, key: &str, id: &str| {
        let body = question(id, &video.question).to_string();
        send(server, key, "POST", "/v1/chat/completions", body.as_bytes())
    };
    let cached = |reply: Reply| {
        let answer = reply.json();
        assert_eq!(content(&answer), video.answer);
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let n_listed = |server: &Server, key: &str, what: &str| {
        send(server, key, "GET", &format!("/v1/{what}"), b"").json()["data"].as_array().unwrap().len()
    };
    // As it is otherwise: the second key finds what the first has read.
    let shared = Server::start(&args);
    let id = upload(&shared, "one");
    assert_eq!(cached(ask(&shared, "one", &id)), 0);
    assert!(cached(ask(&shared, "two", &id)) > 800);

    let server = Server::start(&[&args[..], &["--private"]].concat());
    let id = upload(&server, "one");
    assert_eq!(cached(ask(&server, "one", &id)), 0);
    assert!(cached(ask(&server, "one", &id)) > 800);
    // Another key has no such file, cannot remove it, and reads its own of the same bytes from the beginning.
    for (method, path) in [("GET", format!("/v1/files/{id}")), ("DELETE", format!("/v1/files/{id}"))] {
        send(&server, "two", method, &path, b"").refused(404, "file_not_found");
    }
    assert_eq!(ask(&server, "two", &id).status, 404);
    let other = upload(&server, "two");
    assert_eq!(cached(ask(&server, "two", &other)), 0);
    assert!(cached(ask(&server, "two", &other)) > 800);
    assert_eq!([n_listed(&server, "one", "files"), n_listed(&server, "two", "files")], [1, 1]);
    // Takes and batches likewise, also those of before a restart.
    let wanted = json!({ "file_id": id, "options": { "fps": 1 } }).to_string();
    let take = send(&server, "one", "POST", "/v1/takes", wanted.as_bytes()).json()["id"].as_str().unwrap().to_string();
    let status = |server: &Server, key: &str| send(server, key, "GET", &format!("/v1/takes/{take}"), b"");
    server.until("read", || status(&server, "one").json()["status"] == "ready");
    let server = server.kill_and_restart();
    server.until("looked at", || status(&server, "one").json()["status"] == "ready");
    status(&server, "two").refused(404, "take_not_found");
    assert_eq!(ask(&server, "two", &take).status, 404);
    assert_eq!(ask(&server, "one", &take).status, 200);
    assert_eq!([n_listed(&server, "one", "takes"), n_listed(&server, "two", "takes")], [1, 0]);
    assert_eq!([n_listed(&server, "one", "batches"), n_listed(&server, "two", "batches")], [0, 0]);
    // Figures are of all.
    let told = send(&server, "two", "GET", "/metrics", b"").text();
    assert!(told.contains("longtake_takes{status=\"ready\"} 1\n"), "{told}");
    // Who has no keys to tell apart is told so.
    let out =
        std::process::Command::new(env!("CARGO_BIN_EXE_longtake")).args(["serve", "--demo", "--private"]).output();
    let out = out.unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("--private with `0` keys"));
}

/// Browsers: CVE-2024-28224 (DNS rebinding), reflected origins, forms of other pages.
#[test]
fn foreign_names_pages_and_forms_are_refused() {
    let server = Server::start(&["--allow-origin", "https://app.example/"]);
    let body = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 1 }).to_string();
    let json_type = ("content-type", "application/json");
    let of = |headers: &[(&str, &str)]| server.send("POST", "/v1/chat/completions", headers, body.as_bytes());
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:80"] {
        of(&[json_type, ("host", host)]).refused(403, "host_not_allowed");
    }
    for origin in ["https://evil.example", "null", "http://localhost:1", "https://app.example.evil.example"] {
        let reply = of(&[json_type, ("origin", origin)]);
        reply.refused(403, "origin_not_allowed");
        assert!(reply.header("access-control-allow-origin").is_none());
    }
    of(&[json_type, ("sec-fetch-site", "cross-site")]).refused(403, "origin_not_allowed");
    for form in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        of(&[("content-type", form)]).refused(415, "wrong_content_type");
    }
    of(&[]).refused(415, "wrong_content_type");
    // The page that was named may ask, and no other hears that it may.
    let reply = of(&[json_type, ("origin", "https://app.example")]);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("https://app.example")));
    assert!(reply.header("access-control-allow-credentials").is_none());
    let before = server.send(
        "OPTIONS",
        "/v1/chat/completions",
        &[("origin", "https://app.example"), ("access-control-request-method", "POST")],
        b"",
    );
    assert_eq!(before.status, 204);
    server
        .send("OPTIONS", "/v1/chat/completions", &[("origin", "https://evil.example")], b"")
        .refused(403, "origin_not_allowed");
    // A link to the page from elsewhere is a link.
    assert_eq!(server.send("GET", "/", &[("sec-fetch-site", "cross-site")], b"").status, 200);
}

/// Shared caches: ids that nobody can guess, and reuse by content alone.
#[test]
fn ids_are_random_and_tell_nothing() {
    let server = Server::start(&[]);
    let ids: Vec<String> = (0..4).map(|_| server.upload(&video(6).bytes, "same.mp4")).collect();
    for (i, id) in ids.iter().enumerate() {
        assert!(id.len() == 37 && ids[..i].iter().all(|other| other[5..20] != id[5..20]), "{ids:?}");
    }
    server
        .post("/v1/chat/completions", &question("file-00000000000000000000000000000000", "?"))
        .refused(404, "file_not_found");
    server
        .post("/v1/chat/completions", &ask(json!({ "type": "video_url", "video_url": null, "uuid": "nobody's" })))
        .refused(400, "media_not_found");
}

/// Metrics and logs: fixed labels, nothing of what was asked.
#[test]
fn nothing_of_a_request_is_in_metrics_or_logs() {
    let server = Server::start(&[]);
    let id = server.upload(&video(6).bytes, "hidden-name.mp4");
    let mut body = question(&id, "hidden-question");
    body["model"] = json!("hidden-model");
    server.post("/v1/chat/completions", &body).refused(404, "model_not_found");
    body["model"] = json!("");
    server.ask(&body);
    server.get("/hidden-path").refused(404, "unknown_route");
    server.send("PATCH", "/v1/models", &[], b"").refused(405, "wrong_method");
    let all = server.get("/metrics").text() + &server.log() + &server.get("/props").text();
    assert!(!all.contains("hidden"), "{all}");
}
