//! Take files: however watching was interrupted, and wherever a take is damaged.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longtake::ErrorKind;
use longtake::cache::{CacheType, KvCache, cache_type};
use longtake::gguf::{GgmlType, Gguf};
use longtake::random::Rng;
use longtake::stream::{
    Around, Engine, Event, Events, GenerateOptions, IfExists, Limits, MediaOptions, MediaPlan, Session, SessionOptions,
    Take, TakeHeader, Watch, WatchRequest, question,
};
use longtake::text::{Sampler, SamplerOptions};

pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name)
}

fn engine() -> Arc<Engine> {
    let open = |name: &str| Arc::new(Gguf::open(&asset(name)).unwrap());
    Arc::new(crate::common::engine_of(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap())
}

pub fn media() -> MediaOptions {
    let mut options = MediaOptions::default();
    (options.sample.max_pixels, options.sample.min_pixels) = (Some(20 * 784), Some(4 * 784));
    options
}

/// What is watched here, unless a test wants something else.
pub fn request<'a>(video: &'a Path, media: &'a MediaOptions, ty: impl Into<CacheType>) -> WatchRequest<'a> {
    let ty = ty.into();
    let options = SessionOptions { n_ctx: 0, n_batch: 37, type_k: ty, type_v: ty, temporal_scale: Some(0.75) };
    let system_prompt = Some("Be brief.");
    WatchRequest { video, system_prompt, media, limits: Limits::default(), reserve: 200, options }
}

pub fn begin_as(engine: &Arc<Engine>, request: &WatchRequest<'_>, take: (&Path, IfExists)) -> longtake::Result<Watch> {
    let plan = MediaPlan::video(request.video, request.media, engine.need_vision().unwrap()).unwrap();
    let around = Around::of(engine, request.system_prompt).unwrap();
    Watch::begin(engine, request, (plan, around, 500), take)
}

fn begin(engine: &Arc<Engine>, path: &Path, ty: impl Into<CacheType>) -> Watch {
    begin_as(engine, &request(&asset("demo.mp4"), &media(), ty), (path, IfExists::Refuse)).unwrap()
}

fn resume(engine: &Arc<Engine>, take: Take) -> longtake::Result<Watch> {
    let ty = take.header.shape.type_k;
    Watch::resume(engine, &request(&asset("demo.mp4"), &media(), ty), take)
}

/// Watches until `stop_after` steps of prefill are done; whether that was all of it.
pub fn watch_some(watch: &mut Watch, stop_after: usize) -> bool {
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

fn whole(dir: &Path, engine: &Arc<Engine>, ty: impl Into<CacheType>) -> PathBuf {
    let ty = ty.into();
    let path = dir.join(format!("whole-{ty}.take"));
    assert!(watch_some(&mut begin(engine, &path, ty), usize::MAX));
    path
}

/// The keys and values of the slots in use.
pub fn content(cache: &KvCache) -> Vec<u8> {
    cache.runs(0..cache.len()).flat_map(|(_, _, bytes)| bytes.to_vec()).collect()
}

pub fn answer(engine: &Arc<Engine>, session: &mut Session, take: &Take, text: &str) -> Vec<u32> {
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let mut events = Events::new(&mut sink, &cancel);
    session.feed(&mut question(engine, &take.header, text, false).unwrap(), &mut events).unwrap();
    let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() }).unwrap();
    let options = GenerateOptions { n_predict: 12, ignore_eos: true };
    let mut ignore = |_: &str| ControlFlow::Continue(());
    session.generate(&mut sampler, options, &mut events, &mut ignore).unwrap().0
}

#[test]
fn interrupted_anywhere_it_ends_with_the_same_cache_and_the_same_answers() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let names = ["f32", "f16", "q8_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q8_0h", "q4_0h"];
    for ty in names.map(|name| cache_type(name).unwrap()) {
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
                let mut watch = resume(&engine, take).unwrap();
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
    let other = Arc::new(crate::common::engine_of(other, Some(mmproj)).unwrap());
    let err = Session::from_take(&other, &take()).err().unwrap();
    assert!(err.kind() == ErrorKind::Mismatch && err.to_string().contains("the model"), "{err}");
    // Not a take at all, and a take where a model is wanted.
    let err = Take::open(&asset("demo.gguf"), true).err().unwrap();
    assert!(err.to_string().contains("expected a take"), "{err}");
    let err = crate::common::engine_of(Arc::new(Gguf::open(&path).unwrap()), None).err().unwrap();
    assert!(err.to_string().contains("longtake-take"), "{err}");
}

