//! Gated DeltaNet on a GPU, beside the scalar table.

use longtake::gguf::GgmlType;
use longtake::kernels::cuda::{CachedSeq, DeltaMem, DeltaRowsMem, Gpu, KvMem, Mem, SeqTable};
use longtake::kernels::{CONV_KERNEL, DeltaRows, DeltaShape, DeltaState, DeltaWeights, delta};

use super::{Rng, down, gpu, scalar, up};

fn close(got: &[f32], want: &[f32], case: &str) {
    let top = want.iter().fold(0f32, |top, x| top.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * top, "{case}: {g} instead of {w} at {i}");
    }
}

/// A table of sequences of so many rows with these states.
fn table(gpu: &Gpu, seqs: &[(usize, &Mem)]) -> SeqTable {
    let mut at = 0;
    let cached = seqs.iter().map(|(n, states)| {
        at += n;
        let kv = KvMem { ty: GgmlType::F32.into(), mem: (*states).clone(), stride: 4 };
        CachedSeq { rows: at - n..at, n_past: 0, k: kv.clone(), v: kv, states: (*states).clone() }
    });
    gpu.table(cached.collect(), (1, 1, 2), 0).unwrap()
}

#[test]
fn the_recurrence_agrees_with_scalar() {
    let (gpu, kernels) = (gpu(), scalar());
    let shapes = [(1, 1, 128, 128), (2, 4, 16, 32), (1, 3, 144, 48)];
    for (seed, (n_head_k, n_head_v, d_k, d_v)) in shapes.into_iter().enumerate() {
        let shape = DeltaShape { n_head_k, n_head_v, d_k, d_v };
        let (n_channels, n_value) = (shape.conv_dim(), shape.value_dim());
        let mut rng = Rng(seed as u64);
        let (conv, norm) = (rng.vec(CONV_KERNEL * n_channels), rng.vec(d_v));
        let (a, dt_bias) = (rng.vec(n_head_v).iter().map(|a| -a.abs()).collect::<Vec<_>>(), rng.vec(n_head_v));
        let mut state = rng.vec(shape.n_state());
        let dev_state = up(&gpu, &state);
        let [dev_conv, dev_a, dev_dt, dev_norm] = [&conv, &a, &dt_bias, &norm].map(|x| up(&gpu, x));
        let weights = DeltaWeights { conv: &conv, a: &a, dt_bias: &dt_bias, norm: &norm, norm_eps: 1e-6 };
        let of = DeltaMem { conv: &dev_conv, a: &dev_a, dt_bias: &dev_dt, norm: &dev_norm, norm_eps: 1e-6 };
        let broken = up(&gpu, &[0f32]);
        // A batch, a token, another batch: each goes on from the state before.
        for n in [9, 1, 21] {
            let case = format!("{shape:?}, {n} tokens");
            let (mut qkv, z) = (rng.vec(n * n_channels), rng.vec(n * n_value));
            let (beta, alpha) = (rng.vec(n * n_head_v), rng.vec(n * n_head_v));
            let [dev_qkv, dev_z, dev_beta, dev_alpha] = [&qkv, &z, &beta, &alpha].map(|x| up(&gpu, x));
            let out = up(&gpu, &vec![0f32; n * n_value]);
            let rows = DeltaRowsMem { qkv: &dev_qkv, z: &dev_z, beta: &dev_beta, alpha: &dev_alpha };
            gpu.delta(&shape, &of, (&table(&gpu, &[(n, &dev_state)]), 0), &rows, (&out, &broken)).unwrap();
            let mut want = vec![0f32; n * n_value];
            let rows = DeltaRows { qkv: &mut qkv, z: &z, beta: &beta, alpha: &alpha };
            delta(kernels, &shape, weights, DeltaState::of(&shape, &mut state), rows, &mut want).unwrap();
            close(&down(&out), &want, &case);
            close(&down(&dev_state), &state, &case);
        }
        assert_eq!(down(&broken)[0].to_bits(), 0);
        let (qkv, z) = (up(&gpu, &vec![f32::NAN; n_channels]), up(&gpu, &vec![1f32; n_value]));
        let (beta, alpha) = (up(&gpu, &vec![0f32; n_head_v]), up(&gpu, &vec![0f32; n_head_v]));
        let rows = DeltaRowsMem { qkv: &qkv, z: &z, beta: &beta, alpha: &alpha };
        let table = table(&gpu, &[(1, &dev_state)]);
        gpu.delta(&shape, &of, (&table, 0), &rows, (&up(&gpu, &vec![0f32; n_value]), &broken)).unwrap();
        assert_eq!(down(&broken)[0].to_bits(), 1, "a NaN is noticed");
    }
}

