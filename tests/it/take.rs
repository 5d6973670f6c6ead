//! Take files: however watching was interrupted, and wherever a take is damaged.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use longtake::ErrorKind;
use longtake::cache::KvCache;
use longtake::gguf::{GgmlType, Gguf};
use longtake::stream::{
    Around, Engine, Event, Events, GenerateOptions, MediaOptions, MediaPlan, Session, SessionOptions, Take, Watch,
    question,
};
use longtake::text::{Sampler, SamplerOptions};

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name)
}

fn engine() -> Engine {
    let open = |name: &str| Arc::new(Gguf::open(&asset(name)).unwrap());
    Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap()
}

fn plan(engine: &Engine) -> MediaPlan {
    let mut options = MediaOptions::default();
    (options.sample.max_pixels, options.sample.min_pixels) = (Some(20 * 784), Some(4 * 784));
    MediaPlan::video(&asset("demo.mp4"), &options, engine.need_vision().unwrap()).unwrap()
}

fn begin<'e>(engine: &'e Engine, path: &Path, ty: GgmlType) -> Watch<'e> {
    let options = SessionOptions { n_ctx: 500, n_batch: 37, type_k: ty, type_v: ty, temporal_scale: Some(0.75) };
    let around = Around::of(engine, Some("Be brief.")).unwrap();
    Watch::begin(engine, (&asset("demo.mp4"), plan(engine)), path, (Some("Be brief."), around), options).unwrap()
}

/// Watches until `stop_after` steps of prefill are done; whether that was all of it.
fn watch_some(watch: &mut Watch<'_>, stop_after: usize) -> bool {
    let (cancel, mut steps) = (AtomicBool::new(stop_after == 0), 0);
    let mut sink = |event| {
        steps += usize::from(matches!(event, Event::Prefilled { .. }));
        cancel.store(steps >= stop_after, Ordering::Relaxed);
    };
    match watch.run(&mut Events::new(&mut sink, &cancel)) {
        Ok(()) => true,
        Err(err) => {
            assert_eq!(err.kind(), ErrorKind::Cancelled, "{err}");
            false
        }
    }
}

fn whole(dir: &Path, engine: &Engine, ty: GgmlType) -> PathBuf {
    let path = dir.join(format!("whole-{ty}.take"));
    assert!(watch_some(&mut begin(engine, &path, ty), usize::MAX));
    path
}

/// The keys and values of the slots in use.
fn content(cache: &KvCache) -> Vec<u8> {
    cache.runs(0..cache.len()).flat_map(|(_, _, bytes)| bytes.to_vec()).collect()
}

fn answer(engine: &Engine, session: &mut Session<'_>, take: &Take, text: &str) -> Vec<u32> {
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let mut events = Events::new(&mut sink, &cancel);
    session.feed(&mut question(engine, &take.header, text, false).unwrap(), &mut events, None).unwrap();
    let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() }).unwrap();
    let options = GenerateOptions { n_predict: 12, ignore_eos: true };
    let mut ignore = |_: &str| ControlFlow::Continue(());
    session.generate(&mut sampler, options, &mut events, None, &mut ignore).unwrap().0
}

#[test]
fn interrupted_anywhere_it_ends_with_the_same_cache_and_the_same_answers() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0] {
        let want = Take::open(&whole(dir.path(), &engine, ty), true).unwrap();
        assert!(want.is_complete() && want.n_done() > 190, "{} tokens", want.n_done());
        let want_cache = content(&want.cache().unwrap());
        let want_answer = answer(&engine, &mut Session::from_take(&engine, &want).unwrap(), &want, "What is it?");
        for stop_after in [0, 1, 2, 3, 5] {
            let path = dir.path().join(format!("{ty}-{stop_after}.take"));
            let mut complete = watch_some(&mut begin(&engine, &path, ty), stop_after);
            let mut rounds = 1;
            while !complete {
                let take = Take::open(&path, rounds % 2 == 0).unwrap();
                assert!(stop_after == 0 || take.n_done() > 0);
                let mut watch = Watch::resume(&engine, &asset("demo.mp4"), take).unwrap();
                complete = watch_some(&mut watch, stop_after.max(4));
                rounds += 1;
            }
            let take = Take::open(&path, true).unwrap();
            let case = format!("{ty}, stopped every {stop_after} steps, {rounds} rounds");
            assert_eq!(take.header, want.header, "{case}");
            assert!(content(&take.cache().unwrap()) == want_cache, "{case}");
            let mut session = Session::from_take(&engine, &take).unwrap();
            assert_eq!(answer(&engine, &mut session, &take, "What is it?"), want_answer, "{case}");
        }
    }
}

