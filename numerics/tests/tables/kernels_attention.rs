//! Attention and the cache write of every table that this machine can run, against textbook f64 arithmetic over the decoded
//! cache and against the definitions in `tensor` and `position`.

use longtake_numerics::GgmlType;
use longtake_numerics::kernels::{
    AttentionPart, AttentionShape, CacheRows, Kernels, KvView, attention, attention_of, attention_shares, kv_write,
    rotate_rows, supported,
};
use longtake_numerics::position::{Layout, Pos, Rotary, RotaryTable, rotate_f32};
use longtake_numerics::tensor::{CacheType, quantize_row};

use crate::random::Rng;
use crate::seeds;

use longtake_numerics::tensor::CACHE_TYPES as TYPES;

/// Keys or values of one layer: packed, and as what they decode to, (n_head_kv, n_ctx, d).
struct Stored {
    ty: CacheType,
    stride: usize,
    bytes: Vec<u8>,
    decoded: Vec<f32>,
}

/// Packs rows (n, n_head_kv * d) into a cache with a few slots to spare, which hold garbage that nobody may read.
fn store(ty: impl Into<CacheType>, rows: &[f32], n_head_kv: usize, d: usize) -> Stored {
    let ty = ty.into();
    let (n, row) = (rows.len() / (n_head_kv * d), ty.row_bytes(d).unwrap());
    let n_ctx = n + 3;
    let mut bytes = vec![0xffu8; n_head_kv * n_ctx * row];
    let mut decoded = vec![f32::NAN; n_head_kv * n_ctx * d];
    for ih in 0..n_head_kv {
        for j in 0..n {
            let src = &rows[(j * n_head_kv + ih) * d..][..d];
            let at = ih * n_ctx + j;
            ty.encode(&mut src.to_vec(), &mut bytes[at * row..][..row]).unwrap();
            ty.decode(&bytes[at * row..][..row], d, &mut decoded[at * d..][..d]).unwrap();
        }
    }
    Stored { ty, stride: n_ctx * row, bytes, decoded }
}

/// The same of one head as the cache is written, which is quick and gives the same bytes; nothing is decoded.
fn written(kernels: &Kernels, ty: CacheType, rows: &[f32], d: usize) -> Stored {
    let stride = (rows.len() / d + 3) * ty.row_bytes(d).unwrap();
    let mut bytes = vec![0xffu8; stride];
    let to = CacheRows { ty, data: &mut bytes, stride, slot: 0 };
    kv_write(kernels, rows, None, None, (1, d), to).unwrap();
    Stored { ty, stride, bytes, decoded: Vec::new() }
}

/// The textbook in f64, (n, n_head * d).
fn textbook(shape: AttentionShape, k: &Stored, v: &Stored, q: &[f32]) -> Vec<f64> {
    let AttentionShape { n_head, n_head_kv, d, n_past, causal, .. } = shape;
    let n = q.len() / (n_head * d);
    let n_ctx = k.decoded.len() / (n_head_kv * d);
    let mut out = vec![0f64; q.len()];
    for it in 0..n {
        for ih in 0..n_head {
            let base = ih / (n_head / n_head_kv) * n_ctx;
            let row = |m: &Stored, j: usize| {
                m.decoded[(base + j) * d..][..d].iter().map(|x| f64::from(*x)).collect::<Vec<_>>()
            };
            let query = &q[(it * n_head + ih) * d..][..d];
            let seen = if causal { n_past + it + 1 } else { n_past + n };
            let score =
                |j: usize| row(k, j).iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum::<f64>() / (d as f64).sqrt();
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let top = scores.iter().cloned().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (j, s) in scores.iter().enumerate() {
                for (o, v) in out[(it * n_head + ih) * d..][..d].iter_mut().zip(row(v, j)) {
                    *o += (s - top).exp() / total * v;
                }
            }
        }
    }
    out
}

fn run(kernels: &Kernels, shape: AttentionShape, k: &Stored, v: &Stored, q: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len()];
    attention(kernels, shape, view(k, v), q, &mut out);
    out
}

fn view<'a>(k: &'a Stored, v: &'a Stored) -> KvView<'a> {
    KvView { type_k: k.ty, type_v: v.ty, k: &k.bytes, v: &v.bytes, stride_k: k.stride, stride_v: v.stride }
}

/// Squared error relative to the squared result; NaN counts as infinite.
fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let power: f64 = want.iter().map(|w| w * w).sum();
    let ratio = if error == 0.0 { 0.0 } else { error / power };
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// What a table may add to the error of the cache itself, as NMSE against exact attention over the decoded cache.
/// Fixed point of 12 bits does the 16-bit types and all values; quantized keys may meet queries of 8 bits.
fn bound(kernels: &Kernels, type_k: CacheType, type_v: CacheType) -> f64 {
    match (type_k.ty, type_v.ty) {
        _ if kernels.name == "scalar" => 1e-11,
        (GgmlType::F32, GgmlType::F32) => 1e-11,
        (GgmlType::Q8_0 | GgmlType::Q4_0, _) => 2e-4,
        _ => 2e-6,
    }
}

