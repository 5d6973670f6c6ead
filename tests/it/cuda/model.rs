//! The network on GPUs: the reference numbers, and agreement with the CPU wherever the boundary between them lies.

use std::path::Path;
use std::sync::Arc;

use longtake::cache::{CacheType, KvCache};
use longtake::gguf::{GgmlType, Gguf};
use longtake::kernels::cuda::Gpu;
use longtake::model::{Batch, Choice, Scratch, TextModel, VisionTower};
use longtake::position::{Placer, Pos};
use longtake::stream::Engine;
use longtake::text::SamplerOptions;

use super::{Rng, gpu, gpus_in_any_order, is_emulated, nmse};
use crate::golden_families::{check_family, check_models};
use crate::model::check_on_gpus;
use crate::repeats::{check_pairs_are_alone, check_slides};
use crate::stream::{answer_with, engine, prompt, session};

/// Puts all of a model and of a tower on a GPU.
fn all_on(gpu: &Gpu) -> impl Fn(Option<&mut TextModel>, Option<&mut VisionTower>) {
    |text, tower| {
        if let Some(text) = text {
            text.offload(std::slice::from_ref(gpu), usize::MAX).unwrap();
            assert_eq!(text.n_host_layers(), 0);
        }
        if let Some(tower) = tower {
            tower.offload(gpu).unwrap();
        }
    }
}

#[test]
fn all_on_a_gpu_gives_the_reference_numbers() {
    check_on_gpus(&[4096], &all_on(&gpu()));
}

#[test]
fn the_families_on_a_gpu_give_the_reference_numbers() {
    for family in ["qwen2_5_vl", "qwen3_vl"] {
        check_family(family, &[4096], &all_on(&gpu()));
    }
}

/// All of a model with experts on a GPU, and its last layers there.
#[test]
fn models_with_experts_on_a_gpu_give_the_reference_numbers() {
    let root = crate::common::golden_experts();
    for family in ["qwen3_vl_moe", "qwen3_5_moe"] {
        assert_eq!(check_models(&root, family, &[4096, 7], &all_on(&gpu())), 2, "{family}");
        let some = |text: Option<&mut TextModel>, _: Option<&mut VisionTower>| {
            let Some(text) = text else { return };
            text.offload(&[gpu()], 1).unwrap();
            assert_eq!(text.n_host_layers() + 1, text.hparams().n_layer);
        };
        assert_eq!(check_models(&root, family, &[4096], &some), 1, "{family}");
    }
}

#[test]
fn switches_on_a_gpu_are_plain_arithmetic() {
    crate::spec_switches::check_on_gpus(&all_on(&gpu()), 1e-3);
}

pub fn demo(name: &str) -> Arc<Gguf> {
    Arc::new(Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name)).unwrap())
}

pub fn cache_of(model: &TextModel, n_ctx: usize, ty: impl Into<CacheType>) -> KvCache {
    let ty = ty.into();
    KvCache::new(model.hparams().cache_shape(n_ctx, (ty, ty))).unwrap()
}

/// A prompt in steps, then tokens one by one; what happens to the cache in between is up to `between`.
fn run(model: &TextModel, ty: impl Into<CacheType>, between: &dyn Fn(&mut KvCache)) -> (Vec<f32>, KvCache) {
    let hp = model.hparams();
    let (mut cache, mut scratch) = (cache_of(model, 60, ty), Scratch::new(hp, 23));
    let ids: Vec<u32> = (0..46u32).map(|i| i * 7919 % hp.n_vocab as u32).collect();
    let (mut placer, mut logits, mut at) = (Placer::new(hp.layout), Vec::new(), 0);
    for n in [23, 11, 9, 1, 1, 1] {
        let mut embd = vec![0f32; n * hp.n_embd];
        model.embed(&ids[at..at + n], &mut embd).unwrap();
        let mut pos = Vec::new();
        placer.text(n, &mut pos);
        let batch = Batch { embd: &embd, deep: &[], pos: &pos, n_logits: n.min(10) };
        logits.extend_from_slice(model.forward(&batch, &mut cache, &mut scratch, None).unwrap());
        between(&mut cache);
        at += n;
    }
    cache.pull().unwrap();
    (logits, cache)
}

