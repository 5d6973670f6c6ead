//! What has not changed is left out where that is asked for: which tokens stay, where they stand, and what takes, streams and
//! programs make of it. Nothing changes for who does not ask.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::cache::KvCache;
use longtake::gguf::GgmlType;
use longtake::media::{FrameSource, Rgb, VideoInfo};
use longtake::position::Pos;
use longtake::random::Rng;
use longtake::stream::{
    Context, Engine, Event, Events, IfExists, LiveOptions, LivePlan, MediaOptions, MediaPlan, Probe, Session, Take,
    Tally, WatchRequest, WhenFull,
};
use longtake::{ErrorKind, Result};

use crate::common::{engine_of, family_models, golden_families};
use crate::endless::{answer, options, prompt};
use crate::golden_families::{Pair, convert_checkpoint};
use crate::take::{asset, begin_as, content, request, watch_some};

/// Tokens of a pair: rows and columns.
const GRID: (usize, usize) = (4, 5);
/// A change that counts, in steps.
const LIMIT: f32 = 5.5;

const WHOLE: Less = (None, None);
const CHANGED: Less = (Some(LIMIT), None);

/// A wall of cells, one for each token, of one shade each.
struct Wall {
    info: VideoInfo,
    cell: usize,
    /// Of every pair.
    shades: Vec<Vec<u8>>,
}

impl FrameSource for Wall {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        let (height, width) = (self.info.height, self.info.width);
        let shades = &self.shades[index / 2];
        let cell = |at: usize| at / width / self.cell * GRID.1 + at % width / self.cell;
        // A pattern that stays, so that cells are no plain areas.
        let pixel = |i: usize| shades[cell(i / 3)] + (i / 3 % 7 + i % 3 * 9) as u8;
        Ok(Rgb { height, width, data: (0..height * width * 3).map(pixel).collect() })
    }
}

/// Shades that change now and then by nothing, little or much, and for some pairs not at all.
fn shades(seed: u64, n_pairs: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let mut now = vec![100u8; GRID.0 * GRID.1];
    let pair = |pair: usize| {
        let is_still = pair % 5 == 3;
        for shade in now.iter_mut().filter(|_| !is_still) {
            *shade = match rng.below(8) {
                0 => 40 + rng.below(150) as u8,
                1..=3 => (*shade + 2).min(200),
                _ => *shade,
            };
        }
        now.clone()
    };
    (0..n_pairs).map(pair).collect()
}

/// Which tokens stay, by shades alone.
fn expected(shades: &[Vec<u8>]) -> Vec<Vec<bool>> {
    let mut last = shades[0].clone();
    let mut kept = vec![vec![true; last.len()]];
    for pair in &shades[1..] {
        let marks = pair.iter().zip(&mut last).map(|(now, last)| {
            let is_kept = f32::from(now.abs_diff(*last)) > LIMIT;
            if is_kept {
                *last = *now;
            }
            is_kept
        });
        kept.push(marks.collect());
    }
    kept
}

/// What is left out: what has not changed, all but a share.
type Less = (Option<f32>, Option<f32>);

fn media(engine: &Engine, (dedup, keep): Less) -> MediaOptions {
    let cell = engine.need_vision().unwrap().hparams().factor();
    let n_pixels = (GRID.0 * GRID.1 * cell * cell) as u64;
    let mut options = MediaOptions { dedup, keep, ..MediaOptions::default() };
    let sample = &mut options.sample;
    (sample.min_pixels, sample.max_pixels, sample.whole, sample.fps) =
        (Some(n_pixels / 2), Some(n_pixels), true, Some(2.0));
    options
}

fn plan(engine: &Engine, shades: Vec<Vec<u8>>, less: Less) -> MediaPlan {
    let cell = engine.need_vision().unwrap().hparams().factor();
    let (n_frames, height, width) = (2 * shades.len(), GRID.0 * cell, GRID.1 * cell);
    let info = VideoInfo { n_frames, fps: 2.0, duration: n_frames as f64 / 2.0, height, width, decoder: "test".into() };
    let source = Box::new(Wall { info, cell, shades });
    let plan = MediaPlan::frames(source, "wall".into(), &media(engine, less), engine.need_vision().unwrap()).unwrap();
    assert_eq!((plan.height, plan.width, plan.per_pair), (height, width, GRID.0 * GRID.1));
    plan
}