fn check(shape: AttentionShape, k: &Stored, v: &Stored, q: &[f32], case: &str) {
    let want = textbook(shape, k, v, q);
    for kernels in supported() {
        let got = run(kernels, shape, k, v, q);
        let (error, limit) = (nmse(&got, &want), bound(kernels, k.ty, v.ty));
        let name = kernels.name;
        assert!(
            error <= limit,
            "{name} K {} V {} {case} {shape:?}: NMSE {error:.2e}, expected {limit:.0e}",
            k.ty,
            v.ty
        );
        let rounded = nmse(&run(kernels, AttentionShape { exact: false, ..shape }, k, v, q), &want);
        let limit = limit.max(2e-6);
        assert!(
            rounded <= limit,
            "{name} K {} V {} {case} {shape:?} not exact: NMSE {rounded:.2e}, expected {limit:.0e}",
            k.ty,
            v.ty
        );
        if (k.ty.ty, v.ty.ty) == (GgmlType::F32, GgmlType::F32) || name == "scalar" {
            for (g, w) in got.iter().zip(&want) {
                assert!(
                    (f64::from(*g) - w).abs() <= 4e-6 * (1.0 + w.abs()),
                    "{name} {case} {shape:?}: {g} instead of {w}"
                );
            }
        }
    }
}

#[test]
fn attention_agrees_with_the_textbook_at_odd_sizes() {
    let sizes = [32, 48, 64, 80, 96, 128, 36, 1, 3, 5];
    for seed in seeds(60) {
        let mut rng = Rng(seed);
        let d = sizes[seed as usize % sizes.len()];
        let fits: Vec<_> = CacheType::all().filter(|ty| ty.row_bytes(d).is_some()).collect();
        let (type_k, type_v) = (fits[rng.below(fits.len())], fits[rng.below(fits.len())]);
        let (group, n_head_kv) = ([1, 2, 6, 7][rng.below(4)], 1 + rng.below(2));
        let (n_past, n) = (rng.below(301), 1 + rng.below(if seed % 3 == 0 { 130 } else { 9 }));
        let shape =
            AttentionShape { n_head: group * n_head_kv, n_head_kv, d, n_past, causal: seed % 4 != 0, exact: true };
        let mut rows = || rng.vec((n_past + n) * n_head_kv * d);
        let (k, v) = (store(type_k, &rows(), n_head_kv, d), store(type_v, &rows(), n_head_kv, d));
        let q = rng.vec(n * shape.n_head * d);
        check(shape, &k, &v, &q, &format!("seed {seed} n {n}"));
    }
}

/// What softmax gives to each slot, (n_head, n_past + 1), of one token, in f64.
fn textbook_weights(shape: AttentionShape, k: &Stored, q: &[f32]) -> Vec<Vec<f64>> {
    let AttentionShape { n_head, n_head_kv, d, n_past, .. } = shape;
    let n_ctx = k.decoded.len() / (n_head_kv * d);
    let head = |ih: usize| {
        let key = |j: usize| &k.decoded[(ih / (n_head / n_head_kv) * n_ctx + j) * d..][..d];
        let dot = |j: usize| key(j).iter().zip(&q[ih * d..]).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>();
        let scores: Vec<f64> = (0..=n_past).map(|j| dot(j) / (d as f64).sqrt()).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        scores.iter().map(|s| (s - top).exp() / total).collect()
    };
    (0..n_head).map(head).collect()
}