fn bytes(cache: &KvCache) -> Vec<u8> {
    cache.runs(0..cache.len()).flat_map(|(_, _, bytes)| bytes.to_vec()).collect()
}

#[test]
fn layers_on_gpus_agree_with_the_cpu_wherever_the_boundary_is() {
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    let n_layer = model.hparams().n_layer;
    let plain = [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0].map(CacheType::from);
    for ty in plain.into_iter().chain(plain.map(CacheType::transformed)) {
        if model.hparams().n_embd_head % ty.block_len() != 0 {
            continue;
        }
        model.offload(&[], 0).unwrap();
        let (want, _) = run(&model, ty, &|_| ());
        for n in [1, n_layer, n_layer + 1] {
            // Also over two GPUs, where there are layers for both.
            for gpus in [vec![gpu()], vec![gpu(), gpu()]] {
                if !is_emulated() && gpus.len() > 1 {
                    continue; // one GPU, opened twice, is one GPU
                }
                model.offload(&gpus, n).unwrap();
                let (got, _) = run(&model, ty, &|_| ());
                let error = nmse(&got, &want);
                // Both round activations to 8 bits, each in its way.
                let case = format!("{ty}, {n} of {n_layer} layers on {} GPUs", gpus.len());
                assert!(error <= 2e-3, "{case}: NMSE {error:.1e}");
            }
        }
    }
}

/// Tokens one by one, the next the likeliest of the one before: what each step brought, with its largest logits first.
fn decode(model: &TextModel, n_top: usize, n_steps: usize, scratch: &mut Scratch) -> Vec<Vec<(u32, f32)>> {
    let hp = model.hparams();
    let (mut cache, mut placer) = (cache_of(model, n_steps, GgmlType::F16), Placer::new(hp.layout));
    let (mut id, mut found) = (5, Vec::new());
    for _ in 0..n_steps {
        let mut pos: Vec<Pos> = Vec::new();
        placer.text(1, &mut pos);
        let mut ranked: Vec<(u32, f32)> = match model.step(id, pos[0], n_top, &mut cache, scratch).unwrap() {
            Choice::Logits(logits) => (0..).zip(logits.iter().copied()).collect(),
            Choice::Top(top) => {
                let top = top.to_vec();
                // The others are still there.
                let row = model.logits(scratch).unwrap();
                assert!(row.len() == hp.n_vocab && top.iter().all(|(id, logit)| row[*id as usize] == *logit));
                top
            }
        };
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        id = ranked[0].0;
        found.push(ranked);
    }
    found
}

#[test]
fn the_largest_logits_come_alone_where_all_of_the_model_is_on_gpus() {
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    let hp = model.hparams().clone();
    for n in [1, hp.n_layer, hp.n_layer + 1] {
        for gpus in [vec![gpu()], vec![gpu(), gpu()]] {
            if !is_emulated() && gpus.len() > 1 {
                continue;
            }
            model.offload(&gpus, n).unwrap();
            let case = format!("{n} of {} layers on {} GPUs", hp.n_layer, gpus.len());
            let mut scratch = Scratch::new(&hp, 1);
            let want = decode(&model, 0, 4, &mut scratch);
            for (n_top, n_come) in [(1, 1), (40, 40), (65, hp.n_vocab)] {
                let got = decode(&model, n_top, 4, &mut scratch);
                let n_come = if n > hp.n_layer { n_come.min(hp.n_vocab) } else { hp.n_vocab };
                for (got, want) in got.iter().zip(&want) {
                    assert!(got.len() == n_come && got[..] == want[..n_come], "{n_top} of {case}");
                }
            }
            let error =
                model.step(hp.n_vocab as u32, Pos::default(), 1, &mut cache_of(&model, 1, GgmlType::F16), &mut scratch);
            assert!(error.unwrap_err().to_string().contains("outside the vocabulary"), "{case}");
        }
    }
}