/// A video of another content behind the same name or another, at the same size or not; of everything else that a take depends
/// on, another. Finished and unfinished takes are refused alike, the same again is right, and nothing is written.
#[test]
fn a_take_is_known_by_everything_it_is_of() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let video = dir.path().join("cam.mp4");
    let original = std::fs::read(asset("demo.mp4")).unwrap();
    std::fs::write(&video, &original).unwrap();
    let media = media();
    let same = request(&video, &media, GgmlType::F16);
    let (whole, part) = (dir.path().join("whole.take"), dir.path().join("part.take"));
    assert!(watch_some(&mut begin_as(&engine, &same, (&whole, IfExists::Refuse)).unwrap(), usize::MAX));
    assert!(!watch_some(&mut begin_as(&engine, &same, (&part, IfExists::Refuse)).unwrap(), 2));
    let bytes = [&whole, &part].map(|path| std::fs::read(path).unwrap());
    let check = |engine: &Arc<Engine>, request: &WatchRequest<'_>| {
        let check = |path: &Path| Take::open(path, true).unwrap().check_same(engine, request);
        let (one, other) = (check(&whole), check(&part));
        assert_eq!(one.is_ok(), other.is_ok());
        let said = |err: longtake::Error| (err.kind(), err.message().to_string());
        let (one, other) = (one.map_err(said), other.map_err(said));
        if let Err((ErrorKind::BadInput, message)) = &one {
            assert!(message.contains("--again") && message.contains("--output"), "{message}");
            assert_eq!(one, other);
        }
        one
    };
    let refused = |engine: &Arc<Engine>, request: &WatchRequest<'_>, words: &[&str]| {
        let (kind, message) = check(engine, request).unwrap_err();
        assert!(kind == ErrorKind::BadInput && words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
    };
    check(&engine, &same).unwrap();

    // The same content elsewhere is the same video.
    let moved = dir.path().join("moved.mp4");
    std::fs::write(&moved, &original).unwrap();
    check(&engine, &WatchRequest { video: &moved, ..same }).unwrap();
    // Replaced, edited at any place without another size, grown, cut, gone.
    let sizes = [&*original.len().to_string(), "cam.mp4"];
    for at in [0, 40, original.len() / 3, original.len() / 2, original.len() - 1] {
        let mut edited = original.clone();
        edited[at] ^= 0x40;
        std::fs::write(&video, edited).unwrap();
        refused(&engine, &same, &["another video", "as large", "cam.mp4"]);
    }
    std::fs::write(&video, [&original[..], &[0; 9]].concat()).unwrap();
    refused(&engine, &same, &[&sizes[..], &[&(original.len() + 9).to_string()]].concat());
    std::fs::write(&video, &original[..original.len() / 2]).unwrap();
    refused(&engine, &same, &[&sizes[..], &[&(original.len() / 2).to_string()]].concat());
    std::fs::remove_file(&video).unwrap();
    let (kind, message) = check(&engine, &same).unwrap_err();
    assert!(
        kind == ErrorKind::NotFound && message.contains("cannot be compared") && message.contains("cam.mp4"),
        "{message}"
    );
    std::fs::write(&video, &original).unwrap();

    // Flags, with what they were and what they are.
    let with = |change: fn(&mut MediaOptions)| {
        let mut media = media.clone();
        change(&mut media);
        media
    };
    let sampled: [(MediaOptions, &[&str]); 9] = [
        (with(|m| m.sample.fps = Some(1.0)), &["--fps `2`", "`1`"]),
        (with(|m| m.sample.nframes = Some(6)), &["--nframes `not given`", "`6`"]),
        (with(|m| m.sample.min_frames = Some(6)), &["--min-frames `4`"]),
        (with(|m| m.sample.max_frames = Some(12)), &["--max-frames `768`", "`12`"]),
        (with(|m| m.sample.video_start = Some(0.5)), &["--start", "`0.5`"]),
        (with(|m| m.sample.video_end = Some(1.5)), &["--end", "`1.5`"]),
        (with(|m| m.sample.max_pixels = None), &["--max-pixels `15680`", "`not given`"]),
        (with(|m| m.sample.total_pixels = Some(999_999)), &["--total-pixels"]),
        (with(|m| m.temporal_scale = Some(1.5)), &["temporal scale `0.75`", "`1.5`"]),
    ];
    for (media, words) in &sampled {
        refused(&engine, &WatchRequest { media, ..same }, words);
    }
    check(&engine, &WatchRequest { media: &with(|m| m.sample.fps = Some(2.0)), ..same }).unwrap();
    refused(&engine, &WatchRequest { system_prompt: None, ..same }, &["system prompt", "Be brief.", "`none`"]);
    refused(&engine, &WatchRequest { system_prompt: Some("Be long."), ..same }, &["Be brief.", "Be long."]);
    refused(&engine, &WatchRequest { reserve: 201, ..same }, &["--reserve `200`", "`201`"]);
    let limits = |n_ctx, memory, seconds: Option<u64>| Limits { n_ctx, memory, time: seconds.map(Duration::from_secs) };
    refused(&engine, &WatchRequest { limits: limits(Some(500), None, None), ..same }, &["--ctx-size", "`500`"]);
    refused(&engine, &WatchRequest { limits: limits(None, Some(1 << 30), None), ..same }, &["--max-memory"]);
    refused(&engine, &WatchRequest { limits: limits(None, None, Some(60)), ..same }, &["--max-time", "`60`"]);
    let options = |change: fn(&mut SessionOptions)| {
        let mut options = same.options;
        change(&mut options);
        WatchRequest { options, ..same }
    };
    refused(&engine, &options(|o| o.type_k = GgmlType::Q8_0.into()), &["cache types `F16, F16`", "`Q8_0, F16`"]);
    refused(&engine, &options(|o| o.type_v = GgmlType::F32.into()), &["`F16, F32`"]);
    refused(&engine, &options(|o| o.type_k = o.type_k.transformed()), &["`F16, F16`", "`F16H, F16`"]);
    refused(&engine, &options(|o| o.temporal_scale = None), &["temporal scale `0.75`"]);
    refused(&engine, &options(|o| o.n_batch = 64), &["--batch-size `37`", "`64`"]);

    // Another model, another projector: one weight of each differs.
    let files = |model_at: usize, mmproj_at: usize| {
        let open = |name: &str, from_end: usize| {
            let mut bytes = std::fs::read(asset(name)).unwrap();
            let at = bytes.len() - 1 - from_end;
            bytes[at] ^= u8::from(from_end > 0);
            Arc::new(Gguf::from_vec(name, bytes).unwrap())
        };
        let files = (open("demo.gguf", model_at), open("mmproj-demo.gguf", mmproj_at));
        Arc::new(crate::common::engine_of(files.0, Some(files.1)).unwrap())
    };
    check(&files(0, 0), &same).unwrap();
    refused(&files(4, 0), &same, &["the model"]);
    refused(&files(0, 4), &same, &["projector"]);
    // All that differs is named at once.
    let both = with(|m| m.sample.fps = Some(1.0));
    refused(&engine, &WatchRequest { media: &both, reserve: 7, ..same }, &["--fps", "--reserve"]);

    let now = [&whole, &part].map(|path| std::fs::read(path).unwrap());
    assert!(now == bytes, "a refusal changed a take");
    // A refused take may be replaced, and then is the new one; a file that is no take may not.
    let media = with(|m| m.sample.nframes = Some(4));
    let other = WatchRequest { media: &media, ..same };
    assert!(watch_some(&mut begin_as(&engine, &other, (&whole, IfExists::Replace)).unwrap(), usize::MAX));
    assert_eq!(Take::open(&whole, true).unwrap().header.frames.len(), 4);
    let mut damaged = bytes[0].clone();
    damaged[300] ^= 1;
    std::fs::write(&part, damaged).unwrap();
    assert!(Take::open(&part, true).is_err());
    begin_as(&engine, &other, (&part, IfExists::Replace)).unwrap();
    for (name, content) in [("notes.take", &b"my notes"[..]), ("copy.mp4", &original), ("empty.take", b"")] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let err = begin_as(&engine, &other, (&path, IfExists::Replace)).err().unwrap();
        assert!(err.to_string().contains("is no take"), "{err}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    let model = dir.path().join("model.gguf");
    std::fs::copy(asset("demo.gguf"), &model).unwrap();
    assert!(begin_as(&engine, &other, (&model, IfExists::Replace)).err().unwrap().to_string().contains("is no take"));
}

