//! Where answers look: numbers beside plain arithmetic over queries and keys, and what people, programs and files get of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::cache::{CACHE_TYPES, KvCache};
use longtake::eval::looks::{LooksOptions, trial};
use longtake::gguf::{GgmlType, Gguf};
use longtake::model::Trace;
use longtake::position::Pos;
use longtake::stream::{
    Engine, Events, Finish, GenerateOptions, Generation, MediaOptions, Probe, Prompt, Session, SessionOptions,
};
use longtake::text::message::parse_messages;
use longtake::text::{RenderOptions, Sampler, SamplerOptions};
use longtake::{ChatOptions, Longtake};
use serde_json::{Value, json};

use crate::cli::{ok, text};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/random_model");
const VIDEO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.mp4");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.gguf");
const SHAPE: &str = "What shape is shown?";

fn random_model() -> Arc<Engine> {
    let open = |name: &str| Arc::new(Gguf::open(&Path::new(FOLDER).join(name)).unwrap());
    Arc::new(crate::common::engine_of(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap())
}

fn prompt(engine: &Engine, content: Value) -> Prompt {
    let messages = parse_messages(&json!([{ "role": "user", "content": content }]).to_string()).unwrap();
    let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    Prompt::build(engine, &messages, render, &MediaOptions::default()).unwrap()
}

fn session(engine: &Arc<Engine>, ty: GgmlType) -> Session {
    let options =
        SessionOptions { n_ctx: 2048, n_batch: 100, type_k: ty.into(), type_v: ty.into(), temporal_scale: None };
    let mut session = Session::new(engine, options).unwrap();
    session.find_looks(true);
    session
}

/// Keeps the queries of the last row of the prompt, as dumps do.
#[derive(Default)]
struct LastQueries(Trace);

impl Probe for LastQueries {
    fn trace(&mut self) -> Option<&mut Trace> {
        Some(&mut self.0)
    }

    fn after_step(&mut self, _: &[Pos], _: &mut KvCache) -> longtake::Result<()> {
        Ok(())
    }
}

/// The first layer's queries and stored keys, as the cache decodes them, in f64: with every type of cache.
#[test]
fn shares_are_a_softmax_over_the_keys_that_are_stored() {
    let engine = random_model();
    let (n_head, d) = (engine.text.hparams().n_head, engine.text.hparams().n_embd_head);
    let group = n_head / engine.text.hparams().n_head_kv;
    let content =
        json!([{ "type": "video", "video": format!("{FOLDER}/demo.mp4") }, { "type": "text", "text": "What?" }]);
    for ty in CACHE_TYPES.into_iter().filter(|ty| ty.row_bytes(d).is_some()) {
        let (mut prompt, mut session, mut probe) =
            (prompt(&engine, content.clone()), session(&engine, ty), LastQueries::default());
        let (mut sink, cancel) = (|_| {}, AtomicBool::new(false));
        session.feed(&mut prompt, &mut Events::new(&mut sink, &cancel).with_probe(&mut probe)).unwrap();
        let n = session.n_past();
        let mut answer = Generation::new(GenerateOptions { n_predict: 1, ignore_eos: true });
        let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() }).unwrap();
        while answer.next(&mut session, &mut sampler, &mut Events::new(&mut sink, &cancel)).unwrap().is_some() {}
        assert_eq!((answer.finish(), session.n_past()), (Some(Finish::Length), n));
        let looks = session.cache().looks().unwrap();
        let (shares, n_runs) = (looks.shares(), looks.n_runs());
        // The runs, from the prompt itself: a first token, words, the video's pairs, words, the answer.
        let at = prompt.units.iter().position(|unit| matches!(unit, longtake::stream::Unit::Media { .. })).unwrap();
        let plan = &prompt.videos[0];
        let mut ends = vec![1, at];
        (0..plan.n_pairs()).for_each(|pair| ends.push(ends.last().unwrap() + plan.n_pair_tokens(pair)));
        ends.push(n);
        assert_eq!(n_runs, ends.len() + 1, "{ty}");
        for ih in 0..n_head {
            let keys = session.cache().keys_f32(0, ih / group, n).unwrap();
            let q = &probe.0.attn_q_last[ih * d..][..d];
            let dot = |key: &[f32]| key.iter().zip(q).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>();
            let scores: Vec<f64> = keys.chunks_exact(d).map(|key| (dot(key) / (d as f64).sqrt()).exp()).collect();
            let total: f64 = scores.iter().sum();
            let mut begin = 0;
            for (run, end) in ends.iter().enumerate() {
                let want = scores[begin..*end].iter().sum::<f64>() / total;
                let got = shares[ih * n_runs + run];
                // Queries meet stored bytes with 8 bits, all other keys but F32 with 12.
                let limit = if ty == GgmlType::F32 { 1e-5 } else { 5e-3 };
                assert!((got - want).abs() <= limit, "{ty} head {ih} run {run}: {got} instead of {want}");
                begin = *end;
            }
            assert_eq!(shares[ih * n_runs + ends.len()], 0.0, "nothing of the answer was read");
        }
        // What is told is their mean, by what stands there.
        let looked = session.looked().unwrap();
        let mean = |run: usize| shares.iter().skip(run).step_by(n_runs).sum::<f64>() / (shares.len() / n_runs) as f64;
        let (pairs, n_pairs) = (&looked.media[0].pairs, plan.n_pairs());
        assert_eq!(pairs.len(), n_pairs);
        assert!(pairs.iter().enumerate().all(|(pair, look)| (look.share - mean(2 + pair)).abs() < 1e-12), "{ty}");
        assert!((looked.first - mean(0)).abs() < 1e-12 && (looked.words - mean(1) - mean(2 + n_pairs)).abs() < 1e-12);
        assert!((looked.of_media() + looked.first + looked.words + looked.answer - 1.0).abs() < 1e-9, "{looked:?}");
    }
}