#[test]
fn shares_of_runs_are_those_of_the_textbook() {
    let sizes = [32, 48, 64, 128, 36, 5, 256];
    for seed in seeds(120) {
        let mut rng = Rng(seed);
        let d = sizes[seed as usize % sizes.len()];
        let fits: Vec<_> = CacheType::all().filter(|ty| ty.row_bytes(d).is_some()).collect();
        let (type_k, type_v) = (fits[rng.below(fits.len())], fits[rng.below(fits.len())]);
        let (group, n_head_kv, n_kv) = ([1, 2, 6, 7][rng.below(4)], 1 + rng.below(3), 1 + rng.below(600));
        let shape =
            AttentionShape { n_head: group * n_head_kv, n_head_kv, d, n_past: n_kv - 1, causal: true, exact: true };
        let mut rows = || rng.vec(n_kv * n_head_kv * d);
        let (k, v) = (store(type_k, &rows(), n_head_kv, d), store(type_v, &rows(), n_head_kv, d));
        let q: Vec<f32> = rng.vec(shape.n_head * d).iter().map(|x| 2.0 * x).collect();
        // Runs of any length, some of no key.
        let mut ends: Vec<usize> = (0..1 + rng.below(40)).map(|_| rng.below(n_kv + 1)).chain([n_kv]).collect();
        ends.sort_unstable();
        let weights = textbook_weights(shape, &k, &q);
        for kernels in supported() {
            let mut got = vec![f64::NAN; shape.n_head * ends.len()];
            attention_shares(kernels, shape, view(&k, &v), &q, &ends, &mut got);
            let case = format!("{} K {type_k} V {type_v} seed {seed} {shape:?}", kernels.name);
            // 12 bits of a score, or 8 of a query against bytes.
            let limit = match type_k.ty {
                _ if kernels.name == "scalar" => 2e-6,
                GgmlType::F32 => 2e-6,
                GgmlType::Q8_0 | GgmlType::Q4_0 => 3e-2,
                _ => 4e-3,
            };
            for (shares, weights) in got.chunks_exact(ends.len()).zip(&weights) {
                let mut begin = 0;
                for (share, end) in shares.iter().zip(&ends) {
                    let want: f64 = weights[begin..*end].iter().sum();
                    assert!((share - want).abs() <= limit, "{case}: {share} of {begin}..{end} instead of {want}");
                    begin = *end;
                }
                assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{case}");
            }
        }
    }
}

/// The very numbers that attention adds values up with: with values that tell slots apart, its result says how much it gave to each.
#[test]
fn shares_are_those_that_attention_computes_with() {
    let (d, n_kv) = (64, 200);
    for ty in CacheType::all() {
        let mut rng = Rng(5);
        let shape = AttentionShape { n_head: 2, n_head_kv: 1, d, n_past: n_kv - 1, causal: true, exact: true };
        let keys = store(ty, &rng.vec(n_kv * d), 1, d);
        // Column `c` is 1 for the slots of run `c`, of seven each.
        let ends: Vec<usize> = (1..=n_kv.div_ceil(7)).map(|i| (7 * i).min(n_kv)).collect();
        let values: Vec<f32> = (0..n_kv * d).map(|i| f32::from(i % d == i / d / 7)).collect();
        let values = store(GgmlType::F32, &values, 1, d);
        let q = rng.vec(2 * d);
        for kernels in supported() {
            let out = run(kernels, shape, &keys, &values, &q);
            let mut shares = vec![0.0; 2 * ends.len()];
            attention_shares(kernels, shape, view(&keys, &values), &q, &ends, &mut shares);
            for (ih, shares) in shares.chunks_exact(ends.len()).enumerate() {
                for (share, want) in shares.iter().zip(&out[ih * d..]) {
                    // Values beside keys that are not floats are rounded to 12 bits, and probabilities to 15.
                    let diff = (share - f64::from(*want)).abs();
                    assert!(diff <= 2e-4, "{} {ty}: {share} instead of {want}", kernels.name);
                }
            }
        }
    }
}

#[test]
fn every_pair_of_types_at_every_small_length() {
    for type_k in TYPES {
        for type_v in TYPES {
            for n_kv in [1usize, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129] {
                let mut rng = Rng(n_kv as u64);
                let shape =
                    AttentionShape { n_head: 3, n_head_kv: 1, d: 64, n_past: n_kv - 1, causal: true, exact: true };
                let (k, v) = (store(type_k, &rng.vec(n_kv * 64), 1, 64), store(type_v, &rng.vec(n_kv * 64), 1, 64));
                check(shape, &k, &v, &rng.vec(3 * 64), &format!("seed {n_kv}"));
            }
        }
    }
}

/// One to eight rows of queries, as decoding has them, are computed in f32 over all floats, whatever the lengths.
#[test]
fn few_queries_over_floats_are_exact() {
    const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
    let mut rng = Rng(77);
    for (group, n_tokens) in [(1, 1), (2, 1), (3, 1), (5, 1), (6, 1), (7, 1), (8, 1), (1, 3), (2, 4), (4, 2)] {
        for n_past in [0, 1, 2, 3, 126, 127, 128, 129, 300] {
            for d in [16, 48, 128] {
                let n_head_kv = 2;
                let shape = AttentionShape {
                    n_head: group * n_head_kv,
                    n_head_kv,
                    d,
                    n_past,
                    causal: true,
                    exact: rng.below(2) == 0,
                };
                let stored = |rng: &mut Rng| {
                    let ty = FLOATS[rng.below(3)];
                    store(ty, &rng.vec((n_past + n_tokens) * n_head_kv * d), n_head_kv, d)
                };
                let (k, v) = (stored(&mut rng), stored(&mut rng));
                let q = rng.vec(n_tokens * shape.n_head * d);
                let want = textbook(shape, &k, &v, &q);
                for kernels in supported() {
                    let error = nmse(&run(kernels, shape, &k, &v, &q), &want);
                    let (name, k, v) = (kernels.name, k.ty, v.ty);
                    assert!(error <= 1e-11, "{name} K {k} V {v} {n_tokens} tokens {shape:?}: NMSE {error:.2e}");
                }
            }
        }
    }
}

