//! Several contexts in one step: each gets what it gets alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::gguf::{GgmlType, Gguf};
use longtake::model::Choice;
use longtake::random::Rng;
use longtake::stream::{Context, Engine, Events, Held, Next, Prompt, Session, SessionOptions, Together, Unit};

use crate::common::golden;

/// Tokens that are generated.
const N: usize = 12;

fn engines() -> Vec<Arc<Engine>> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model");
    let symbols = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/symbols");
    let files = [(golden().join("gguf_models"), "tiny-c.gguf"), (demo, "demo.gguf"), (symbols, "symbols.gguf")];
    let open = |(dir, name): (std::path::PathBuf, &str)| {
        let file = |name: &str| Arc::new(Gguf::open(&dir.join(name)).unwrap());
        Arc::new(crate::common::engine_of(file(name), Some(file(&format!("mmproj-{name}")))).unwrap())
    };
    files.map(open).into()
}

fn context(engine: &Arc<Engine>, n_ctx: usize) -> Context {
    let ty = GgmlType::F32;
    let options = SessionOptions { n_ctx, n_batch: 64, type_k: ty.into(), type_v: ty.into(), temporal_scale: None };
    Context::new(engine, &options).unwrap()
}

/// Lets a prompt of its own wait in context `i`: words, and two frame pairs in every other one.
fn prompt(context: &mut Context, i: usize) {
    let mut rng = Rng(7 + i as u64);
    let hp = context.engine().text.hparams();
    let (n_vocab, n_embd) = (hp.n_vocab, hp.n_embd);
    let ids: Vec<u32> = (0..5 + 9 * i).map(|_| rng.below(n_vocab) as u32).collect();
    context.push_tokens(&ids).unwrap();
    if i % 2 == 1 {
        context.begin_visual(2, 3, None).unwrap();
        (0..2).for_each(|_| context.push_pair(&rng.vec(6 * n_embd)));
        context.end_visual();
        context.push_tokens(&ids[..3]).unwrap();
    }
    context.mark(Held::Rows);
    context.want_logits(context.n_tokens() - 1);
}

