//! Streams whose past becomes thinner when the context is full (`--when-full compress`).

use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::cache::{CacheType, KvCache};
use longtake::drawn::hard::Hard;
use longtake::eval::streams::{Memory, StreamOptions, trial};
use longtake::gguf::GgmlType;
use longtake::position::Layout;
use longtake::stream::{
    Around, Engine, Events, IfExists, LiveEnd, LivePlan, LiveTake, MediaOptions, MediaPlan, Session, SessionOptions,
    Take, TakeHeader, WhenFull, Window, Worth, question,
};

use crate::endless::{QUESTION, answer, engine, options, prompt, watch, y4m};

const COMPRESS: WhenFull = WhenFull::Compress(Worth::Change);

fn live(engine: &Arc<Engine>, bytes: Vec<u8>, dedup: Option<f32>) -> LivePlan {
    let mut media = MediaOptions { dedup, ..MediaOptions::default() };
    let sample = &mut media.sample;
    (sample.min_pixels, sample.max_pixels, sample.fps) = (Some(3136), Some(4704), Some(2.0));
    LivePlan::open(Cursor::new(bytes), "a stream", &media, engine.need_vision().unwrap(), &|| false).unwrap()
}

/// Keys and values of each slot from `from` on.
fn slots(cache: &KvCache, from: usize) -> Vec<Vec<u8>> {
    let n = cache.len() - from;
    let mut slots = vec![Vec::new(); n];
    for (_, _, bytes) in cache.runs(from..cache.len()) {
        slots.iter_mut().zip(bytes.chunks_exact(bytes.len() / n)).for_each(|(slot, row)| slot.extend(row));
    }
    slots
}

/// Whether all of `some` are among `all`, in order.
fn is_among(some: &[Vec<u8>], all: &[Vec<u8>]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|slot| rest.any(|known| known == slot))
}

/// Keys and values of one layer say of every slot which token of which pair it holds, at which position.
#[test]
fn what_is_left_is_what_was_there_and_stands_where_it_stood() {
    let n_before = |engine: &Arc<Engine>| Around::of(engine, None).unwrap().before.len();
    let types = [(GgmlType::F32, true), (GgmlType::F16, false), (GgmlType::Q8_0, false), (GgmlType::Q4_0, true)];
    for layout in [Layout::Hope, Layout::Mrope] {
        let engine = engine(layout, 1);
        for ((ty, hadamard), (n_frames, n_batch)) in types.into_iter().zip([(120, 16), (97, 5), (400, 16), (61, 7)]) {
            let ty = CacheType { ty, hadamard };
            let case = format!("{layout}, {ty}, {n_frames} frames, steps of {n_batch}");
            let run = |n_ctx: usize, when_full| {
                let mut plan = live(&engine, y4m(2, 0..n_frames), None);
                let sizes = SessionOptions { type_k: ty, type_v: ty, ..options(n_ctx, n_batch) };
                let mut session = Session::new(&engine, sizes).unwrap();
                let (window, end) = watch(&mut session, &mut plan, (when_full, 60), &mut |cache, window, _| {
                    assert!(cache.len() <= n_ctx - 60 && window.n_pairs >= window.n_forgotten, "{case}");
                })
                .unwrap();
                assert!(matches!(end, LiveEnd::Over) && window.n_pairs == n_frames.div_ceil(2), "{case}: {end:?}");
                (plan.shape.seen(window), window, session)
            };
            let (_, _, whole) = run(1600, WhenFull::Stop);
            let (seen, window, session) = run(200, COMPRESS);
            let (kept, per_pair, n_before) = (seen.kept.clone().unwrap(), seen.per_pair, n_before(&engine));
            assert_eq!(kept.len(), window.n_pairs - window.n_forgotten, "{case}");
            let n_kept: usize = kept.iter().map(|n| *n as usize).sum();
            assert_eq!(
                (n_before + n_kept, n_kept + window.n_gone),
                (session.n_past(), window.n_pairs * per_pair),
                "{case}"
            );
            assert!(session.n_past() <= 140 && n_kept > 70 && window.n_gone > 0, "{case}: {window:?}");
            assert_eq!(session.context().next_pos(), whole.context().next_pos(), "{case}");
            let (mut left, all) = (slots(session.cache(), n_before), slots(whole.cache(), n_before));
            for (n, frames) in kept.iter().zip(seen.frames.chunks_exact(2)) {
                let rest = left.split_off(*n as usize);
                let pair = frames[0] / 2;
                assert!(is_among(&left, &all[pair * per_pair..(pair + 1) * per_pair]), "{case}: pair {pair}");
                left = rest;
            }
            // What was there first, and last.
            assert!(kept[0] as usize == per_pair && kept[kept.len() - 2..] == [per_pair as u32; 2], "{case}: {kept:?}");
            assert!(kept.iter().any(|n| (*n as usize) < per_pair), "{case}: {kept:?}");
            assert!(seen.frames.is_sorted() && seen.frames[0] == 0, "{case}");
            let again = run(200, COMPRESS);
            assert_eq!((again.0.kept, slots(again.2.cache(), 0)), (Some(kept), slots(session.cache(), 0)), "{case}");
        }
    }
}