/// Rows go to the host and back as truncation, forgetting and takes want it, and nothing is lost on the way.
#[test]
fn rows_on_gpus_survive_being_moved() {
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    model.offload(&[gpu()], usize::MAX).unwrap();
    let ty = GgmlType::F16;
    let (want, kept) = run(&model, ty, &|_| ());
    // Pulled after each step, it is the same cache.
    let (got, pulled) = run(&model, ty, &|cache| cache.pull().unwrap());
    assert!(got == want && bytes(&pulled) == bytes(&kept), "pulled on the way");
    // A step more that is taken back changes nothing.
    let (got, cut) = run(&model, ty, &|cache| {
        cache.pull().unwrap();
        let len = cache.len();
        cache.truncate(len - 1).unwrap();
        let copy = cache.to_memory().unwrap();
        assert_eq!(copy.len(), len - 1);
    });
    assert!(got.len() == want.len() && cut.len() == kept.len() - 6);
    // Forgetting moves the same bytes on a GPU as on the host.
    let mut on_gpu = kept;
    let mut on_host = on_gpu.to_memory().unwrap();
    on_gpu.forget(3..20).unwrap();
    on_host.forget(3..20).unwrap();
    assert!(bytes(&on_gpu) == bytes(&on_host), "forgotten");
    for cache in [&mut on_gpu, &mut on_host] {
        cache.forget([2, 3, 7, 11, 12].into_iter().collect::<longtake::cache::Slots>()).unwrap();
    }
    assert!(bytes(&on_gpu) == bytes(&on_host), "forgotten here and there");
    let hp = model.hparams();
    let step = |cache: &mut KvCache| {
        let (mut placer, mut pos) = (Placer::new(hp.layout), Vec::new());
        placer.text(46, &mut pos);
        pos.clear();
        placer.text(1, &mut pos);
        let mut embd = vec![0f32; hp.n_embd];
        model.embed(&[5], &mut embd).unwrap();
        let batch = Batch { embd: &embd, deep: &[], pos: &pos, n_logits: 1 };
        model.forward(&batch, cache, &mut Scratch::new(hp, 1), None).unwrap().to_vec()
    };
    assert!(step(&mut on_gpu) == step(&mut on_host), "a step behind what was forgotten");
}

#[test]
fn the_tower_on_a_gpu_agrees_with_the_cpu() {
    let (mut tower, _) = crate::common::vision_tower(&demo("mmproj-demo.gguf")).unwrap();
    for (seed, (pairs, h, w)) in [(1, 2, 2), (2, 4, 6), (1, 10, 8), (3, 2, 4)].into_iter().enumerate() {
        let mut rng = Rng(seed as u64 + 700);
        let pixels = rng.vec(pairs * h * w * tower.hparams().n_patch_values());
        let (host, _) = crate::common::vision_tower(&demo("mmproj-demo.gguf")).unwrap();
        let want = host.encode(&pixels, h, w, None).unwrap();
        for gpu in gpus_in_any_order() {
            tower.offload(&gpu).unwrap();
            let error = nmse(&tower.encode(&pixels, h, w, None).unwrap(), &want);
            assert!(error <= 1e-3, "seed {seed}: {pairs} pairs of {h} x {w}: NMSE {error:.1e}");
        }
    }
}

/// Encoding goes on beside the language model, in memory that is reserved once.
#[test]
fn frame_pairs_that_come_again_are_not_encoded_again_on_a_gpu() {
    // Nearer and further back than the group that is in the tower while the next one is looked at.
    let pairs = [(0, false), (1, false), (0, true), (1, true)];
    let mut engine = crate::stream::engine();
    Arc::get_mut(&mut engine).expect("nobody else has it").offload(&[gpu()], 1).unwrap();
    check_pairs_are_alone("qwen2_vl", &engine, 2);
    check_slides("qwen2_vl", &engine, &pairs);
}