fn likeliest(context: &Context) -> u32 {
    match context.choice().unwrap() {
        Choice::Logits(logits) => {
            (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
        }
        Choice::Top(top) => top[0].0,
    }
}

/// What a context generates by itself.
fn alone(engine: &Arc<Engine>, i: usize) -> Vec<u32> {
    let mut one = context(engine, 160);
    prompt(&mut one, i);
    one.drain(true, &mut ()).unwrap();
    let mut tokens = vec![likeliest(&one)];
    while tokens.len() < N {
        one.step(tokens[tokens.len() - 1], 0).unwrap();
        tokens.push(likeliest(&one));
    }
    tokens
}

#[test]
fn four_contexts_decode_together_what_they_decode_alone() {
    engines().iter().for_each(|engine| check_tokens(engine, &[160, 24, 4]));
}

/// Tokens of four contexts in steps of up to so many.
fn check_tokens(engine: &Arc<Engine>, sizes: &[usize]) {
    let want: Vec<Vec<u32>> = (0..4).map(|i| alone(engine, i)).collect();
    // Steps that hold everything, and steps in which a long prompt waits while others generate already.
    for n_batch in sizes.iter().copied() {
        let mut together = Together::new(engine, n_batch).unwrap();
        let mut contexts: Vec<Context> = (0..4).map(|_| context(engine, 160)).collect();
        contexts.iter_mut().enumerate().for_each(|(i, context)| prompt(context, i));
        let mut got = vec![Vec::new(); 4];
        let mut n_mixed = 0;
        while got.iter().any(|tokens| tokens.len() < N) {
            let n_waiting = contexts.iter().filter(|context| context.n_waiting() > 1).count();
            n_mixed += usize::from(n_waiting > 0 && contexts.iter().any(|context| context.n_waiting() == 1));
            let n = together.step(&mut contexts.iter_mut().collect::<Vec<_>>()).unwrap();
            assert!((1..=n_batch).contains(&n));
            for (context, tokens) in contexts.iter_mut().zip(&mut got) {
                if context.n_waiting() == 0 && tokens.len() < N {
                    tokens.push(likeliest(context));
                    if tokens.len() < N {
                        context.push_next(tokens[tokens.len() - 1]).unwrap();
                    }
                }
            }
        }
        assert_eq!(got, want, "steps of {n_batch} with {}", engine.name);
        assert!(n_batch > 100 || n_mixed > 0, "some read prompts while others generate");
    }
}

#[test]
fn a_context_that_is_full_stops_nobody_for_good() {
    let engine = engines().swap_remove(1);
    let mut together = Together::new(&engine, 64).unwrap();
    let (mut full, mut other) = (context(&engine, 5), context(&engine, 160));
    prompt(&mut full, 0);
    prompt(&mut other, 1);
    together.step(&mut [&mut full, &mut other]).unwrap();
    full.push_next(1).unwrap();
    other.push_next(likeliest(&other)).unwrap();
    let n = other.cache().len();
    let error = together.step(&mut [&mut full, &mut other]).unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
    assert_eq!((full.cache().len(), other.cache().len(), other.n_waiting()), (5, n, 1));
    full.truncate(0);
    together.step(&mut [&mut full, &mut other]).unwrap();
    assert_eq!(likeliest(&other), alone(&engine, 1)[1]);
    assert_eq!(together.step(&mut [&mut full, &mut other]).unwrap(), 0);
    // Contexts of another model have no place there.
    let stranger = &mut context(&engines()[0], 8);
    assert!(together.step(&mut [stranger]).is_err());
}

/// A conversation that has read a few words.
fn session(engine: &Arc<Engine>, n_ctx: usize, seed: u64) -> Session {
    let ty: longtake::cache::CacheType =
        if engine.text.hparams().n_embd_head.is_multiple_of(32) { GgmlType::Q8_0.into() } else { GgmlType::F16.into() };
    let options = SessionOptions { n_ctx, n_batch: 64, type_k: ty, type_v: ty, temporal_scale: None };
    let mut session = Session::new(engine, options).unwrap();
    let mut rng = Rng(seed);
    let units = (0..4 + seed as usize).map(|_| Unit::Token(rng.below(engine.text.hparams().n_vocab) as u32)).collect();
    let mut prompt = Prompt { units, images: Vec::new(), videos: Vec::new() };
    session.feed(&mut prompt, &mut Events::new(&mut |_| {}, &AtomicBool::new(false))).unwrap();
    session
}

fn tokens(together: &mut Together, sessions: &mut [Session]) -> longtake::Result<()> {
    let ids: Vec<u32> = sessions.iter().map(|session| likeliest(session.context())).collect();
    read(together, sessions, &ids)
}

fn read(together: &mut Together, sessions: &mut [Session], ids: &[u32]) -> longtake::Result<()> {
    let next = sessions.iter_mut().zip(ids).map(|(session, id)| Next { session, id: *id, n_top: 0 });
    together.tokens(&mut next.collect::<Vec<_>>())
}

#[test]
fn conversations_hear_nothing_of_each_other_to_the_last_bit() {
    // Weights that are not quantized are multiplied in another order for several tokens.
    engines().iter().skip(1).for_each(|engine| check_bits(engine, &[1, 2, 3, 5, 8, 11]));
}

/// Every bit of so many conversations that are answered together.
fn check_bits(engine: &Arc<Engine>, numbers: &[usize]) {
    for n in numbers.iter().copied() {
        let mut together = Together::new(engine, Together::MOST_TOKENS).unwrap();
        let mut both: [Vec<Session>; 2] =
            std::array::from_fn(|_| (0..n).map(|i| session(engine, 64, i as u64)).collect());
        for step in 0..6 {
            let [shared, alone] = &mut both;
            tokens(&mut together, shared).unwrap();
            for (i, (a, b)) in shared.iter().zip(alone).enumerate() {
                b.step(likeliest(b.context()), 0).unwrap();
                assert!(a.context().logits() == b.context().logits(), "{i} of {n}, step {step}, {}", engine.name);
                assert_eq!(a.n_past(), b.n_past());
            }
        }
    }
}

#[test]
fn a_conversation_that_spoils_a_step_is_told_apart() {
    check_spoilt(&engines().swap_remove(1));
}

fn check_spoilt(engine: &Arc<Engine>) {
    let mut together = Together::new(engine, Together::MOST_TOKENS).unwrap();
    let mut sessions: Vec<Session> =
        [(64, 1), (6, 2), (64, 3)].map(|(n_ctx, seed)| session(engine, n_ctx, seed)).into();
    let want = {
        let mut alone = session(engine, 64, 1);
        (0..2).for_each(|_| alone.step(likeliest(alone.context()), 0).unwrap());
        alone.context().logits().to_vec()
    };
    let n_past: Vec<usize> = sessions.iter().map(Session::n_past).collect();
    let ids: Vec<u32> = sessions.iter().map(|session| likeliest(session.context())).collect();
    assert!(read(&mut together, &mut sessions, &ids).is_err(), "the second has no room");
    // Nothing was read, and what was handed in is forgotten: each goes on alone, but for the one that is full.
    for (session, n_past) in sessions.iter_mut().zip(&n_past) {
        assert!(session.n_past() == *n_past && session.take_back(*n_past));
        assert_eq!(session.context().n_waiting(), 0);
    }
    for (i, is_fine) in [(0, true), (1, false), (2, true)] {
        assert_eq!(read(&mut together, &mut sessions[i..=i], &ids[i..=i]).is_ok(), is_fine, "{i}");
    }
    sessions.remove(1);
    tokens(&mut together, &mut sessions).unwrap();
    assert!(sessions[0].context().logits() == want);
}

/// A model with quantized weights, one with floats, one with recurrent layers, and one with experts, too.
#[cfg(feature = "cuda")]
pub fn engines_for_gpus(dir: &Path) -> Vec<Engine> {
    use longtake::convert::{ConvertOptions, FileType, convert};
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model");
    let mut files = vec![demo.join("demo.gguf"), golden().join("gguf_models/tiny-c.gguf")];
    for (root, name) in [(crate::common::golden_families(), "q35-a"), (crate::common::golden_experts(), "q35moe-a")] {
        let mut options = ConvertOptions::new(root.join("checkpoints").join(name), dir.join(format!("{name}.gguf")));
        options.outtype = Some(FileType::from_name("f32").unwrap());
        files.push(convert(&options, &mut ()).unwrap().text.path);
    }
    let open = |path: std::path::PathBuf| crate::common::engine_of(Arc::new(Gguf::open(&path).unwrap()), None).unwrap();
    files.into_iter().map(open).collect()
}

/// All of it on GPUs, which `place` gives an engine with so many of its layers.
#[cfg(feature = "cuda")]
pub fn check_on_gpus(place: &dyn Fn(&mut Engine, usize)) {
    let dir = tempfile::tempdir().unwrap();
    // Emulation is slow: a boundary within the first model, the others whole; the last has the layers of the one before it, and experts.
    for (i, mut engine) in engines_for_gpus(dir.path()).into_iter().enumerate().filter(|(i, _)| *i != 2) {
        let n_layer = engine.text.hparams().n_layer;
        for n in [n_layer / 2, n_layer + 1].into_iter().skip(usize::from(i > 0)) {
            place(&mut engine, n);
            let of_all = Arc::new(engine);
            check_tokens(&of_all, &[24]);
            // The host multiplies weights in floats in another order for several tokens, a GPU does not.
            if of_all.name.contains("demo") || n > n_layer {
                check_bits(&of_all, &[8]);
            }
            engine = Arc::into_inner(of_all).expect("contexts are gone");
        }
    }
}