#[test]
fn questions_branch_from_the_video_and_leave_it_alone() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let path = whole(dir.path(), &engine, GgmlType::F16);
    let bytes = std::fs::read(&path).unwrap();
    let take = Take::open(&path, true).unwrap();
    let mut one = Session::from_take(&engine, &take).unwrap();
    let mut other = Session::from_take(&engine, &take).unwrap();
    let questions = ["What is it?", "Is there a car, and which colour has it?", "What is it?", "?"];
    let fresh: Vec<_> =
        questions.iter().map(|q| answer(&engine, &mut Session::from_take(&engine, &take).unwrap(), &take, q)).collect();
    for (q, want) in questions.iter().zip(&fresh) {
        assert_eq!(answer(&engine, &mut one, &take, q), *want, "{q}");
    }
    for (q, want) in questions.iter().zip(&fresh).rev() {
        assert_eq!(answer(&engine, &mut other, &take, q), *want, "{q}, in another order beside the first session");
    }
    drop((one, other, take));
    assert!(std::fs::read(&path).unwrap() == bytes, "asking changed the take");
}

/// Fault 43: damage to anything that counts is refused; what is left over can be asked only if it is the whole video.
#[test]
fn damage_is_refused_wherever_it_is() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let path = whole(dir.path(), &engine, GgmlType::Q8_0);
    let bytes = std::fs::read(&path).unwrap();
    let take = Take::open(&path, true).unwrap();
    let counted = content(&take.cache().unwrap());
    let damaged = dir.path().join("damaged.take");
    drop(take);
    let check = |what: String, content: &[u8]| {
        std::fs::write(&damaged, content).unwrap();
        match Take::open(&damaged, false) {
            Err(err) => assert!(err.to_string().contains("damaged.take"), "{what}: {err}"),
            // A flip in the last record, or where the next would be, looks like a checkpoint that was cut off; a flip in
            // slots that hold nothing changes nothing.
            Ok(take) => {
                let same = content_of(&take) == counted;
                assert!(!take.is_complete() || same, "{what} was not noticed");
            }
        }
    };
    let content_start = 8192;
    // Every byte of header, keys, tables and records; a sample of the rest.
    for at in (0..content_start).chain((content_start..bytes.len()).step_by(509)) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        check(format!("bit {} of byte {at}", at % 8), &flipped);
    }
    for len in (0..content_start).step_by(97).chain((content_start..bytes.len()).step_by(9973)) {
        check(format!("cut at {len}"), &bytes[..len]);
    }
}

fn content_of(take: &Take) -> Vec<u8> {
    content(&take.cache().unwrap())
}

#[test]
fn what_does_not_belong_together_is_refused_with_both_names() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let path = whole(dir.path(), &engine, GgmlType::F16);
    let take = || Take::open(&path, true).unwrap();
    // Another model of the same shape: one weight differs.
    let mut bytes = std::fs::read(asset("demo.gguf")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let other = Arc::new(Gguf::from_vec("other.gguf", bytes).unwrap());
    let mmproj = Arc::new(Gguf::open(&asset("mmproj-demo.gguf")).unwrap());
    let other = Engine::from_files(other, Some(mmproj)).unwrap();
    let err = Session::from_take(&other, &take()).err().unwrap();
    assert!(err.kind() == ErrorKind::Mismatch && err.to_string().contains("the model"), "{err}");
    // Another video.
    let incomplete = dir.path().join("part.take");
    assert!(!watch_some(&mut begin(&engine, &incomplete, GgmlType::F16), 2));
    let video = dir.path().join("other.mp4");
    let mut bytes = std::fs::read(asset("demo.mp4")).unwrap();
    bytes.push(0);
    std::fs::write(&video, bytes).unwrap();
    let err = Watch::resume(&engine, &video, Take::open(&incomplete, true).unwrap()).err().unwrap();
    assert!(err.to_string().contains("another video"), "{err}");
    // Not a take at all, and a take where a model is wanted.
    let err = Take::open(&asset("demo.gguf"), true).err().unwrap();
    assert!(err.to_string().contains("expected a take"), "{err}");
    let err = Engine::from_files(Arc::new(Gguf::open(&path).unwrap()), None).err().unwrap();
    assert!(err.to_string().contains("longtake-take"), "{err}");
}