#[test]
fn long_contexts_are_split_over_keys_and_merged() {
    for (seed, (n, n_past, causal)) in
        [(1, 5000, true), (3, 4095, true), (150, 2100, true), (2, 3000, false)].into_iter().enumerate()
    {
        for ty in [GgmlType::F32, GgmlType::Q8_0, GgmlType::F16] {
            let mut rng = Rng(seed as u64);
            let shape = AttentionShape { n_head: 2, n_head_kv: 1, d: 32, n_past, causal, exact: true };
            let mut rows = || rng.vec((n_past + n) * 32);
            let (k, v) = (store(ty, &rows(), 1, 32), store(ty, &rows(), 1, 32));
            check(shape, &k, &v, &rng.vec(n * 2 * 32), &format!("seed {seed} n {n}"));
        }
    }
}

/// A first key that takes nearly all of the weight and has a value of nearly nothing, as trained models have: what the
/// other keys say must survive the rounding of their small probabilities.
#[test]
fn a_sink_does_not_drown_the_rest() {
    let (d, n_kv) = (64, 200);
    for ty in TYPES {
        let mut rng = Rng(7);
        let q = rng.vec(d);
        let (mut keys, mut values) = (rng.vec(n_kv * d), rng.vec(n_kv * d));
        // Scores near 0 for the rest, and 6.5 for the sink: it gets three quarters of the weight.
        keys.iter_mut().for_each(|x| *x *= 0.05);
        let norm: f32 = q.iter().map(|x| x * x).sum();
        (0..d).for_each(|c| keys[c] = q[c] / norm * 6.5 * (d as f32).sqrt());
        values.iter_mut().for_each(|x| *x += 1.0);
        values[..d].iter_mut().for_each(|x| *x *= 0.01);
        let shape = AttentionShape { n_head: 1, n_head_kv: 1, d, n_past: n_kv - 1, causal: true, exact: true };
        check(shape, &store(ty, &keys, 1, d), &store(ty, &values, 1, d), &q, "sink");
    }
}

/// Everything at the end of its range and of one sign: no sum of products may overflow.
#[test]
fn extremes_neither_overflow_nor_vanish() {
    for d in [32, 128, 256] {
        for ty in TYPES {
            for (scale_q, scale_k, scale_v) in [
                (1.0, 1.0, 1.0),
                (-1.0, 1.0, -1.0),
                (0.0, 1.0, 1.0),
                (1.0, 0.0, 1.0),
                (1.0, 1e-3, 1e4),
                (1e-4, 300.0, 1e-3),
            ] {
                let n_kv = 260;
                let shape = AttentionShape { n_head: 7, n_head_kv: 1, d, n_past: n_kv - 2, causal: true, exact: true };
                let (k, v) = (store(ty, &vec![scale_k; n_kv * d], 1, d), store(ty, &vec![scale_v; n_kv * d], 1, d));
                check(shape, &k, &v, &vec![scale_q; 2 * 7 * d], &format!("scales {scale_q} {scale_k} {scale_v}"));
            }
        }
    }
    // One column and one key far larger than the others.
    for ty in TYPES {
        let (mut rng, d, n_kv) = (Rng(3), 64, 150);
        let (mut keys, mut values) = (rng.vec(n_kv * d), rng.vec(n_kv * d));
        (0..n_kv).for_each(|j| (keys[j * d + 5], values[j * d + 40]) = (20.0, -30.0));
        keys[17 * d..18 * d].iter_mut().for_each(|x| *x *= 10.0);
        let shape = AttentionShape { n_head: 4, n_head_kv: 1, d, n_past: n_kv - 1, causal: false, exact: true };
        check(shape, &store(ty, &keys, 1, d), &store(ty, &values, 1, d), &rng.vec(4 * d), "outliers");
    }
}

#[test]
fn what_is_not_finite_shows() {
    for kernels in supported() {
        for ty in TYPES {
            let mut rng = Rng(1);
            let (k, v) = (store(ty, &rng.vec(40 * 32), 1, 32), store(ty, &rng.vec(40 * 32), 1, 32));
            let mut q = rng.vec(32);
            q[3] = f32::NAN;
            let shape = AttentionShape { n_head: 1, n_head_kv: 1, d: 32, n_past: 39, causal: true, exact: true };
            let out = run(kernels, shape, &k, &v, &q);
            assert!(out.iter().all(|x| x.is_nan()), "{} {ty}: {out:?}", kernels.name);
        }
    }
}

