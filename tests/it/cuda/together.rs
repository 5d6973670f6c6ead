//! Several contexts in one step on GPUs: what the host's tests say of them, and how much is launched.

use std::sync::Arc;

use longtake::gguf::GgmlType;
use longtake::kernels::cuda::Gpu;
use longtake::stream::{Context, Engine, SessionOptions, Together};

use super::gpu;
use crate::together;

fn context(engine: &Arc<Engine>) -> Context {
    let ty = GgmlType::F16;
    let options = SessionOptions { n_ctx: 64, n_batch: 16, type_k: ty.into(), type_v: ty.into(), temporal_scale: None };
    Context::new(engine, &options).unwrap()
}

#[test]
fn contexts_on_a_gpu_read_together_what_they_read_alone() {
    together::check_on_gpus(&|engine, n| engine.offload(&[gpu()], n).unwrap());
}

/// What contexts say whose tokens are read in steps of those that `pattern` names, and how often launches were recorded.
fn say(engine: &Arc<Engine>, gpu: &Gpu, pattern: &[&[usize]]) -> (Vec<Vec<f32>>, usize) {
    let mut together = Together::new(engine, 8).unwrap();
    let mut contexts: Vec<Context> = (0..8).map(|_| context(engine)).collect();
    for (i, context) in contexts.iter_mut().enumerate() {
        let n_vocab = engine.text.hparams().n_vocab as u32;
        context.push_tokens(&(0..3 + 2 * i as u32).map(|j| (j * 31 + i as u32) % n_vocab).collect::<Vec<_>>()).unwrap();
        context.drain(true, &mut ()).unwrap();
    }
    let before = gpu.n_captured();
    for which in pattern {
        for (i, context) in contexts.iter_mut().enumerate().filter(|(i, _)| which.contains(i)) {
            context.push_next(7 + i as u32).unwrap();
        }
        let n = together.step(&mut contexts.iter_mut().collect::<Vec<_>>()).unwrap();
        assert_eq!(n, which.len());
    }
    let captured = gpu.n_captured() - before;
    (contexts.iter().map(|context| context.logits().to_vec()).collect(), captured)
}

/// A recorded step knows no contexts: it serves whichever wait, and is recorded once for each number of them.
#[test]
fn recorded_steps_serve_whoever_waits() {
    let (dir, pattern) = (
        tempfile::tempdir().unwrap(),
        [&[0, 1][..], &[0, 1], &[2, 3], &[1, 2], &[7, 0], &[4, 5, 6], &[4, 5, 6], &[1, 3, 7]],
    );
    for mut engine in together::engines_for_gpus(dir.path()) {
        let gpu = gpu();
        engine.offload(std::slice::from_ref(&gpu), usize::MAX).unwrap();
        let engine = Arc::new(engine);
        gpu.set_graphs(false);
        let (want, none) = say(&engine, &gpu, &pattern);
        gpu.set_graphs(true);
        let (got, captured) = say(&engine, &gpu, &pattern);
        assert!(got == want && none == 0, "{}", engine.name);
        assert_eq!(captured, 2, "{}", engine.name);
    }
}

/// Eight contexts are as many launches as one: no weight is read a second time.
#[test]
fn a_step_of_several_contexts_launches_what_one_does() {
    let dir = tempfile::tempdir().unwrap();
    for mut engine in together::engines_for_gpus(dir.path()) {
        let (gpu, n_layer) = (gpu(), engine.text.hparams().n_layer);
        gpu.set_graphs(false);
        engine.offload(std::slice::from_ref(&gpu), usize::MAX).unwrap();
        let engine = Arc::new(engine);
        let mut together = Together::new(&engine, 8).unwrap();
        let launched: Vec<u64> = [1, 4, 8]
            .map(|n| {
                let mut contexts: Vec<Context> = (0..n).map(|_| context(&engine)).collect();
                for (i, context) in contexts.iter_mut().enumerate() {
                    context.push_tokens(&[1; 9][..=i]).unwrap();
                    context.drain(true, &mut ()).unwrap();
                    context.push_next(5).unwrap();
                }
                let before = gpu.n_launched();
                together.step(&mut contexts.iter_mut().collect::<Vec<_>>()).unwrap();
                gpu.n_launched() - before
            })
            .into();
        println!("{}: {launched:?} launches for 1, 4 and 8 contexts of {n_layer} layers", engine.name);
        assert!(launched[0] > n_layer as u64 && launched.iter().all(|n| *n == launched[0]), "{launched:?}");
    }
}