/// Where rows were read.
#[derive(Default)]
struct Places(Vec<Pos>);

impl Probe for Places {
    fn after_step(&mut self, pos: &[Pos], _: &mut KvCache) -> Result<()> {
        self.0.extend_from_slice(pos);
        Ok(())
    }
}

/// What a session holds after a video: its plan as it became, positions, rows, states, and what was counted.
struct Seen {
    plan: MediaPlan,
    places: Vec<Pos>,
    rows: Vec<u8>,
    states: Vec<f32>,
    tally: Tally,
    last: Option<(usize, usize)>,
}

fn read(engine: &Arc<Engine>, plan: MediaPlan) -> Seen {
    let mut prompt = prompt(engine, plan);
    let mut session = Session::new(engine, options(1200, 64)).unwrap();
    let (cancel, mut tally, mut places, mut last) = (AtomicBool::new(false), Tally::default(), Places::default(), None);
    let mut sink = |event| {
        tally.see(&event);
        if let Event::Prefilled { n_done, n_total } = event {
            last = Some((n_done, n_total));
        }
    };
    session.feed(&mut prompt, &mut Events::new(&mut sink, &cancel).with_probe(&mut places)).unwrap();
    session.pull().unwrap();
    let (rows, states) = (content(session.cache()), session.cache().states().unwrap().to_vec());
    assert_eq!(prompt.n_tokens().unwrap(), session.n_past());
    Seen { plan: prompt.videos.swap_remove(0), places: places.0, rows, states, tally, last }
}

/// The model of the first family, and one of each of the others.
fn engines(dir: &Path) -> Vec<(String, Arc<Engine>)> {
    let mut engines = vec![("qwen2_vl".to_string(), crate::stream::engine())];
    for (checkpoint, index) in family_models() {
        let family = index["family"].as_str().unwrap();
        if engines.iter().all(|(known, _)| known != family) {
            let layout = if family == "qwen2_5_vl" {
                longtake::position::Layout::Mrope
            } else {
                longtake::position::Layout::MropeI
            };
            let Pair { text, mmproj } = convert_checkpoint(&golden_families(), dir, &checkpoint, layout);
            engines.push((family.to_string(), Arc::new(engine_of(text, Some(mmproj)).unwrap())));
        }
    }
    engines
}

/// The tokens that stay, those that arithmetic over shades says, stand where they stand when all are read, and so does what follows;
/// words around pairs stay, too. Rows are those of a context that was given these tokens by hand.
#[test]
fn what_changed_stays_and_stands_where_it_stood() {
    let dir = tempfile::tempdir().unwrap();
    for (family, engine) in engines(dir.path()) {
        let shades = shades(7, 23);
        let kept = expected(&shades);
        let (all, some) =
            (read(&engine, plan(&engine, shades.clone(), WHOLE)), read(&engine, plan(&engine, shades, CHANGED)));
        let counts: Vec<u32> = kept.iter().map(|marks| marks.iter().filter(|kept| **kept).count() as u32).collect();
        assert_eq!(some.plan.kept.as_deref(), Some(&counts[..]), "{family}");
        let n_left_out = GRID.0 * GRID.1 * counts.len() - counts.iter().sum::<u32>() as usize;
        assert!(n_left_out > 200 && counts.contains(&0), "{family}: {counts:?}");
        assert_eq!((some.plan.n_left_out(), all.plan.n_left_out()), (n_left_out, 0), "{family}");
        assert_eq!(some.tally.left_out_tokens, n_left_out, "{family}");
        assert_eq!(some.tally.left_out_pairs, counts.iter().filter(|n| **n == 0).count(), "{family}");
        assert_eq!(some.tally.encoded_pairs + some.tally.left_out_pairs + some.tally.reused_pairs, counts.len());
        let n_read = some.places.len();
        assert_eq!(some.last, Some((n_read, n_read)), "{family}: progress comes to its end");
        check_places(&family, &engine, (&all, &some), &kept);
        by_hand(&family, &engine, &kept, &some);
    }
}