#[test]
fn decoding_gives_the_same_bits_twice() {
    for kernels in supported() {
        let mut rng = Rng(5);
        let (k, v) =
            (store(GgmlType::Q8_0, &rng.vec(3000 * 64), 1, 64), store(GgmlType::F16, &rng.vec(3000 * 64), 1, 64));
        let q = rng.vec(6 * 64);
        let shape = AttentionShape { n_head: 6, n_head_kv: 1, d: 64, n_past: 2999, causal: true, exact: true };
        let first = run(kernels, shape, &k, &v, &q);
        (0..5).for_each(|_| assert_eq!(run(kernels, shape, &k, &v, &q), first, "{}", kernels.name));
    }
}

/// Sequences of every kind in one call: with one token and many, whose keys are split over tasks and are not, and without rows.
#[test]
fn sequences_together_get_what_they_get_alone_bit_for_bit() {
    let (n_head, n_head_kv, d) = (6, 2, 32);
    let mut rng = Rng(8);
    let mut stored = |n: usize, ty: GgmlType| store(ty, &rng.vec(n * n_head_kv * d), n_head_kv, d);
    let (short, long) = ([GgmlType::F16, GgmlType::Q8_0], [GgmlType::Q8_0, GgmlType::F32]);
    let rows = [
        (1, 4, short),
        (1, 2100, long),
        (3, 700, short),
        (0, 9, short),
        (130, 300, long),
        (1, 700, short),
        (2, 2, long),
    ];
    let caches = rows.map(|(n, n_past, [k, v])| (stored(n_past + n, k), stored(n_past + n, v)));
    let n_tokens: usize = rows.iter().map(|(n, ..)| n).sum();
    let q = Rng(9).vec(n_tokens * n_head * d);
    for kernels in supported() {
        let mut end = 0;
        let parts: Vec<AttentionPart<'_>> = (rows.iter().zip(&caches))
            .map(|((n, n_past, _), (k, v))| {
                let shape = AttentionShape { n_head, n_head_kv, d, n_past: *n_past, causal: true, exact: true };
                end += n;
                AttentionPart { shape, kv: view(k, v), rows: end - n..end }
            })
            .collect();
        let mut together = vec![f32::NAN; q.len()];
        attention_of(kernels, parts.iter().cloned(), &q, &mut together);
        for (part, (k, v)) in parts.iter().zip(&caches) {
            let own = part.rows.start * n_head * d..part.rows.end * n_head * d;
            let alone = run(kernels, part.shape, k, v, &q[own.clone()]);
            assert_eq!(together[own], alone, "{} {:?}", kernels.name, part.shape);
        }
    }
    let mut out = [];
    attention_of(supported()[0], std::iter::empty(), &[], &mut out);
}

/// Rows that are hard to round: ties, the edges of each type, subnormal numbers, zeros of both signs, equal extremes.
fn hard_rows(rng: &mut Rng, d: usize) -> Vec<Vec<f32>> {
    let mut rows = vec![vec![0.0; d], vec![-0.0; d], vec![1e-40; d], vec![65504.0 * 8.0; d], vec![-65519.0; d]];
    // Multiples of half a step: every second one is a tie, of either sign.
    rows.push((0..d).map(|i| if i % 32 == 0 { 127.0 } else { (i as f32 - 16.0) / 2.0 }).collect());
    rows.push((0..d).map(|i| if i % 32 == 0 { -8.0 } else { (i % 31) as f32 / 2.0 - 8.0 }).collect());
    rows.push((0..d).map(|i| if i % 2 == 0 { 3.0 } else { -3.0 }).collect());
    // Halfway between neighbours in f16 and in bf16.
    rows.push((0..d).map(|i| 1.0 + (2 * i + 1) as f32 / 4096.0).collect());
    rows.push((0..d).map(|i| 1.0 + (2 * i + 1) as f32 / 512.0).collect());
    for e in -30..6 {
        rows.push(rng.vec(d).iter().map(|x| x * 10f32.powi(e)).collect());
    }
    rows
}

#[test]
fn encoded_bytes_are_those_of_the_definition() {
    for kernels in supported() {
        for ty in CacheType::all() {
            for d in [32, 96, 128]
                .into_iter()
                .chain([0, 1, 3, 4, 5, 7, 8, 9, 37].into_iter().filter(|_| ty.block_len() == 1))
            {
                let mut rng = Rng(d as u64);
                let random = (0..400).map(|_| rng.vec(d)).collect::<Vec<_>>();
                for (i, row) in hard_rows(&mut rng, d).into_iter().chain(random).enumerate() {
                    let (mut want, mut got) =
                        (vec![0u8; ty.row_bytes(d).unwrap()], vec![1u8; ty.row_bytes(d).unwrap()]);
                    let fits = match ty.hadamard {
                        true => ty.encode(&mut row.clone(), &mut want).is_ok(),
                        false => quantize_row(ty.ty, &row, &mut want, None).is_ok(),
                    };
                    let mut head = row.clone();
                    assert_eq!((kernels.attend.encode)(ty, &mut head, &mut got), fits, "{} {ty} row {i}", kernels.name);
                    let largest = head.iter().fold(0f32, |max, x| max.max(x.abs()));
                    assert!(fits || largest > 65504.0, "{} {ty} row {i}: refused", kernels.name);
                    if !fits {
                        continue;
                    }
                    assert_eq!(got, want, "{} {ty} d {d} row {i}: {row:?}", kernels.name);
                }
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().filter(|_| d > 0) {
                    let mut row = rng.vec(d);
                    row[d - 1] = bad;
                    let mut to = vec![0u8; ty.row_bytes(d).unwrap()];
                    assert!(!(kernels.attend.encode)(ty, &mut row, &mut to), "{} {ty} {bad}", kernels.name);
                }
            }
        }
    }
}

