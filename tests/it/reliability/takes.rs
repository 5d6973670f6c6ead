//! Takes of every structure, made with the program, for those who damage them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::gguf::Gguf;
use longtake::stream::{Engine, Events, GenerateOptions, Session, Take, question};
use longtake::text::{Sampler, SamplerOptions};

use super::{SMALL, asset, said, stream, with_model};

/// A take and what it holds.
pub struct Case {
    pub name: String,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub is_complete: bool,
    pub n_done: usize,
    pub content: Vec<u8>,
    pub answer: Option<Vec<u32>>,
}

impl Case {
    fn of(name: &str, path: PathBuf, engine: &Arc<Engine>) -> Case {
        let take = Take::open(&path, true).unwrap();
        Case {
            bytes: std::fs::read(&path).unwrap(),
            is_complete: take.is_complete(),
            n_done: take.n_done(),
            content: content(&take),
            answer: take.is_complete().then(|| answer(engine, &take)),
            name: name.to_string(),
            path,
        }
    }
}

pub fn engine() -> Arc<Engine> {
    let open = |name: &str| Arc::new(Gguf::open(asset(name).as_ref()).unwrap());
    Arc::new(crate::common::engine_of(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap())
}

/// The rows that count.
pub fn content(take: &Take) -> Vec<u8> {
    let cache = take.cache().unwrap();
    cache.runs(0..take.n_done()).flat_map(|(_, _, bytes)| bytes.to_vec()).collect()
}

/// The first tokens that it is answered with.
pub fn answer(engine: &Arc<Engine>, take: &Take) -> Vec<u32> {
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let mut events = Events::new(&mut sink, &cancel);
    let mut session = Session::from_take(engine, take).unwrap();
    session.feed(&mut question(engine, &take.header, "What is it?", false).unwrap(), &mut events).unwrap();
    let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() }).unwrap();
    let options = GenerateOptions { n_predict: 6, ignore_eos: true };
    let mut ignore = |_: &str| ControlFlow::Continue(());
    session.generate(&mut sampler, options, &mut events, &mut ignore).unwrap().0
}

/// `NAME.take` in `dir`, of the video, or of the first `camera` frames of a stream.
fn watch(dir: &Path, name: &str, flags: &[&str], camera: Option<usize>) -> PathBuf {
    let (video, out) = (asset("demo.mp4"), format!("{name}.take"));
    let source = if camera.is_some() { "-" } else { &video };
    let mut command = with_model(dir, &["watch", source, "-o", &out, "-q", "-b", "32"]);
    command.args(flags).args(SMALL);
    if let Some(n_frames) = camera {
        command.stdin(std::fs::File::open(stream(dir, n_frames)).unwrap());
    }
    let done = command.output().unwrap();
    assert!(done.status.success(), "{name}: {}", said(&done));
    dir.join(out)
}

/// How streams are watched: one that fits, and one that forgets.
const STREAMS: [(&str, &[&str]); 2] = [
    ("stream", &["--reserve", "100", "-c", "800"]),
    ("stream-that-forgets", &["--reserve", "60", "-c", "200", "--when-full", "forget"]),
];

/// Takes of a stream of `n_frames`; `when` tells them from others in `dir`.
pub fn of_streams(dir: &Path, engine: &Arc<Engine>, n_frames: usize, when: &str) -> Vec<Case> {
    let case = |(name, flags)| {
        let name = format!("{name}{when}");
        Case::of(&name, watch(dir, &name, flags, Some(n_frames)), engine)
    };
    STREAMS.into_iter().map(case).collect()
}

/// Takes of every structure.
pub fn of_every_structure(dir: &Path, engine: &Arc<Engine>) -> Vec<Case> {
    let mut takes = Vec::new();
    let mut file = |name: &str, flags: &[&str]| takes.push(Case::of(name, watch(dir, name, flags, None), engine));
    for ty in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
        file(&format!("complete-{ty}"), &["--reserve", "100", "-ctk", ty, "-ctv", ty]);
    }
    file("many-checkpoints", &["--reserve", "100", "--checkpoint", "0"]);
    file("small-context", &["--reserve", "40", "-c", "220", "-ctk", "q8_0"]);
    takes.extend(of_streams(dir, engine, 60, ""));
    // Unfinished: the last record of one with many is torn off, and that of one with two.
    for from in ["many-checkpoints", "complete-f16"] {
        let mut bytes = std::fs::read(dir.join(format!("{from}.take"))).unwrap();
        let gguf = Gguf::open(&dir.join(format!("{from}.take"))).unwrap();
        let table = gguf.tensor("take.checkpoints").unwrap();
        let start = gguf.file_offset(table) as usize;
        let records = Take::open(&dir.join(format!("{from}.take")), true).unwrap().n_checkpoints();
        bytes[start + 64 * (records - 1)..][..64].fill(0);
        let name = format!("unfinished-{from}");
        let path = dir.join(format!("{name}.take"));
        std::fs::write(&path, bytes).unwrap();
        takes.push(Case::of(&name, path, engine));
    }
    for case in &takes {
        assert_eq!(case.is_complete, !case.name.starts_with("unfinished"), "{}", case.name);
    }
    takes
}