#[test]
fn who_does_not_ask_gets_the_same_answer_and_no_looks() {
    crate::common::choose_kernels();
    let longtake = Longtake::open(MODEL).unwrap();
    let mut plain = longtake.chat().video(VIDEO);
    let mut answer = plain.ask(SHAPE).unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()) && answer.looked().is_none());
    let (text, tokens) = (answer.text().to_string(), answer.tokens().to_vec());
    drop(answer);
    let mut chat = longtake.chat().options(ChatOptions::default().look(true)).video(VIDEO);
    let mut answer = chat.ask(SHAPE).unwrap();
    assert!(answer.looked().is_none(), "nothing was said yet");
    assert!(answer.by_ref().all(|piece| piece.is_ok()));
    let first = answer.looked().unwrap();
    assert_eq!((answer.text(), answer.tokens()), (&*text, &*tokens));
    drop(answer);
    assert_eq!((first.n_tokens, first.media[0].pairs.len()), (tokens.len(), 8));
    let seventh = &first.media[0].pairs[7];
    assert!(first.among_media(seventh.share) > 0.5 && (seventh.from, seventh.to) == (7.0, 8.0), "{first}");
    assert!(first.to_string().starts_with("looked most at 0:07 to 0:08 ("), "{first}");
    // The next question has looks of its own, at the same video.
    let mut answer = chat.ask("What color is shown?").unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()));
    let second = answer.looked().unwrap();
    drop(answer);
    assert!(second != first && second.media.len() == 1 && second.n_tokens > 0);
    // And no longer, where nobody asks any more.
    chat.set_options(ChatOptions::default()).unwrap();
    let mut answer = chat.ask(SHAPE).unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()) && answer.looked().is_none());
}