#[test]
fn a_cache_write_is_bias_rotation_and_quantization() {
    for (seed, (n_head_kv, d, n, slot)) in
        [(1, 32, 1, 0), (2, 128, 300, 7), (3, 64, 90, 1), (2, 96, 5, 2)].into_iter().enumerate()
    {
        let rotary = Rotary::new(Layout::Hope, d, 1e6, [d / 8, d / 16 * 3, d / 16 * 3]).unwrap();
        let pos: Vec<Pos> = (0..n).map(|i| Pos { t: i as f64, h: i as f64 * 1.5 - 40.0, w: 3.0 + i as f64 }).collect();
        let mut table = RotaryTable::default();
        rotary.fill(&pos, &mut table);
        let mut rng = Rng(seed as u64);
        let (rows, bias) = (rng.vec(n * n_head_kv * d), rng.vec(n_head_kv * d));
        let turned: Vec<f32> = rows
            .chunks(n_head_kv * d)
            .enumerate()
            .flat_map(|(it, row)| {
                let mut row: Vec<f32> = row.iter().zip(&bias).map(|(x, b)| x + b).collect();
                let (cos, sin) = table.token(it);
                row.chunks_mut(d).for_each(|head| rotate_f32(head, cos, sin));
                row
            })
            .collect();
        for kernels in supported() {
            let mut queries = rows.clone();
            rotate_rows(kernels, &mut queries, Some(&bias), Some((&table, 0)), (n_head_kv, d));
            assert_eq!(queries, turned, "{} seed {seed}", kernels.name);
            for ty in CacheType::all() {
                let row_bytes = ty.row_bytes(d).unwrap();
                let stride = (slot + n + 2) * row_bytes;
                let mut want = vec![7u8; n_head_kv * stride];
                let mut got = want.clone();
                for it in 0..n {
                    for ih in 0..n_head_kv {
                        let src = &turned[(it * n_head_kv + ih) * d..][..d];
                        let to = &mut want[ih * stride + (slot + it) * row_bytes..][..row_bytes];
                        ty.encode(&mut src.to_vec(), to).unwrap();
                    }
                }
                let to = CacheRows { ty, data: &mut got, stride, slot };
                kv_write(kernels, &rows, Some(&bias), Some((&table, 0)), (n_head_kv, d), to).unwrap();
                assert!(got == want, "{} {ty} seed {seed}: other bytes", kernels.name);
            }
        }
    }
}

#[test]
fn a_cache_refuses_what_it_cannot_hold() {
    for kernels in supported() {
        for (ty, bad, words) in [
            (GgmlType::F32, f32::NAN, "token 1 are not finite"),
            (GgmlType::F16, f32::INFINITY, "token 1 are not finite"),
            (GgmlType::Q8_0, f32::NAN, "token 1 are not finite"),
            (GgmlType::Q8_0, 1e30, "holds finite numbers up to"),
            (GgmlType::Q4_0, 1e30, "holds finite numbers up to"),
            (GgmlType::Q4_1, 1e5, "holds finite numbers up to"),
            (GgmlType::Q5_0, f32::NAN, "token 1 are not finite"),
            (GgmlType::Q5_1, f32::INFINITY, "token 1 are not finite"),
            (GgmlType::IQ4_NL, 1e30, "holds finite numbers up to"),
        ]
        .map(|(ty, bad, words)| (CacheType::from(ty), bad, words))
        .into_iter()
        .chain([
            (CacheType::from(GgmlType::Q4_0).transformed(), 1e30, "Q4_0H holds finite numbers up to"),
            (CacheType::from(GgmlType::Q8_0).transformed(), f32::NAN, "token 1 are not finite"),
            (CacheType::from(GgmlType::F16).transformed(), f32::INFINITY, "token 1 are not finite"),
        ]) {
            let mut rows = vec![1.0; 64];
            rows[40] = bad;
            let mut data = vec![0u8; 2 * ty.row_bytes(32).unwrap()];
            let stride = data.len();
            let to = CacheRows { ty, data: &mut data, stride, slot: 0 };
            let err = kv_write(kernels, &rows, None, None, (1, 32), to).unwrap_err().to_string();
            assert!(err.contains(words), "{} {ty}: {err}", kernels.name);
        }
    }
}