#[test]
fn the_tower_shares_its_gpu_with_the_model() {
    let tokens: Vec<_> = gpus_in_any_order().iter().map(encode_beside).collect();
    assert!(tokens.iter().all(|of_gpu| *of_gpu == tokens[0]), "the order of streams changes nothing");
}

/// Tokens of three batches, encoded in every way.
fn encode_beside(gpu: &Gpu) -> Vec<Vec<f32>> {
    let (mut tower, _) = crate::common::vision_tower(&demo("mmproj-demo.gguf")).unwrap();
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    tower.offload(gpu).unwrap();
    model.offload(std::slice::from_ref(gpu), usize::MAX).unwrap();
    let (h, w, n_values) = (4, 6, tower.hparams().n_patch_values());
    let mut rng = Rng(900);
    let groups: Vec<Vec<f32>> = [2, 1, 2].iter().map(|n| rng.vec(n * h * w * n_values)).collect();
    let (alone, mut scratch) =
        (decode(&model, 3, 6, &mut Scratch::new(model.hparams(), 1)), Scratch::new(model.hparams(), 1));
    tower.reserve(2 * h * w).unwrap();
    let free = gpu.memory().unwrap().0;
    let want: Vec<Vec<f32>> = groups.iter().map(|pixels| tower.encode(pixels, h, w, None).unwrap()).collect();
    for (pixels, tokens) in groups.iter().zip(&want) {
        let begun = tower.begin(pixels, h, w).unwrap().expect("a tower on a GPU begins");
        assert!(tower.begin(pixels, h, w).unwrap().is_none(), "one at a time");
        assert!(decode(&model, 3, 6, &mut scratch) == alone);
        // Whoever cannot wait for the first has memory of his own for so long.
        assert!(tower.encode(&groups[1], h, w, None).unwrap() == want[1]);
        assert!(begun.finish().unwrap() == *tokens);
    }
    drop(tower.begin(&groups[0], h, w).unwrap());
    assert!(tower.encode(&groups[2], h, w, None).unwrap() == want[2]);
    drop(scratch);
    // A driver may take memory for itself as well.
    assert!(!is_emulated() || gpu.memory().unwrap().0 >= free, "nothing more was reserved");
    want
}

/// A video and a question: tokens that were picked on the GPU are those that all logits give, and the CPU's.
#[test]
fn an_answer_from_a_gpu_is_that_of_the_cpu() {
    let mut engine = engine();
    let greedy = SamplerOptions { temp: 0.0, ..SamplerOptions::default() };
    let answer = |engine: &Arc<Engine>, options: &SamplerOptions| {
        let mut prompt = prompt(engine, &["What moves?"], 4, None);
        answer_with(&mut session(engine, 200, 32), &mut prompt, options.clone())
    };
    let want = answer(&engine, &greedy);
    Arc::get_mut(&mut engine).expect("sessions are over").offload(&[gpu()], usize::MAX).unwrap();
    assert_eq!(answer(&engine, &greedy), want);
    // A penalty too small to change anything takes all logits.
    for options in [greedy, SamplerOptions { seed: 11, ..SamplerOptions::default() }] {
        let all = SamplerOptions { presence_penalty: 1e-30, ..options.clone() };
        assert_eq!(answer(&engine, &options), answer(&engine, &all));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_gpu_that_is_too_small_is_an_error_with_numbers() {
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    let error = model.offload(&[Gpu::emulated(1000)], 1).unwrap_err().to_string();
    assert!(error.contains("the weights of layer") && error.contains("of 1000 bytes are free"), "{error}");
    let hp = model.hparams().clone();
    model.offload(&[Gpu::emulated(4 << 20)], 1).unwrap();
    let mut cache = cache_of(&model, 1 << 20, GgmlType::F32);
    let error = model.prepare(&mut cache, &mut Scratch::new(&hp, 1)).unwrap_err().to_string();
    assert!(error.contains("the cache of 1 layers with 1048576 slots"), "{error}");
}