#[test]
fn a_video_that_is_written_to_while_it_is_watched_is_said() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let (video, media) = (dir.path().join("cam.mp4"), media());
    std::fs::copy(asset("demo.mp4"), &video).unwrap();
    let request = request(&video, &media, GgmlType::F16);
    let mut watch = begin_as(&engine, &request, (&dir.path().join("a.take"), IfExists::Refuse)).unwrap();
    assert!(!watch_some(&mut watch, 2));
    std::fs::File::options().append(true).open(&video).unwrap().write_all(&[0; 8]).unwrap();
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let err = watch.run(&mut Events::new(&mut sink, &cancel)).unwrap_err();
    assert!(err.to_string().contains("cam.mp4: changed while it was watched"), "{err}");
    let take = Take::open(&dir.path().join("a.take"), true);
    drop((watch, take));
    let take = Take::open(&dir.path().join("a.take"), true).unwrap();
    assert!(take.check_same(&engine, &request).is_err());
}

/// A folder of pictures is its names and all their bytes.
#[test]
fn a_take_of_a_folder_knows_every_picture() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let folder = dir.path().join("frames");
    std::fs::create_dir(&folder).unwrap();
    let picture = |i: u8, shade: u8| {
        let path = folder.join(format!("{i}.png"));
        image::RgbImage::from_pixel(56, 56, image::Rgb([shade, i, 9])).save(&path).unwrap();
        path
    };
    (0..4).for_each(|i| drop(picture(i, 100)));
    let media = media();
    let request = request(&folder, &media, GgmlType::F16);
    let path = dir.path().join("a.take");
    assert!(watch_some(&mut begin_as(&engine, &request, (&path, IfExists::Refuse)).unwrap(), usize::MAX));
    let check = || Take::open(&path, true).unwrap().check_same(&engine, &request);
    check().unwrap();
    let size = picture(2, 100).metadata().unwrap().len();
    check().unwrap();
    assert_eq!(picture(2, 101).metadata().unwrap().len(), size, "a picture of another size tells too much");
    assert!(check().unwrap_err().to_string().contains("as large"));
    picture(2, 100);
    std::fs::rename(folder.join("3.png"), folder.join("9.png")).unwrap();
    assert!(check().is_err());
    std::fs::rename(folder.join("9.png"), folder.join("3.png")).unwrap();
    check().unwrap();
    std::fs::remove_file(folder.join("3.png")).unwrap();
    assert!(check().unwrap_err().to_string().contains("another video"));
}