/// Sequences of a batch go on from their own states, in any layer, and get what they get alone, with as many launches as one.
#[test]
fn sequences_of_a_batch_have_their_own_states() {
    let gpu = gpu();
    let shape = DeltaShape { n_head_k: 1, n_head_v: 2, d_k: 32, d_v: 16 };
    let (n_channels, n_value, n_head_v) = (shape.conv_dim(), shape.value_dim(), shape.n_head_v);
    let mut rng = Rng(55);
    let mut vec = |n: usize| up(&gpu, &rng.vec(n));
    let (conv, norm, dt_bias) = (vec(CONV_KERNEL * n_channels), vec(shape.d_v), vec(n_head_v));
    let a = up(&gpu, &vec![-0.3; n_head_v]);
    let of = DeltaMem { conv: &conv, a: &a, dt_bias: &dt_bias, norm: &norm, norm_eps: 1e-6 };
    let (n_layer, layer, broken) = (3, 1, up(&gpu, &[0f32]));
    let mut rng = Rng(56);
    for lengths in [&[1, 1, 1, 1][..], &[9, 1, 17], &[3]] {
        let n: usize = lengths.iter().sum();
        let rows = [n_channels, n_value, n_head_v, n_head_v].map(|width| (width, rng.vec(n * width)));
        let states: Vec<Vec<f32>> = lengths.iter().map(|_| rng.vec(n_layer * shape.n_state())).collect();
        let run = |which: std::ops::Range<usize>| {
            let (first, n): (usize, usize) = (lengths[..which.start].iter().sum(), lengths[which.clone()].iter().sum());
            let mems: Vec<Mem> = states[which.clone()].iter().map(|state| up(&gpu, state)).collect();
            let seqs: Vec<(usize, &Mem)> = lengths[which].iter().copied().zip(&mems).collect();
            let [qkv, z, beta, alpha] =
                rows.each_ref().map(|(width, x)| up(&gpu, &x[first * width..(first + n) * width]));
            let rows = DeltaRowsMem { qkv: &qkv, z: &z, beta: &beta, alpha: &alpha };
            let (out, table) = (up(&gpu, &vec![0f32; n * n_value]), table(&gpu, &seqs));
            let before = gpu.n_launched();
            gpu.delta(&shape, &of, (&table, layer), &rows, (&out, &broken)).unwrap();
            assert_eq!(gpu.n_launched() - before, 4);
            (down(&out), mems.iter().map(down).collect::<Vec<_>>())
        };
        let (together, left) = run(0..lengths.len());
        let alone: Vec<_> = (0..lengths.len()).map(|i| run(i..i + 1)).collect();
        assert!(together == alone.iter().flat_map(|(out, _)| out.clone()).collect::<Vec<f32>>(), "{lengths:?}");
        assert!(left.iter().zip(&alone).all(|(left, (_, alone))| *left == alone[0]), "{lengths:?}: states");
        // Other layers are as they were.
        let n_state = shape.n_state();
        for (left, before) in left.iter().zip(&states) {
            assert!(left[..n_state] == before[..n_state] && left[2 * n_state..] == before[2 * n_state..]);
            assert!(left[n_state..2 * n_state] != before[n_state..2 * n_state]);
        }
    }
}