/// A row of the table below: how many of the needles come out as with F32, over all videos, and the error of the answers.
struct Found {
    ty: CacheType,
    n: usize,
    error: f64,
}

/// How much frames look alike, of those that stand beside a needle.
const LIKENESS: [f32; 3] = [0.8, 0.95, 0.99];

/// Needles at depth: every query looks for one key among `n`, of which some look much like it, as neighbouring frames do. With
/// `outliers`, three pairs of channels of keys are so many times larger, those of the queries as much smaller, and so are two
/// channels of values; scores are the same. Of each [`LIKENESS`] and each type of a cache: how often the same key comes out as with
/// F32.
fn needles(kernels: &Kernels, n: usize, outliers: f32, seed: u64) -> [Vec<Found>; 3] {
    const LOOKALIKES: usize = 8;
    let (n_head, d) = (16, 128);
    let mut rng = Rng(seed);
    let (mut keys, mut values) = (rng.vec(n * d), rng.vec(n * d));
    let needles: Vec<usize> = (0..n_head).map(|ih| ih * n / n_head + rng.below(n / n_head - LOOKALIKES)).collect();
    // Sharp enough to stand out of `n` keys, as heads that retrieve are.
    let mut queries: Vec<f32> = needles.iter().flat_map(|at| keys[at * d..][..d].iter().map(|k| k * 2.0)).collect();
    // The keys behind each needle, as they are when they look like it.
    let mut lookalikes = LIKENESS.map(|likeness| {
        let other = (1.0 - likeness * likeness).sqrt();
        let behind = |at: &usize| {
            let (needle, keys) = (&keys[at * d..][..d], &keys[(at + 1) * d..][..LOOKALIKES * d]);
            keys.iter().zip(needle.iter().cycle()).map(|(key, needle)| likeness * needle + other * key).collect()
        };
        needles.iter().map(behind).collect::<Vec<Vec<f32>>>()
    });
    let scale = |rows: &mut [f32], channels: &[usize], by: f32| {
        rows.chunks_exact_mut(d).for_each(|row| channels.iter().for_each(|c| row[*c] *= by));
    };
    let (of_keys, of_values) = ([5, 5 + d / 2, 40, 40 + d / 2, 63, 127], [17, 90]);
    scale(&mut keys, &of_keys, outliers);
    lookalikes.iter_mut().flatten().for_each(|rows: &mut Vec<f32>| scale(rows, &of_keys, outliers));
    scale(&mut queries, &of_keys, 1.0 / outliers);
    let plain = values.clone();
    scale(&mut values, &of_values, outliers);
    let shape = AttentionShape { n_head, n_head_kv: 1, d, n_past: n - 1, causal: true, exact: true };
    // Stored once for all: only the lookalikes are others.
    let answers = |ty: CacheType| -> [Vec<f32>; 3] {
        let (mut k, v) = (written(kernels, ty, &keys, d), written(kernels, ty, &values, d));
        std::array::from_fn(|i| {
            for (at, rows) in needles.iter().zip(&lookalikes[i]) {
                let to = CacheRows { ty, data: &mut k.bytes, stride: k.stride, slot: at + 1 };
                kv_write(kernels, rows, None, None, (1, d), to).unwrap();
            }
            let mut answer = run(kernels, shape, &k, &v, &queries);
            scale(&mut answer, &of_values, 1.0 / outliers);
            answer
        })
    };
    // The key whose value is most like each answer.
    let found = |answer: &[f32]| -> Vec<usize> {
        let of = |(at, answer): (&usize, &[f32])| {
            let like = |j: usize| plain[j * d..][..d].iter().zip(answer).map(|(a, b)| a * b).sum::<f32>();
            (*at..=at + LOOKALIKES).max_by(|i, j| like(*i).total_cmp(&like(*j))).unwrap()
        };
        needles.iter().zip(answer.chunks_exact(d)).map(of).collect()
    };
    let mut rows: [Vec<Found>; 3] = Default::default();
    let exact = answers(GgmlType::F32.into());
    for ty in CacheType::all() {
        for ((rows, got), exact) in rows.iter_mut().zip(answers(ty)).zip(&exact) {
            let want: Vec<f64> = exact.iter().map(|v| f64::from(*v)).collect();
            let n = found(exact).iter().zip(found(&got)).filter(|(want, got)| **want == *got).count();
            rows.push(Found { ty, n, error: nmse(&got, &want) });
        }
    }
    rows
}