/// Of the positions of everything, those of what is left out are missing.
fn check_places(family: &str, engine: &Arc<Engine>, (all, some): (&Seen, &Seen), kept: &[Vec<bool>]) {
    let at = all.places.len() - prompt_tail(engine, &all.plan);
    let (mut want, mut next) = (all.places[..at].to_vec(), at);
    for (pair, marks) in kept.iter().enumerate() {
        let around = all.plan.text.as_ref().map_or((0, 0), |text| (text.lead[pair].len(), text.tail.len()));
        want.extend(&all.places[next..next + around.0]);
        next += around.0;
        want.extend(all.places[next..].iter().zip(marks).filter(|(_, kept)| **kept).map(|(pos, _)| *pos));
        next += marks.len();
        want.extend(&all.places[next..next + around.1]);
        next += around.1;
    }
    want.extend(&all.places[next..]);
    assert!(some.places == want, "{family}: {} places of {}", some.places.len(), want.len());
}

/// Of every pair but the first a share stays, as planned: those tokens that differ most from the same place of the pair before, by
/// features that a tower of its own gives, and of what has changed where that is asked for, too.
#[test]
fn a_share_of_every_pair_stays_that_differs_most() {
    let dir = tempfile::tempdir().unwrap();
    for ((family, engine), dedup) in
        engines(dir.path()).into_iter().flat_map(|one| [None, Some(LIMIT)].map(|d| (one.clone(), d)))
    {
        let shades = shades(7, 23);
        let less = (dedup, Some(0.31));
        let (all, planned) = (read(&engine, plan(&engine, shades.clone(), WHOLE)), plan(&engine, shades.clone(), less));
        let n_planned = planned.n_tokens;
        let some = read(&engine, planned);
        let (n, n_share, counts) = (GRID.0 * GRID.1, 6, some.plan.kept.clone().unwrap());
        let n_text = some.plan.text.as_ref().map_or(0, |text| text.n_text());
        assert_eq!(n_planned, n + 22 * n_share, "{family}");
        let changed = expected(&shades);
        let n_changed = |pair: usize| changed[pair].iter().filter(|is| **is || dedup.is_none()).count();
        for (pair, n_kept) in counts.iter().enumerate().skip(1) {
            assert_eq!(*n_kept as usize, n_share.min(n_changed(pair)), "{family}: pair {pair}");
        }
        assert_eq!(some.plan.n_tokens - n_text, counts.iter().sum::<u32>() as usize);
        let marks = marks(&engine, &all, &some);
        check_places(&family, &engine, (&all, &some), &marks);
        by_hand(&family, &engine, &marks, &some);
        // Which they are.
        let (tower, mut plan) = (engine.need_vision().unwrap(), plan(&engine, shades, WHOLE));
        let mut before: Option<Vec<f32>> = None;
        for (pair, marks) in marks.iter().enumerate() {
            if marks.iter().all(|kept| !kept) {
                continue;
            }
            let mut pixels = Vec::new();
            plan.pixels(pair, &mut pixels).unwrap();
            let rows = tower.encode(&pixels, plan.grid.h, plan.grid.w, None).unwrap();
            if let Some(before) = before.replace(rows.clone()) {
                let (width, own) = (rows.len() / n, engine.text.hparams().n_embd);
                let distance = |i: usize| {
                    let row = |rows: &[f32]| rows[i * width..][..own].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                    let (a, b) = (row(&before), row(&rows));
                    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    1.0 - dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
                };
                let may = |i: &usize| dedup.is_none() || changed[pair][*i];
                let least = (0..n).filter(|i| marks[*i]).map(distance).fold(f64::INFINITY, f64::min);
                let most = (0..n).filter(|i| !marks[*i]).filter(may).map(distance).fold(0.0, f64::max);
                assert!(least > most - 1e-6, "{family}: pair {pair}: {least} stays, {most} does not");
            }
        }
    }
}