/// A wall in front of which nothing happens for a moment: it is kept once, and so is the moment, for however long nothing happens.
#[test]
fn a_moment_in_front_of_a_wall_stays() {
    let engine = engine(Layout::Hope, 2);
    for (n_frames, dedup) in [(1200, None), (1200, Some(2.0)), (4000, Some(2.0))] {
        // Frame 0 again and again, but for one pair.
        let mut bytes = y4m(2, 0..1);
        let frame = bytes.split_off(bytes.iter().position(|b| *b == b'\n').unwrap() + 1);
        let other = y4m(2, 30..31).split_off(bytes.len());
        let moment = 151;
        (0..n_frames).for_each(|i| bytes.extend(if i / 2 == moment { &other } else { &frame }));
        let mut plan = live(&engine, bytes, dedup);
        let shape = plan.shape.clone();
        let mut session = Session::new(&engine, options(200, 16)).unwrap();
        let (window, _) = watch(&mut session, &mut plan, (COMPRESS, 60), &mut |_, window, _| {
            // Nothing that is told of it grows with the time that passes.
            let n_held = shape.seen(window).frames.len() / 2;
            assert!(dedup.is_some() || n_held <= 140, "{n_held} pairs");
        })
        .unwrap();
        let seen = plan.shape.seen(window);
        let kept = seen.kept.clone().unwrap();
        assert_eq!((kept[0] as usize, seen.frames[0]), (seen.per_pair, 0));
        let held = seen.frames.iter().position(|frame| *frame == 2 * moment).expect("the moment is there");
        assert!(kept[held / 2] > 0, "{kept:?}");
        if dedup.is_none() {
            let n_between: usize = seen.frames.iter().filter(|frame| (2..2 * moment).contains(*frame)).count();
            assert_eq!(n_between, 0, "the wall is kept once: {:?}", seen.frames);
        }
    }
}

