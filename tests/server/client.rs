//! A server that ends with its test, and as much of HTTP as tests need: nothing that a library would do behind their back.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use longtake::drawn::movie::write_mp4;
use longtake::drawn::symbols::DrawnVideo;
use serde_json::{Value, json};

/// Tokens of a frame pair of the drawn videos.
pub const PER_PAIR: usize = 144;

/// A drawn video, its question and what is right.
pub struct Video {
    pub bytes: Vec<u8>,
    pub question: String,
    pub answer: String,
    pub n_frames: usize,
}

/// A video of so many frame pairs; drawn once.
pub fn video(n_pairs: usize) -> &'static Video {
    static SHORT: OnceLock<Video> = OnceLock::new();
    static LONG: OnceLock<Video> = OnceLock::new();
    let of = if n_pairs <= 8 { &SHORT } else { &LONG };
    of.get_or_init(|| {
        let drawn = DrawnVideo::new(3, (448, 252), if n_pairs <= 8 { 6 } else { 40 }, 1, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.mp4");
        write_mp4(&drawn, &path, &mut |_| Ok(())).unwrap();
        let asked = drawn.question().unwrap();
        Video {
            bytes: std::fs::read(path).unwrap(),
            question: asked.text,
            answer: asked.answer.to_string(),
            n_frames: drawn.n_frames(),
        }
    })
}

/// A running server.
pub struct Server {
    child: Child,
    pub port: u16,
    pub data: PathBuf,
    args: Vec<String>,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    /// One with its own folder and these flags; waits until it is ready.
    pub fn start(args: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        Server::start_in(Some(dir), &data, args.iter().map(|arg| arg.to_string()).collect())
    }

    fn start_in(dir: Option<tempfile::TempDir>, data: &Path, args: Vec<String>) -> Server {
        let port_file = data.with_extension("port");
        let _ = std::fs::remove_file(&port_file);
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        command.args(["serve", "--port", "0", "--port-file", port_file.to_str().unwrap()]);
        if !args.iter().any(|arg| arg == "-m") {
            command.arg("--demo");
        }
        command.args(["-t", "2"]).args(&args);
        if args.iter().any(|arg| arg == "-ngl") {
            // Builds with an emulated GPU use it instead of those that are there.
            command.env("LONGTAKE_CUDA_EMULATED", "1");
        }
        if !args.iter().any(|arg| arg == "--no-store") {
            command.args(["--data", data.to_str().unwrap()]);
        }
        let log = std::fs::File::create(data.with_extension("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = Server { child, port: 0, data: data.to_path_buf(), args, _dir: dir };
        let until = Instant::now() + Duration::from_secs(60);
        while server.port == 0 {
            assert!(Instant::now() < until, "no port: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
            server.port =
                std::fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        }
        while server.get("/ready").status != 200 {
            assert!(Instant::now() < until, "never ready: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Kills it without a word, and starts it again over the same folder.
    pub fn kill_and_restart(mut self) -> Server {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (dir, data, args) = (self._dir.take(), self.data.clone(), self.args.clone());
        Server::start_in(dir, &data, args)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// Asks it to end, as a system does.
    pub fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits until it ended; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Sends a request and reads the whole reply.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.connect();
        let _ = stream.write_all(&self.head(method, path, headers, body.len()));
        // A server that refuses by the head may not read the rest.
        let _ = stream.write_all(body);
        Reply::read(&mut BufReader::new(stream))
    }

    /// The head of a request. A header that is given replaces the one that would be there.
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], n: usize) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        let has = |name: &str| headers.iter().any(|(given, _)| *given == name);
        if !has("host") {
            head.push_str(&format!("host: 127.0.0.1:{}\r\n", self.port));
        }
        if !has("content-length") {
            head.push_str(&format!("content-length: {n}\r\n"));
        }
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        format!("{head}\r\n").into_bytes()
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// A request whose reply is read as it comes.
    pub fn open(&self, path: &str, body: &Value) -> BufReader<TcpStream> {
        let mut stream = self.connect();
        let body = body.to_string();
        stream.write_all(&self.head("POST", path, &[("content-type", "application/json")], body.len())).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// Asks, and expects an answer.
    pub fn ask(&self, body: &Value) -> Value {
        let reply = self.post("/v1/chat/completions", body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Uploads; the id.
    pub fn upload(&self, bytes: &[u8], name: &str) -> String {
        let reply = self.send("PUT", &format!("/v1/files?filename={name}"), &[], bytes);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["id"].as_str().unwrap().to_string()
    }

    /// A figure of /metrics.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Frames of videos that were read, be they encoded or known from an earlier one that they equal.
    pub fn frames_read(&self) -> f64 {
        self.metric("longtake_frames_encoded_total") + self.metric("longtake_frames_reused_total")
    }

    /// Waits for a figure.
    pub fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !is() {
            assert!(Instant::now() < until, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// Reads one; status 0 where the server closed the connection without a word.
    pub fn read(stream: &mut impl BufRead) -> Reply {
        let mut line = String::new();
        let _ = stream.read_line(&mut line);
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) <= 2 {
                break;
            }
            let (name, value) = line.trim_end().split_once(": ").unwrap();
            headers.push((name.to_ascii_lowercase(), value.to_string()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(piece) = chunk(stream) {
                reply.body.extend(piece);
            }
        } else {
            let _ = stream.read_to_end(&mut reply.body);
        }
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err}: {}", self.text()))
    }

    /// Expects a refusal of this status and code, in the one form that refusals have.
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{key} is missing: {error}");
        }
        assert_eq!(error["code"], code, "{error}");
        let wants_retry = if status == 429 || status == 503 { "true" } else { "false" };
        assert_eq!(self.header("x-should-retry"), Some(wants_retry));
        let words = error["message"].as_str().unwrap();
        assert!(!words.contains(" 0x") && !words.contains("/tmp") && !words.contains(".rs"), "{words}");
        error
    }
}

/// The next chunk of a body; nothing at its end.
pub fn chunk(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let n = usize::from_str_radix(line.trim(), 16).ok()?;
    let mut bytes = vec![0; n + 2];
    stream.read_exact(&mut bytes).ok()?;
    bytes.truncate(n);
    (n > 0).then_some(bytes)
}

/// The events of a stream: their data, parsed; `[DONE]` has to be the last.
pub fn events(text: &str) -> Vec<Value> {
    let mut list: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    if text.contains("[DONE]") {
        assert_eq!(list.pop(), Some("[DONE]"));
    }
    list.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// A question about an upload or a take.
pub fn question(id: &str, text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": [
        { "type": "text", "text": text }, { "type": "file", "file": { "file_id": id } },
    ] }], "max_tokens": 8 })
}

/// A wish for an answer that is nothing but this word, a token: by itself the embedded model says one word.
pub fn only(server: &Server, word: &str) -> Value {
    let tokens = server.post("/v1/tokenize", &json!({ "content": word })).json();
    json!({ tokens["tokens"][0].to_string(): 100 })
}

/// How often something is tried: so often, or as often as the nightly run says in this variable.
pub fn times(variable: &str, few: usize) -> usize {
    std::env::var(variable).map_or(few, |n| n.parse().expect("a number"))
}

/// What was said.
pub fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}