/// Version 1 noted neither what was asked for nor when: it can be asked, and is not gone on with.
#[test]
fn a_take_of_version_one_is_read_and_not_trusted_to_be_the_same() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let header = Take::open(&whole(dir.path(), &engine, GgmlType::F16), true).unwrap().header;
    let mut meta = header.to_metadata();
    assert_eq!(TakeHeader::read(&meta).unwrap(), header);
    meta.set("take.version", 1u32);
    meta.remove("take.asked").unwrap();
    let old = TakeHeader::read(&meta).unwrap();
    assert_eq!(old, TakeHeader { asked: None, ..header });
    meta.set("take.version", 6u32);
    assert!(TakeHeader::read(&meta).unwrap_err().to_string().contains("`6`"));
}

/// Fault 45: nobody writes into a take that is in use, and nobody reads one that is being written.
#[test]
fn a_take_has_one_writer_or_many_readers() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    let path = dir.path().join("a.take");
    let watch = begin(&engine, &path, GgmlType::F16);
    let err = Take::open(&path, true).err().unwrap();
    assert!(err.to_string().contains("locked by another program"), "{err}");
    let (video, media) = (asset("demo.mp4"), media());
    let again =
        |if_exists| begin_as(&engine, &request(&video, &media, GgmlType::F16), (&path, if_exists)).err().unwrap();
    let err = again(IfExists::Refuse);
    assert!(err.to_string().contains("exists already"), "{err}");
    let err = again(IfExists::Replace);
    assert!(err.to_string().contains("locked by another program"), "{err}");
    drop(watch);
    let (one, other) = (Take::open(&path, true).unwrap(), Take::open(&path, true).unwrap());
    let err = resume(&engine, one).err().unwrap();
    assert!(err.to_string().contains("in use"), "{err}");
    drop(other);
    assert!(resume(&engine, Take::open(&path, true).unwrap()).is_ok());
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

    let (mut kills, mut takes, mut resumed, mut random) = (0, 0, 0, Rng(1));
    while kills < KILLS {
        let path = dir.path().join(format!("{takes}.take"));
        loop {
            let share = random.unit();
            let moment = whole_time.mul_f64(share);
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
            assert!(out.status.success(), "after {kills} kills, the last at {share}: {message}");
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