/// Stamps go with the last token of their pair, states stay as they are, and a take holds what the session held.
#[test]
fn takes_of_thinned_streams_answer_like_the_sessions_that_watched_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut engines = vec![engine(Layout::Hope, 2)];
    engines.extend(["q3-a", "q35-a", "q25-a"].map(|name| crate::stamped_streams::engine(dir.path(), name)));
    for (i, engine) in engines.iter().enumerate() {
        let mut plan = live(engine, y4m(2, 0..90), None);
        let sizes = options(200, 16);
        let mut session = Session::new(engine, sizes).unwrap();
        let path = dir.path().join(format!("{i}.take"));
        let before = Around::of(engine, None).unwrap().before;
        let mut take = LiveTake::new((&path, IfExists::Replace), (None, before), sizes, None).unwrap();
        let (shape, mut saved) = (plan.shape.clone(), 0);
        let mut keep = |cache: &KvCache, window: Window, events: &mut Events<'_>| {
            take.save(engine, &shape.seen(window), cache, events).unwrap();
            let now = Take::open(&path, true).unwrap();
            assert!(now.is_complete() && now.header.is_compressed && now.n_done() <= cache.len());
            saved += 1;
        };
        let (window, _) = watch(&mut session, &mut plan, (COMPRESS, 60), &mut keep).unwrap();
        assert!(window.n_pairs == 45 && window.n_gone > 0 && saved > 3, "{i}: {window:?}, {saved} saves");
        session.pull().unwrap();
        let seen = plan.shape.seen(window);
        if let Some(text) = &seen.text {
            for (lead, frames) in text.lead.iter().zip(seen.frames.chunks_exact(2)).skip(1) {
                let stamp = longtake::stream::stamp(frames[0] as f64 / 2.0, frames[1] as f64 / 2.0);
                assert_eq!(engine.tokenizer.decode(lead, false), format!("{stamp}<|vision_start|>"));
            }
        }
        let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
        take.save(engine, &seen, session.cache(), &mut Events::new(&mut sink, &cancel)).unwrap();
        let want = answer(&mut session, &mut prompt(engine, seen));
        for mmap in [true, false] {
            let take = Take::open(&path, mmap).unwrap();
            let mut again = Session::from_take(engine, &take).unwrap();
            let mut asked = question(engine, &take.header, QUESTION, false).unwrap();
            assert_eq!((answer(&mut again, &mut asked), again.n_past()), (want.clone(), session.n_past()), "{i}");
            // Older programs do not know what is missing.
            let meta = take.header.to_metadata();
            assert_eq!(meta.need_uint("take.version").unwrap(), 5);
            assert_eq!(TakeHeader::read(&meta).unwrap(), take.header);
            let bad = TakeHeader { kept: None, ..take.header.clone() };
            assert!(bad.check().unwrap_err().to_string().contains("take.video.compressed"));
            let other = MediaPlan::watched(&TakeHeader { is_compressed: false, ..take.header.clone() });
            assert!(
                other.kept.is_some() && TakeHeader { is_compressed: false, ..take.header.clone() }.check().is_err()
            );
        }
    }
}

#[test]
fn a_context_has_room_for_what_goes_and_what_stays() {
    let engine = engine(Layout::Hope, 1);
    let n_before = Around::of(&engine, None).unwrap().before.len();
    let mut plan = live(&engine, y4m(2, 0..40), None);
    let per_pair = plan.shape.per_pair;
    // A pair that comes, one that goes, two that stay, and a step.
    let least = n_before + 4 * per_pair + 4;
    for (n_ctx, fits) in [(60 + least - 1, false), (60 + least, true)] {
        let mut session = Session::new(&engine, options(n_ctx, 4)).unwrap();
        let watched = watch(&mut session, &mut plan, (COMPRESS, 60), &mut |_, _, _| {});
        match watched {
            Ok((window, _)) => assert!(fits && window.n_pairs == 20 && session.n_past() <= least, "{window:?}"),
            Err(error) => assert!(!fits && error.to_string().contains("too small"), "{error}"),
        }
    }
}

fn longtake(dir: &Path, args: &[&str], bytes: &[u8]) -> (String, String) {
    let asset = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("XDG_CACHE_HOME", dir.join("cache"));
    if ["run", "watch", "plan"].contains(&args[0]) {
        command.arg("-m").arg(asset("demo.gguf")).arg("--mmproj").arg(asset("mmproj-demo.gguf"));
        command.args(["-b", "16", "--max-pixels", "4704", "--min-pixels", "3136"]);
    }
    let mut child = command.spawn().unwrap();
    // Who has read enough closes the pipe.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes);
    let out = child.wait_with_output().unwrap();
    let [stdout, stderr] = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).to_string());
    assert!(out.status.success(), "{args:?}: {stderr}");
    (stdout, stderr)
}