/// Which tokens stayed, by where they stand.
fn marks(engine: &Arc<Engine>, all: &Seen, some: &Seen) -> Vec<Vec<bool>> {
    let at = all.places.len() - prompt_tail(engine, &all.plan);
    let (mut next, mut there) = (at, at);
    let pair = |pair: usize| {
        let around = all.plan.text.as_ref().map_or((0, 0), |text| (text.lead[pair].len(), text.tail.len()));
        (next, there) = (next + around.0, there + around.0);
        let n_kept = some.plan.kept.as_ref().unwrap()[pair] as usize;
        let (whole, kept) = (&all.places[next..next + GRID.0 * GRID.1], &some.places[there..there + n_kept]);
        (next, there) = (next + whole.len() + around.1, there + n_kept + around.1);
        whole.iter().map(|pos| kept.contains(pos)).collect()
    };
    (0..all.plan.n_pairs()).map(pair).collect()
}

/// Tokens from the beginning of the video on.
fn prompt_tail(engine: &Arc<Engine>, plan: &MediaPlan) -> usize {
    let prompt = prompt(engine, crate::unchanged::plan(engine, shades(7, 23), WHOLE));
    let mut prompt = prompt;
    prompt.tell_time(&engine.tokenizer).unwrap();
    let at = prompt.units.iter().position(|unit| matches!(unit, longtake::stream::Unit::Media { .. })).unwrap();
    prompt.units.len() - at - 1 + plan.n_tokens
}

/// Every pair through the tower by itself, its tokens and words pushed one after the other.
fn by_hand(family: &str, engine: &Arc<Engine>, kept: &[Vec<bool>], some: &Seen) {
    let mut prompt = prompt(engine, plan(engine, shades(7, 23), WHOLE));
    prompt.tell_time(&engine.tokenizer).unwrap();
    let (tower, mut context) = (engine.need_vision().unwrap(), Context::new(engine, &options(1200, 64)).unwrap());
    let units = std::mem::take(&mut prompt.units);
    for unit in units {
        let longtake::stream::Unit::Token(id) = unit else {
            let plan = &mut prompt.videos[0];
            let pace = plan.pace(0.75);
            let text = plan.text.clone();
            if text.is_none() {
                context.begin_visual(GRID.0, GRID.1, pace).unwrap();
            }
            for (pair, marks) in kept.iter().enumerate() {
                let mut pixels = Vec::new();
                plan.pixels(pair, &mut pixels).unwrap();
                let rows = tower.encode(&pixels, plan.grid.h, plan.grid.w, None).unwrap();
                if let Some(text) = &text {
                    context.push_tokens(&text.lead[pair]).unwrap();
                    context.begin_visual(GRID.0, GRID.1, pace).unwrap();
                }
                context.push_pair_in_part(&rows, Some(marks));
                if let Some(text) = &text {
                    context.end_visual();
                    context.push_tokens(&text.tail).unwrap();
                }
                context.drain(false, &mut Places::default()).unwrap();
            }
            context.end_visual();
            if context.is_recurrent() {
                context.drain(true, &mut Places::default()).unwrap();
            }
            continue;
        };
        context.push_tokens(&[id]).unwrap();
        context.drain(false, &mut Places::default()).unwrap();
    }
    context.drain(true, &mut Places::default()).unwrap();
    context.pull().unwrap();
    assert!(content(context.cache()) == some.rows, "{family}: rows");
    assert!(context.cache().states().unwrap() == some.states, "{family}: states");
}

#[test]
fn who_does_not_ask_and_what_changes_everywhere_is_read_whole() {
    let engine = crate::stream::engine();
    // Every cell is another one in every pair.
    let shades: Vec<Vec<u8>> = (0..9).map(|pair| vec![40 + 20 * pair as u8; GRID.0 * GRID.1]).collect();
    let want = read(&engine, plan(&engine, shades.clone(), WHOLE));
    let got = read(&engine, plan(&engine, shades.clone(), CHANGED));
    assert!(got.rows == want.rows && got.places == want.places);
    assert_eq!((got.tally.left_out_tokens, want.plan.kept), (0, None));
    // With the largest limit nothing changes, and with none what is the same to the bit is left out.
    let got = read(&engine, plan(&engine, shades, (Some(255.0), None)));
    assert_eq!(got.plan.kept.unwrap()[..3], [20, 0, 0]);
    let got = read(&engine, plan(&engine, vec![vec![90; 20], vec![90; 20], vec![91; 20]], (Some(0.0), None)));
    assert_eq!(got.plan.kept.unwrap(), [20, 0, 20]);
}