#[test]
fn needles_are_found_at_any_depth() {
    let kernels = supported().last().copied().expect("scalar at least");
    println!("table {}, 16 needles of 128 numbers, 8 lookalikes each", kernels.name);
    for (seed, n) in [1024, 16_384, 65_536].into_iter().enumerate() {
        for (likeness, rows) in LIKENESS.into_iter().zip(needles(kernels, n, 1.0, seed as u64 + 900)) {
            for Found { ty, n: found, error } in rows {
                println!("{n} keys, likeness {likeness}, {ty}: {found} of 16 as with F32, NMSE {error:.1e}");
                let (least, most) = match ty.ty {
                    GgmlType::Q4_0 if ty.hadamard => (13, 0.02),
                    GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::IQ4_NL => (5, 0.1),
                    GgmlType::Q5_0 | GgmlType::Q5_1 => (8, 0.03),
                    GgmlType::Q8_0 => (14, 1e-3),
                    _ => (14, 1e-4),
                };
                assert!(
                    found >= least && error <= most,
                    "{n} keys, {likeness}, {ty}, seed {seed}: {found}, {error:.1e}"
                );
            }
        }
    }
}

/// Many draws at one depth, with outliers of several sizes: what one draw of 16 needles cannot tell. Under a transform as much is found
/// at least, with a smaller error, which with outliers is less than half. Outliers of fifty times the size leave four bits nothing
/// to find, with a transform or without one.
#[test]
fn needles_of_heads_with_outliers() {
    const DRAWS: u64 = 8;
    let kernels = supported().last().copied().expect("scalar at least");
    for outliers in [1.0, 10.0, 50.0] {
        let none = || CacheType::all().map(|ty| Found { ty, n: 0, error: 0.0 }).collect();
        let mut sums: [Vec<Found>; 3] = std::array::from_fn(|_| none());
        for draw in 0..DRAWS {
            for (sums, rows) in sums.iter_mut().zip(needles(kernels, 2048, outliers, 50 + draw)) {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    (sum.n, sum.error) = (sum.n + row.n, sum.error + row.error / DRAWS as f64);
                }
            }
        }
        for (likeness, rows) in LIKENESS.into_iter().zip(sums) {
            let of = |ty: GgmlType, hadamard| {
                rows.iter().find(|row| row.ty == CacheType { ty, hadamard }).expect("all types")
            };
            for Found { ty, n, error } in &rows {
                println!("likeness {likeness}, outliers {outliers}, {ty}: {n} of {}, NMSE {error:.1e}", 16 * DRAWS);
            }
            let (types, most): (&[GgmlType], f64) = match outliers {
                1.0 => (&[GgmlType::Q4_0, GgmlType::Q5_0], 1.0),
                10.0 => (&[GgmlType::Q4_0, GgmlType::Q5_0, GgmlType::Q8_0], 0.5),
                _ => (&[GgmlType::Q5_0, GgmlType::Q8_0], 0.5),
            };
            for ty in types {
                let (plain, transformed) = (of(*ty, false), of(*ty, true));
                let case = format!("likeness {likeness}, outliers {outliers}, {ty}: {} and {}", plain.n, transformed.n);
                assert!(transformed.n >= plain.n && transformed.error < most * plain.error, "{case}");
            }
        }
    }
}

/// A transform changes nothing but roundings where nothing is rounded, of any head size.
#[test]
fn an_f32_cache_under_a_transform_is_the_same_to_rounding() {
    for (seed, d) in [3, 20, 36, 64, 80, 96, 128, 256].into_iter().enumerate() {
        let mut rng = Rng(seed as u64 + 70);
        let shape = AttentionShape { n_head: 6, n_head_kv: 2, d, n_past: 300, causal: true, exact: true };
        let (keys, values, q) = (rng.vec(303 * 2 * d), rng.vec(303 * 2 * d), rng.vec(3 * 6 * d));
        let f32 = CacheType::from(GgmlType::F32);
        for kernels in supported() {
            let of =
                |k: CacheType, v: CacheType| run(kernels, shape, &store(k, &keys, 2, d), &store(v, &values, 2, d), &q);
            let want: Vec<f64> = of(f32, f32).iter().map(|x| f64::from(*x)).collect();
            for (k, v) in [(f32.transformed(), f32), (f32, f32.transformed()), (f32.transformed(), f32.transformed())] {
                let error = nmse(&of(k, v), &want);
                assert!(error < 1e-12, "{} {k} {v} of {d}: {error:.1e}", kernels.name);
            }
        }
    }
}

/// Every table transforms as the definition does, bit for bit.
#[test]
fn transforms_are_those_of_the_definition() {
    for kernels in supported() {
        for d in [1, 2, 3, 6, 8, 20, 32, 48, 64, 80, 96, 128, 192, 256, 1024] {
            let mut head = Rng(d as u64).vec(d);
            let mut want = head.clone();
            longtake_numerics::tensor::hadamard(&mut want);
            (kernels.attend.hadamard)(&mut head);
            assert_eq!(head, want, "{} {d}", kernels.name);
        }
    }
}