/// Fault 45: nobody writes into a take that is in use, and nobody reads one that is being written.
#[test]
fn a_take_has_one_writer_or_many_readers() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let path = dir.path().join("a.take");
    let watch = begin(&engine, &path, GgmlType::F16);
    let err = Take::open(&path, true).err().unwrap();
    assert!(err.to_string().contains("locked by another program"), "{err}");
    let options =
        SessionOptions { n_ctx: 500, n_batch: 8, type_k: GgmlType::F16, type_v: GgmlType::F16, temporal_scale: None };
    let around = Around::of(&engine, None).unwrap();
    let again = Watch::begin(&engine, (&asset("demo.mp4"), plan(&engine)), &path, (None, around), options);
    let err = again.err().unwrap();
    assert!(err.to_string().contains("exists already"), "{err}");
    drop(watch);
    let (one, other) = (Take::open(&path, true).unwrap(), Take::open(&path, true).unwrap());
    let err = Watch::resume(&engine, &asset("demo.mp4"), one).err().unwrap();
    assert!(err.to_string().contains("in use"), "{err}");
    drop(other);
    assert!(Watch::resume(&engine, &asset("demo.mp4"), Take::open(&path, true).unwrap()).is_ok());
}

fn longtake(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn watch_command(dir: &Path, take: &Path, checkpoint: &str) -> Command {
    let (model, mmproj, video) = (asset("demo.gguf"), asset("mmproj-demo.gguf"), asset("demo.mp4"));
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (model, mmproj, video, take) = (text(&model), text(&mmproj), text(&video), text(take));
    let args =
        ["watch", &video, "-m", &model, "--mmproj", &mmproj, "-o", &take, "-b", "32", "--checkpoint", checkpoint];
    let mut command = longtake(&args);
    command.args(["--max-pixels", "15680", "--min-pixels", "3136", "--reserve", "200"]);
    command.env("XDG_CACHE_HOME", dir.join("cache"));
    command
}

fn ask(dir: &Path, take: &Path) -> String {
    let mut command = longtake(&["ask", take.to_str().unwrap(), "What is it?", "-n", "8", "--quiet"]);
    let out = command.env("XDG_CACHE_HOME", dir.join("cache")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Fault 44 and more: killed without warning at a hundred random moments.
#[test]
fn a_hundred_kills_lose_nothing() {
    const KILLS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.take");
    let started = Instant::now();
    assert!(watch_command(dir.path(), &whole, "0").output().unwrap().status.success());
    let whole_time = started.elapsed();
    let take = Take::open(&whole, true).unwrap();
    let (want_cache, want_header) = (content_of(&take), take.header.clone());
    drop(take);
    let want_answer = ask(dir.path(), &whole);

    let (mut kills, mut takes, mut resumed, mut seed) = (0, 0, 0, 1u64);
    while kills < KILLS {
        let path = dir.path().join(format!("{takes}.take"));
        loop {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let moment = whole_time.mul_f64((seed >> 40) as f64 / (1u64 << 24) as f64);
            let had_begun = path.exists();
            let mut child = watch_command(dir.path(), &path, "0").spawn().unwrap();
            std::thread::sleep(moment);
            if kills < KILLS && child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                resumed += usize::from(had_begun);
                continue;
            }
            let out = child.wait_with_output().unwrap();
            let message = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "after {kills} kills, seed {seed}: {message}");
            break;
        }
        let take = Take::open(&path, true).unwrap();
        assert_eq!(take.header, want_header, "after {kills} kills");
        assert!(content_of(&take) == want_cache, "after {kills} kills");
        drop(take);
        assert_eq!(ask(dir.path(), &path), want_answer, "after {kills} kills");
        takes += 1;
    }
    let _ = writeln!(std::io::stderr(), "{kills} kills, {resumed} of them in a take begun before, {takes} takes");
    let leftovers = std::fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().extension().is_none()).count();
    assert!(leftovers <= 1, "{leftovers} temporary files besides the cache folder");
}

/// Ctrl-C, or a polite SIGTERM: the take is left at the last step, not at the last checkpoint.
#[test]
#[cfg(unix)]
fn an_interrupt_keeps_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.take");
    let mut child = watch_command(dir.path(), &path, "1000").arg("--json").spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    while !lines.next().expect("some token is read").unwrap().contains("\"prefilled\"") {}
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    drop(lines);
    let status = child.wait().unwrap();
    let take = Take::open(&path, true).unwrap();
    let shown = longtake(&["inspect", path.to_str().unwrap()]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).to_string();
    assert!(shown.contains(&format!("{} tokens are in", take.n_done())) && shown.contains("hash agrees"), "{shown}");
    if status.success() {
        assert!(take.is_complete(), "it was quicker than the signal");
    } else {
        assert_eq!(status.code(), Some(130));
        assert!(take.n_done() > 0 && take.n_checkpoints() == 2, "{} tokens", take.n_done());
    }
}
