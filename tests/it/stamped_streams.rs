//! Streams whose time is told in words: what is read of them, forgotten, and kept in takes.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::stream::{
    Around, Engine, EngineOptions, Events, IfExists, LiveEnd, LivePlan, LiveTake, MediaOptions, MediaPlan,
    MmprojChoice, Session, Take, WhenFull, Window, question,
};

use crate::cli::{ok, text};
use crate::common::golden_families;
use crate::endless::{answer, options, prompt, watch, y4m};

/// Qwen3-VL, whose layers forget what they are told to, and Qwen3.5, whose recurrent layers forget nothing.
const CHECKPOINTS: [&str; 2] = ["q3-a", "q35-a"];

/// A converted checkpoint, in F32.
pub fn engine(dir: &Path, name: &str) -> Arc<Engine> {
    let (input, out) = (golden_families().join("checkpoints").join(name), dir.join(format!("{name}.gguf")));
    ok(&["convert", text(&input), "-o", text(&out), "--outtype", "f32"]);
    Arc::new(crate::common::engine(&EngineOptions { model: out, mmproj: MmprojChoice::Auto, mmap: true }).unwrap())
}

fn media(keep_markers: bool) -> MediaOptions {
    let mut options = MediaOptions { keep_markers, ..MediaOptions::default() };
    options.sample.fps = Some(2.0);
    options
}

fn live(engine: &Arc<Engine>, n_frames: usize, keep: bool) -> LivePlan {
    let bytes = Cursor::new(y4m(2, 0..n_frames));
    LivePlan::open(bytes, "a stream", &media(keep), engine.need_vision().unwrap(), &|| false).unwrap()
}

#[test]
fn a_stamped_stream_that_fits_is_the_video() {
    let dir = tempfile::tempdir().unwrap();
    for (engine, keep) in CHECKPOINTS.iter().flat_map(|name| [false, true].map(|keep| (engine(dir.path(), name), keep)))
    {
        for n_frames in [1, 8, 7] {
            let path = dir.path().join("frames.y4m");
            std::fs::write(&path, y4m(2, 0..n_frames)).unwrap();
            let plan = MediaPlan::video(&path, &media(keep), engine.need_vision().unwrap()).unwrap();
            let mut fresh = Session::new(&engine, options(400, 16)).unwrap();
            let want = answer(&mut fresh, &mut prompt(&engine, plan));
            let (mut plan, mut session) =
                (live(&engine, n_frames, keep), Session::new(&engine, options(400, 16)).unwrap());
            let (window, end) = watch(&mut session, &mut plan, (WhenFull::Forget, 60), &mut |_, _, _| {}).unwrap();
            assert!(matches!(end, LiveEnd::Over), "{end:?}");
            assert_eq!(window, Window { n_pairs: n_frames.div_ceil(2), n_forgotten: 0, n_gone: 0 });
            let got = answer(&mut session, &mut prompt(&engine, plan.shape.seen(window)));
            assert_eq!((got, session.n_past()), (want, fresh.n_past()), "{n_frames} frames, {keep}");
        }
    }
}

/// Pairs go with their words: what stays begins with a stamp, questions fit behind it, and the take holds the same.
#[test]
fn forgotten_pairs_take_their_stamps_along() {
    let dir = tempfile::tempdir().unwrap();
    for (engine, keep) in CHECKPOINTS.iter().flat_map(|name| [false, true].map(|keep| (engine(dir.path(), name), keep)))
    {
        let mut plan = live(&engine, 60, keep);
        let mut session = Session::new(&engine, options(200, 16)).unwrap();
        let (window, end) = watch(&mut session, &mut plan, (WhenFull::Forget, 60), &mut |_, _, _| {}).unwrap();
        assert!(matches!(end, LiveEnd::Over), "{end:?}");
        assert!(window.n_pairs == 30 && window.n_forgotten > 0, "{window:?}");
        let seen = plan.shape.seen(window);
        let words = seen.text.clone().unwrap();
        assert_eq!(words.lead.len(), window.n_pairs - window.n_forgotten);
        let first = engine.tokenizer.decode(&words.lead[0], false);
        let second = window.n_forgotten as f64 + 0.25;
        assert_eq!(first, format!("<{second:.1} seconds><|vision_start|>"), "{window:?}");
        let path = dir.path().join(format!("{keep}.take"));
        let before = Around::of(&engine, None).unwrap().before;
        let mut take = LiveTake::new((&path, IfExists::Replace), (None, before), options(200, 16), None).unwrap();
        let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
        session.pull().unwrap();
        take.save(&engine, &seen, session.cache(), &mut Events::new(&mut sink, &cancel)).unwrap();
        let want = answer(&mut session, &mut prompt(&engine, seen));
        let take = Take::open(&path, true).unwrap();
        let mut again = Session::from_take(&engine, &take).unwrap();
        let mut asked = question(&engine, &take.header, crate::endless::QUESTION, false).unwrap();
        let got = answer(&mut again, &mut asked);
        assert_eq!((got, again.n_past()), (want, session.n_past()), "{keep}");
    }
}