/// A few of the videos of `longtake eval where`, which has a hundred and more.
#[test]
fn the_pair_with_the_symbol_is_looked_at_most() {
    crate::common::choose_kernels();
    let engine = Arc::new(longtake::drawn::embedded::engine().unwrap());
    let ty = GgmlType::F32.into();
    let session = SessionOptions { n_ctx: 1, n_batch: 512, type_k: ty, type_v: ty, temporal_scale: None };
    let seed = 11;
    let options = LooksOptions { frame: (56, 56), pairs: (32, 96), session, seed };
    let outcomes: Vec<_> = (0..14).map(|i| trial(&engine, &options, i).unwrap()).collect();
    let right: Vec<_> = outcomes.iter().filter(|outcome| outcome.right).collect();
    let first = right.iter().filter(|outcome| outcome.ranks[0] == 1).count();
    assert!(right.len() >= 10, "seed {seed}: {} right", right.len());
    assert!(first + 1 >= right.len(), "seed {seed}: {first} of {} right answers looked there most", right.len());
}

/// What a command says that fails.
fn fails(args: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_longtake")).args(args).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Width and height of a PNG.
fn png_size(path: &Path) -> (u32, u32) {
    let picture = image::open(path).unwrap();
    (picture.width(), picture.height())
}

#[test]
fn the_command_line_tells_it_in_words_numbers_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let strip = dir.path().join("strip.png");
    let run = ["run", "-m", MODEL, "--video", VIDEO, "-p", SHAPE];
    let with = |more: &[&'static str]| [&run[..], more].concat();
    let plain: Value = serde_json::from_str(&ok(&with(&["--json"]))).unwrap();
    assert!(plain.get("where").is_none());
    let answer: Value =
        serde_json::from_str(&ok(&[&with(&["--json", "--where"])[..], &[text(&strip)]].concat())).unwrap();
    assert_eq!((&answer["text"], &answer["tokens"]), (&plain["text"], &plain["tokens"]));
    let looked = &answer["where"];
    assert!(looked["text"].as_str().unwrap().starts_with("looked most at 0:07 to 0:08"), "{looked}");
    let sum: f64 = looked["shares"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{looked}");
    let among = looked["media"][0]["pairs"].as_array().unwrap().iter().map(|pair| pair["among"].as_f64().unwrap());
    assert!((among.sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(png_size(&strip).0, 1280);
    // The picture has the symbol's frame in it: more than the few colours of bars and numbers.
    let colors = |path: &Path| {
        let picture = image::open(path).unwrap().to_rgb8();
        picture.pixels().map(|pixel| pixel.0).collect::<std::collections::HashSet<_>>().len()
    };
    assert!(colors(&strip) > 60, "{}", colors(&strip));

    // A take: its frames are those of the file beside it, and only of that one.
    let (video, take) = (dir.path().join("film.mp4"), dir.path().join("film.take"));
    std::fs::copy(VIDEO, &video).unwrap();
    ok(&["watch", "-m", MODEL, text(&video), "-o", text(&take)]);
    let ask = ["ask", text(&take), SHAPE, "-m", MODEL, "--json", "--where", text(&strip)];
    let of_take: Value = serde_json::from_str(&ok(&ask)).unwrap();
    assert!(of_take["where"]["text"].as_str().unwrap().starts_with("looked most at 0:07 to 0:08"), "{of_take}");
    assert!(colors(&strip) > 60);
    std::fs::write(&video, "another one").unwrap();
    ok(&ask);
    assert!(colors(&strip) < 60, "drawn without frames");
    std::fs::remove_file(&video).unwrap();
    ok(&ask);
    assert!(colors(&strip) < 60, "drawn without frames");

    // What cannot be is refused before anything is computed.
    let both = ["ask", text(&take), SHAPE, "Again?", "-m", MODEL, "--where", text(&strip)];
    assert!(fails(&both).contains("is of one answer"));
    assert!(fails(&with(&["--where", "strip.jpg"])).contains("ends in .png"));
    let nowhere = dir.path().join("no/such/strip.png");
    fails(&[&with(&["--where"])[..], &[text(&nowhere)]].concat());
    fails(&["run", "-m", MODEL, "-p", "Words alone.", "--where", text(&strip)]);
}