/// The same video in another question of the same session is not read again, and a prompt that never saw it knows how much it is.
#[test]
fn what_is_left_out_is_remembered_with_the_video() {
    let engine = crate::stream::engine();
    let mut session = Session::new(&engine, options(1200, 64)).unwrap();
    let fresh = |session: &mut Session| answer(session, &mut prompt(&engine, plan(&engine, shades(3, 12), CHANGED)));
    let want = fresh(&mut session);
    let n_past = session.n_past();
    let mut again = prompt(&engine, plan(&engine, shades(3, 12), CHANGED));
    let n_before = session.n_common(&again);
    assert!(n_before < n_past && n_before + 60 > n_past, "{n_before} of {n_past}");
    let (cancel, mut encoded) = (AtomicBool::new(false), 0);
    let mut sink = |event| encoded += usize::from(matches!(event, Event::Encoded { .. }));
    session.feed(&mut again, &mut Events::new(&mut sink, &cancel)).unwrap();
    assert_eq!((encoded, again.videos[0].kept.is_some()), (0, true));
    assert_eq!(fresh(&mut session), want);
    // With another limit it is another video.
    let other = prompt(&engine, plan(&engine, shades(3, 12), (Some(LIMIT + 1.0), None)));
    assert!(session.n_common(&other) < 60);
}

/// A take is complete with what was read, whatever interrupted watching; it says what was left out, and is gone on with as it was
/// begun.
#[test]
fn a_take_without_what_did_not_change() {
    for less in [(Some(12.0), None), (None, Some(0.3)), (Some(12.0), Some(0.3))] {
        check_takes(less);
    }
}

fn check_takes((dedup, keep): Less) {
    let (dir, engine) = (tempfile::tempdir().unwrap(), crate::stream::engine());
    let media = MediaOptions { dedup, keep, ..crate::take::media() };
    let video = asset("demo.mp4");
    let request = request(&video, &media, GgmlType::F16);
    let path = dir.path().join("whole.take");
    assert!(watch_some(&mut begin_as(&engine, &request, (&path, IfExists::Refuse)).unwrap(), usize::MAX));
    let want = Take::open(&path, true).unwrap();
    let kept = want.header.kept.clone().unwrap();
    let [_, h, w] = want.header.grid;
    assert!(want.is_complete() && kept[0] as usize == h * w && kept.iter().any(|n| (*n as usize) < h * w), "{kept:?}");
    want.check_same(&engine, &request).unwrap();
    let (rows, asked) = (content(&want.cache().unwrap()), "What is it?");
    let want_answer = crate::take::answer(&engine, &mut Session::from_take(&engine, &want).unwrap(), &want, asked);
    for stop_after in [1, 2, 4] {
        let path = dir.path().join(format!("{stop_after}.take"));
        let mut complete = watch_some(&mut begin_as(&engine, &request, (&path, IfExists::Refuse)).unwrap(), stop_after);
        while !complete {
            let take = Take::open(&path, true).unwrap();
            assert!(!take.is_complete() && take.header.kept.is_none() == dedup.is_some() && take.n_done() > 0);
            let other = MediaOptions { dedup: Some(13.0), keep: Some(0.5), ..media.clone() };
            let err = take.check_same(&engine, &WatchRequest { media: &other, ..request }).unwrap_err();
            let is_said = |name: &str, is: Option<f32>, other: &str| {
                let is = is.map_or("not given".to_string(), |value| value.to_string());
                err.message().contains(&format!("--{name} `{is}`, this is `{other}`"))
            };
            assert!(
                err.kind() == ErrorKind::BadInput
                    && is_said("dedup", dedup, "13")
                    && is_said("keep-share", keep, "0.5"),
                "{err}"
            );
            let none = MediaOptions { dedup: None, keep: None, ..media.clone() };
            assert!(take.check_same(&engine, &WatchRequest { media: &none, ..request }).is_err());
            complete = watch_some(&mut longtake::stream::Watch::resume(&engine, &request, take).unwrap(), stop_after);
        }
        let take = Take::open(&path, true).unwrap();
        assert_eq!(take.header, want.header, "stopped every {stop_after} steps");
        assert!(content(&take.cache().unwrap()) == rows, "stopped every {stop_after} steps");
        let mut session = Session::from_take(&engine, &take).unwrap();
        assert_eq!(crate::take::answer(&engine, &mut session, &take, asked), want_answer);
    }
}

