//! Several contexts in one step: each gets what it gets alone.

use std::path::Path;
use std::sync::Arc;

use longtake::gguf::{GgmlType, Gguf};
use longtake::model::Choice;
use longtake::stream::{Context, Engine, Held, SessionOptions, Together};

use crate::common::golden;
use crate::random::Rng;

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
    let options = SessionOptions { n_ctx, n_batch: 64, type_k: ty, type_v: ty, temporal_scale: None };
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
    for engine in engines() {
        let want: Vec<Vec<u32>> = (0..4).map(|i| alone(&engine, i)).collect();
        // Steps that hold everything, and steps in which a long prompt waits while others generate already.
        for n_batch in [160, 24, 4] {
            let mut together = Together::new(&engine, n_batch).unwrap();
            let mut contexts: Vec<Context> = (0..4).map(|_| context(&engine, 160)).collect();
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