/// Everybody who tells of such a stream says what is left of it, and where an answer looked are the times that are left.
#[test]
fn the_program_says_what_became_thinner() {
    let dir = tempfile::tempdir().unwrap();
    let (take, bytes) = (dir.path().join("camera.take"), y4m(2, 0..200));
    let take = take.to_str().unwrap();
    let full = ["--when-full", "compress", "-c", "200", "--reserve", "60"];
    let (_, err) = longtake(dir.path(), &[&["plan", "-"][..], &full].concat(), &bytes);
    assert!(err.contains("changed least"), "{err}");
    let (events, _) = longtake(dir.path(), &[&["watch", "-", "-o", take, "--json"][..], &full].concat(), &bytes);
    let streamed = |line: &&str| line.contains("\"streamed\"");
    let last: serde_json::Value = serde_json::from_str(events.lines().rfind(streamed).unwrap()).unwrap();
    assert!(last["pairs"] == 100 && last["tokens_forgotten"].as_u64().unwrap() > 400, "{last}");
    let header = Take::open(Path::new(take), true).unwrap().header;
    let (n_pairs, n_visual) = (header.frames.len() / 2, header.kept.iter().flatten().sum::<u32>());
    let says = format!("{n_pairs} of 100 frame pairs are left, with {n_visual} of 600 visual tokens");
    let (shown, _) = longtake(dir.path(), &["inspect", take], b"");
    assert!(shown.contains(&says), "{shown}");
    let (out, err) = longtake(dir.path(), &["ask", take, QUESTION, "-n", "4", "--where", "--json"], b"");
    assert!(err.contains(&says), "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let pairs = answer["where"]["media"][0]["pairs"].as_array().unwrap();
    let spans: Vec<(f64, f64)> =
        pairs.iter().map(|pair| (pair["from"].as_f64().unwrap(), pair["to"].as_f64().unwrap())).collect();
    let want: Vec<(f64, f64)> =
        header.frames.iter().step_by(2).map(|i| (f64::from(*i) / 2.0, f64::from(*i) / 2.0 + 1.0)).collect();
    assert_eq!(spans, want);
    let (out, err) = longtake(
        dir.path(),
        &["run", "--video", "-", "-p", QUESTION, "-n", "4", "--json", "--when-full", "compress", "-c", "200"],
        &bytes,
    );
    assert!(err.contains("visual tokens on the whole"), "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let medium = &answer["media"][0];
    assert!(medium["compressed"] == true && medium["tokens_left_out"].as_u64() > Some(0), "{medium}");
}

/// The judge gives every way as much room, and what changed nowhere leaves room for the pair that shows the symbol.
#[test]
fn the_judge_compares_memories_of_the_same_size() {
    crate::common::choose_kernels();
    let engine = Arc::new(longtake::drawn::embedded::engine().unwrap());
    let session = SessionOptions { temporal_scale: None, ..options(1, 512) };
    let options = StreamOptions { frame: (168, 112), n_pairs: 40, n_room: 10, session, seed: 3 };
    let cancel = AtomicBool::new(false);
    for (number, kind) in [(0, Hard::Still), (2, Hard::Still), (1, Hard::Cuts)] {
        let outcomes = trial(&engine, &options, (kind, number, 4), &cancel).unwrap();
        assert_eq!(outcomes.iter().map(|o| o.memory).collect::<Vec<_>>(), Memory::ALL);
        let per_pair = outcomes[0].n_tokens / 40;
        assert_eq!((outcomes[0].n_tokens, outcomes[0].n_shown), (40 * per_pair, per_pair));
        for outcome in &outcomes[1..] {
            let (room, depth) = (10 * per_pair, outcome.depth);
            assert!(outcome.n_tokens <= room && 4 * outcome.n_tokens >= 3 * room, "{outcome:?}");
            assert!(depth >= number as f64 / 4.0 - 0.03 && depth < (number + 1) as f64 / 4.0, "{outcome:?}");
            match outcome.memory {
                Memory::Forget => assert!(outcome.n_shown == 0 && outcome.n_pairs <= 10, "{outcome:?}"),
                Memory::Compress if kind == Hard::Still => assert_eq!(outcome.n_shown, per_pair, "{outcome:?}"),
                Memory::Random => assert!(outcome.n_pairs > 20, "{outcome:?}"),
                Memory::Smaller => assert_eq!(outcome.n_pairs, 40, "{outcome:?}"),
                _ => {}
            }
        }
    }
}