/// A camera along whose wall, at the top, something small goes: much more time fits, what was forgotten is read again although it has not
/// changed, and a take holds what the session held.
#[test]
fn a_stream_forgets_pairs_of_any_size_and_reads_the_wall_again() {
    let engine = crate::stream::engine();
    let cell = engine.need_vision().unwrap().hparams().factor();
    let (width, height, n_pairs) = (GRID.1 * cell, GRID.0 * cell, 400);
    let mut y4m = format!("YUV4MPEG2 W{width} H{height} F2:1 C444\n").into_bytes();
    for pair in 0..n_pairs {
        for _ in 0..2 {
            y4m.extend(b"FRAME\n");
            let here = |at: usize| at / width / cell * GRID.1 + at % width / cell == pair % GRID.1;
            y4m.extend((0..height * width).map(|at| if here(at) { 200 } else { 60 + (at % 11) as u8 }));
            y4m.extend(vec![128; 2 * height * width]);
        }
    }
    let watch = |less| {
        let tower = engine.need_vision().unwrap();
        let options_of = media(&engine, less);
        let mut plan = LivePlan::open(Cursor::new(y4m.clone()), "-", &options_of, tower, &|| false).unwrap();
        let mut session = Session::new(&engine, options(400, 32)).unwrap();
        let (cancel, mut kept) = (AtomicBool::new(false), Vec::new());
        let mut sink = |event| {
            if let Event::Streamed { n_left_out, .. } = event {
                kept.push(GRID.0 * GRID.1 - n_left_out);
            }
        };
        let live = LiveOptions { when_full: WhenFull::Forget, reserve: 60 };
        let (window, _) =
            session.watch(&[1, 2], &mut plan, live, &mut Events::new(&mut sink, &cancel), &mut |_, _, _| {}).unwrap();
        (session, plan, window, kept)
    };
    let (.., whole, _) = watch(WHOLE);
    let (session, plan, window, kept) = watch(CHANGED);
    assert_eq!((whole.n_pairs, window.n_pairs), (n_pairs, n_pairs));
    let n_held = |window: longtake::stream::Window| window.n_pairs - window.n_forgotten;
    assert!(window.n_forgotten > 0 && n_held(window) > 3 * n_held(whole), "{window:?} {whole:?}");
    // Where the thing is and where it was.
    assert!(kept[1..10].iter().all(|n| *n == 2), "{kept:?}");
    assert!(kept[20..].iter().any(|n| *n > 10), "{kept:?}");
    // Every place is in the window.
    let seen = plan.shape.seen(window);
    let n_visual: u32 = seen.kept.as_ref().unwrap().iter().sum();
    assert_eq!(n_visual as usize + 2, session.n_past());
    assert!(n_visual as usize >= GRID.0 * GRID.1);
    // A share of each pair, and all of one whenever the last whole one was forgotten.
    let (session, plan, window, kept) = watch((None, Some(0.1)));
    assert!(window.n_forgotten > 0 && n_held(window) > 3 * n_held(whole), "{window:?} {whole:?}");
    assert!(kept[1..60].iter().all(|n| *n == 2) && kept.iter().filter(|n| **n == 20).count() > 1, "{kept:?}");
    let n_visual: u32 = plan.shape.seen(window).kept.as_ref().unwrap().iter().sum();
    assert_eq!(n_visual as usize + 2, session.n_past());
}
