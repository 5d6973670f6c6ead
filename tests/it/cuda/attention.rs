//! The cache write, byte for byte, and attention over what it wrote.

use longtake::gguf::GgmlType;
use longtake::kernels::cuda::{CachedSeq, Gpu, KvMem, KvPart, Mem, Rotation, Sees, SeqTable, Sequences, WindowMem};
use longtake::kernels::{AttentionShape, CacheRows, KvView, attention, kv_write, rotate_rows};
use longtake::position::{Layout, Pos, Rotary, RotaryTable};

use super::{Rng, down, gpu, nmse, scalar, up};

use longtake::cache::{CACHE_TYPES as TYPES, CacheType};

/// A table of random positions whose last pairs stand still, on both sides.
fn rotation(gpu: &Gpu, n_rot: usize, n: usize, rng: &mut Rng) -> (RotaryTable, Rotation) {
    let n_pair = n_rot / 2;
    let n_time = n_pair / 4;
    let sections = [n_time, (n_pair - n_time) / 2, n_pair - n_time - (n_pair - n_time) / 2];
    let rotary = Rotary::new(Layout::Hope, n_rot, 1e6, sections).unwrap();
    let mut at = || f64::from(rng.normal()) * 3000.0;
    let pos: Vec<Pos> = (0..n).map(|_| Pos { t: at(), h: at(), w: at() }).collect();
    let mut table = RotaryTable::default();
    rotary.fill(&pos, &mut table);
    assert!(rotary.n_turning() < n_pair, "HoPE leaves pairs of {n_rot} alone");
    let dev =
        Rotation { table: up(gpu, table.rows()), n_tokens: n, n_turning: rotary.n_turning(), n_pair: rotary.n_pair() };
    (table, dev)
}

fn int(gpu: &Gpu, value: usize) -> Mem {
    gpu.upload(&[value as i32], "test").unwrap()
}

/// A table of sequences of so many rows behind so many filled slots, with these keys and values.
fn table(gpu: &Gpu, seqs: &[(usize, usize, &KvMem, &KvMem)], heads: (usize, usize, usize), last: usize) -> SeqTable {
    let mut at = 0;
    let cached = seqs.iter().map(|(n, n_past, k, v)| {
        at += n;
        let (k, v) = ((*k).clone(), (*v).clone());
        CachedSeq { rows: at - n..at, n_past: *n_past, states: k.mem.clone(), k, v }
    });
    gpu.table(cached.collect(), heads, last).unwrap()
}

#[test]
fn the_cache_write_is_that_of_the_host_byte_for_byte() {
    let gpu = gpu();
    for (seed, (n, heads, d, n_past)) in
        [(1, 1, 32, 0), (5, 2, 64, 3), (40, 3, 96, 7), (3, 2, 128, 0)].into_iter().enumerate()
    {
        for ty in CacheType::all() {
            let mut rng = Rng(seed as u64 + 400);
            let (row, n_ctx) = (ty.row_bytes(d).unwrap(), n_past + n + 2);
            let mut rows = rng.vec(n * heads * d);
            // A block of zeros, and one whose reciprocal scale is not finite.
            rows[..32].fill(0.0);
            if n > 1 {
                rows[heads * d..][..32].fill(1e-44);
            }
            let bias: Vec<f32> = rng.vec(heads * d).iter().map(|b| if seed == 0 { 0.0 } else { *b }).collect();
            // Heads rotate as a whole, or a part of them does.
            let (angles, rotation) = rotation(&gpu, if seed == 2 { d } else { d / 2 }, n, &mut rng);
            for turned in [false, true] {
                let mut want = vec![7u8; heads * n_ctx * row];
                let to = CacheRows { ty, data: &mut want, stride: n_ctx * row, slot: n_past };
                kv_write(scalar(), &rows, Some(&bias), turned.then_some((&angles, 0)), (heads, d), to).unwrap();
                let out = KvMem { ty, mem: gpu.upload(&vec![7u8; want.len()], "test").unwrap(), stride: n_ctx * row };
                let broken = int(&gpu, 0);
                let table = self::table(&gpu, &[(n, n_past, &out, &out)], (heads, heads, d), 0);
                let (dev_rows, dev_bias) = (up(&gpu, &rows), up(&gpu, &bias));
                let finish = (Some(&dev_bias), turned.then_some(&rotation));
                gpu.kv_write_cached(&dev_rows, finish, (&table, 0), KvPart::Values, &broken).unwrap();
                let mut got = vec![0u8; want.len()];
                out.mem.read(&mut got).unwrap();
                let at = got.iter().zip(&want).position(|(g, w)| g != w);
                assert_eq!(at, None, "{ty} seed {seed} turned {turned}: first byte that differs");
                let mut flag = [9i32];
                broken.read(&mut flag).unwrap();
                assert_eq!(flag, [0], "{ty} seed {seed}");

                let mut want = rows.clone();
                rotate_rows(scalar(), &mut want, Some(&bias), Some((&angles, 0)), (heads, d));
                gpu.rotate_rows(&dev_rows, Some(&dev_bias), &rotation, n, (heads, d)).unwrap();
                assert!(down(&dev_rows) == want, "queries, seed {seed}");
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_raises_the_flag() {
    let gpu = gpu();
    for ty in CacheType::all() {
        for (value, want) in [(f32::NAN, 1), (f32::INFINITY, 1), (1.0, 0)] {
            let mut rows = vec![0.5f32; 64];
            rows[37] = value;
            let out = KvMem { ty, mem: gpu.alloc(1024, "test").unwrap(), stride: 512 };
            let broken = int(&gpu, 0);
            let seqs = Sequences { n_seq: 1, n_per_seq: 1 };
            gpu.kv_write(&up(&gpu, &rows), (None, None), seqs, (2, 32), &out, &broken).unwrap();
            let mut flag = [9i32];
            broken.read(&mut flag).unwrap();
            assert_eq!(flag, [want], "{ty} {value}");
        }
    }
}

/// Attention within windows of any lengths is that of each window for itself.
#[test]
fn windows_are_sequences_of_their_own() {
    let gpu = gpu();
    for (seed, (n_seq, ends, n_head, d)) in [
        (1, vec![4, 8], 1, 8),
        (2, vec![16, 32, 40, 44], 2, 20),
        (1, vec![64, 128, 160, 176], 2, 72),
        (3, vec![3, 70, 71], 1, 80),
        (1, vec![90], 2, 32),
    ]
    .into_iter()
    .enumerate()
    {
        let mut rng = Rng(seed as u64 + 900);
        let n = *ends.last().unwrap();
        let c = Case { n_seq, n, n_past: 0, n_head, n_head_kv: n_head, d, causal: false };
        let ((host_k, k), (host_v, v)) =
            (store(&gpu, &c, GgmlType::F32.into(), &mut rng), store(&gpu, &c, GgmlType::F32.into(), &mut rng));
        let (width, row) = (n_head * d, d * size_of::<f32>());
        let q: Vec<f32> = rng.vec(n_seq * n * width).iter().map(|x| 3.0 * x).collect();
        let mut want = vec![0f32; q.len()];
        for is in 0..n_seq {
            for (i, end) in ends.iter().enumerate() {
                let begin = if i > 0 { ends[i - 1] } else { 0 };
                let rows = (is * n + begin) * width..(is * n + end) * width;
                let view = KvView {
                    type_k: GgmlType::F32.into(),
                    type_v: GgmlType::F32.into(),
                    k: &host_k[is][begin * row..],
                    v: &host_v[is][begin * row..],
                    stride_k: k.stride,
                    stride_v: v.stride,
                };
                let shape = AttentionShape { n_head, n_head_kv: n_head, d, n_past: 0, causal: false, exact: true };
                attention(scalar(), shape, view, &q[rows.clone()], &mut want[rows]);
            }
        }
        let out = up(&gpu, &vec![f32::NAN; q.len()]);
        let parts = gpu.alloc(4 * Gpu::attention_parts(n_seq * n, n_head, d), "test").unwrap();
        let seqs = Sequences { n_seq, n_per_seq: n };
        let list: Vec<i32> = ends.iter().map(|end| *end as i32).collect();
        let longest = (0..ends.len()).map(|i| ends[i] - if i > 0 { ends[i - 1] } else { 0 }).max().unwrap();
        let sees = Sees::Windows(WindowMem { ends: &gpu.upload(&list, "test").unwrap(), n: ends.len(), longest });
        gpu.attention(&up(&gpu, &q), (&k, &v), seqs, (n_head, n_head, d), sees, &out, &parts).unwrap();
        let error = nmse(&down(&out), &want);
        assert!(error <= 1e-9, "seed {seed}: NMSE {error:.1e}");
    }
}

struct Case {
    n_seq: usize,
    n: usize,
    n_past: usize,
    n_head: usize,
    n_head_kv: usize,
    d: usize,
    causal: bool,
}

/// Keys or values of `n_seq` sequences in memory of both sides.
fn store(gpu: &Gpu, c: &Case, ty: CacheType, rng: &mut Rng) -> (Vec<Vec<u8>>, KvMem) {
    let (n_kv, row) = (c.n_past + c.n, ty.row_bytes(c.d).unwrap());
    let stride = (n_kv + 3) * row;
    let mut all = Vec::new();
    for _ in 0..c.n_seq {
        // What is behind the filled slots nobody may read.
        let mut bytes = vec![0xffu8; c.n_head_kv * stride];
        let to = CacheRows { ty, data: &mut bytes, stride, slot: 0 };
        kv_write(scalar(), &rng.vec(n_kv * c.n_head_kv * c.d), None, None, (c.n_head_kv, c.d), to).unwrap();
        all.push(bytes);
    }
    let mem = gpu.upload(&all.concat(), "test").unwrap();
    (all, KvMem { ty, mem, stride })
}

fn check(gpu: &Gpu, c: &Case, (type_k, type_v): (CacheType, CacheType), seed: u64, bound: f64) {
    let mut rng = Rng(seed);
    let ((host_k, k), (host_v, v)) = (store(gpu, c, type_k, &mut rng), store(gpu, c, type_v, &mut rng));
    let width = c.n_head * c.d;
    // Queries of some size, so that weights are not all alike.
    let q: Vec<f32> = rng.vec(c.n_seq * c.n * width).iter().map(|x| 3.0 * x).collect();
    let shape = AttentionShape {
        n_head: c.n_head,
        n_head_kv: c.n_head_kv,
        d: c.d,
        n_past: c.n_past,
        causal: c.causal,
        exact: true,
    };
    let mut want = vec![0f32; q.len()];
    for is in 0..c.n_seq {
        let rows = is * c.n * width..(is + 1) * c.n * width;
        let view = KvView { type_k, type_v, k: &host_k[is], v: &host_v[is], stride_k: k.stride, stride_v: v.stride };
        attention(scalar(), shape, view, &q[rows.clone()], &mut want[rows]);
    }
    let out = up(gpu, &vec![f32::NAN; q.len()]);
    let parts = gpu.alloc(4 * Gpu::attention_parts(c.n_seq * c.n, c.n_head, c.d), "test").unwrap();
    let heads = (c.n_head, c.n_head_kv, c.d);
    if c.causal {
        assert_eq!(c.n_seq, 1);
        let table = table(gpu, &[(c.n, c.n_past, &k, &v)], heads, 0);
        gpu.attention_cached(&up(gpu, &q), (&table, 0), 0, &out, &parts).unwrap();
    } else {
        let seqs = Sequences { n_seq: c.n_seq, n_per_seq: c.n };
        gpu.attention(&up(gpu, &q), (&k, &v), seqs, heads, Sees::All, &out, &parts).unwrap();
    }
    let error = nmse(&down(&out), &want);
    let Case { n_seq, n, n_past, n_head, n_head_kv, d, causal } = c;
    assert!(
        error <= bound,
        "K {type_k} V {type_v} seed {seed}: {n_seq} sequences of {n} behind {n_past}, {n_head} heads over {n_head_kv} of {d}, \
         causal {causal}: NMSE {error:.1e}"
    );
}

#[test]
fn few_queries_over_split_keys_agree_with_scalar() {
    let gpu = gpu();
    // One token deep in the cache (many ranges of keys), several tokens, more heads than a block takes, wide heads.
    let cases = [
        (1, 1, 700, 12, 2, 128, true),
        (1, 3, 40, 4, 4, 64, true),
        (1, 1, 0, 9, 1, 32, true),
        (1, 2, 290, 10, 1, 48, true),
        (2, 5, 0, 3, 3, 80, false),
        (1, 2, 33, 2, 1, 256, true),
        (1, 1, 5, 2, 2, 6, true),
    ];
    for (seed, (n_seq, n, n_past, n_head, n_head_kv, d, causal)) in cases.into_iter().enumerate() {
        let case = Case { n_seq, n, n_past, n_head, n_head_kv, d, causal };
        for type_k in TYPES.into_iter().filter(|ty| d % ty.block_len() == 0) {
            for type_v in TYPES.into_iter().filter(|ty| d % ty.block_len() == 0) {
                check(&gpu, &case, (type_k.into(), type_v.into()), seed as u64 + 500, 1e-11);
            }
            // Either of them transformed, or both.
            let (plain, other) = (CacheType::from(type_k), CacheType::from(GgmlType::F32));
            let types = [
                (plain.transformed(), other),
                (other, plain.transformed()),
                (plain.transformed(), plain.transformed()),
            ];
            types.into_iter().for_each(|types| check(&gpu, &case, types, seed as u64 + 500, 1e-11));
        }
    }
}

#[test]
fn many_queries_on_tensor_cores_agree_with_scalar() {
    let gpu = gpu();
    let cases = [
        (1, 33, 70, 6, 2, 64, true),
        (1, 70, 0, 3, 1, 32, true),
        (2, 65, 0, 2, 2, 80, false),
        (1, 11, 100, 12, 2, 128, true),
        (3, 64, 0, 1, 1, 16, false),
        (1, 70, 9, 1, 1, 96, true),
        (1, 64, 1, 1, 1, 10, true),
    ];
    for (seed, (n_seq, n, n_past, n_head, n_head_kv, d, causal)) in cases.into_iter().enumerate() {
        let case = Case { n_seq, n, n_past, n_head, n_head_kv, d, causal };
        for ty in CacheType::all().filter(|ty| d % ty.block_len() == 0) {
            check(&gpu, &case, (ty, ty), seed as u64 + 600, 1e-9);
        }
        if d % 32 == 0 {
            check(&gpu, &case, (GgmlType::Q8_0.into(), GgmlType::F16.into()), seed as u64 + 600, 1e-9);
        }
    }
}

/// Rows of several caches, few and many, of one type and of several, in any layer: each what it is alone, bit for bit, and no other
/// number of launches than of one, where one kernel serves all.
#[test]
fn sequences_of_a_batch_see_their_own_caches() {
    let gpu = gpu();
    let (heads, n_layer) = ((4, 2, 64), 3);
    let (n_head, n_head_kv, d) = heads;
    let [f16, q8] = [GgmlType::F16, GgmlType::Q8_0].map(CacheType::from);
    type Seqs<'a> = &'a [(usize, usize, CacheType)];
    let cases: [(Seqs<'_>, u64); 6] = [
        // Decoding: different depths, so different ranges of keys.
        (&[(1, 700, f16), (1, 0, f16), (1, 290, f16), (1, 33, f16)], 4),
        (&[(1, 5, q8)], 4),
        // Prompts on tensor cores, then tokens of those that generate.
        (&[(40, 70, f16), (33, 0, f16), (1, 300, f16), (2, 9, f16)], 5),
        // Two types are two launches each.
        (&[(1, 20, f16), (1, 600, q8), (2, 30, q8)], 8),
        (&[(3, 4, q8), (64, 10, q8), (1, 600, f16)], 9),
        // A transform of the queries, and one back.
        (&[(1, 20, q8.transformed()), (1, 600, q8), (2, 30, q8)], 10),
    ];
    for (seed, (seqs, n_launches)) in cases.into_iter().enumerate() {
        let mut rng = Rng(seed as u64 + 1200);
        let n: usize = seqs.iter().map(|seq| seq.0).sum();
        let fresh: [Vec<f32>; 2] = std::array::from_fn(|_| rng.vec(n * n_head_kv * d));
        let q = rng.vec(n * n_head * d);
        let (_, rotation) = rotation(&gpu, d, n, &mut rng);
        // Memory of all layers, of which one is filled.
        let layer = seed % n_layer;
        let caches: Vec<[KvMem; 2]> = seqs
            .iter()
            .map(|(n, n_past, ty)| {
                [(); 2].map(|()| {
                    let case = Case { n_seq: 1, n: *n, n_past: *n_past, n_head, n_head_kv, d, causal: true };
                    let (bytes, kv) = store(&gpu, &case, *ty, &mut rng);
                    let mut all = vec![0xffu8; n_layer * bytes[0].len()];
                    all[layer * bytes[0].len()..][..bytes[0].len()].copy_from_slice(&bytes[0]);
                    KvMem { mem: gpu.upload(&all, "test").unwrap(), ..kv }
                })
            })
            .collect();
        let run = |which: std::ops::Range<usize>| {
            let rows: Vec<_> = which.clone().map(|i| (seqs[i].0, seqs[i].1, &caches[i][0], &caches[i][1])).collect();
            let first: usize = seqs[..which.start].iter().map(|seq| seq.0).sum();
            let n: usize = rows.iter().map(|row| row.0).sum();
            let of = |x: &[f32], width: usize| up(&gpu, &x[first * width..(first + n) * width]);
            let width = 2 * rotation.n_turning;
            let turned = Rotation { table: rotation.table.floats(first * width, n * width), n_tokens: n, ..rotation };
            let (table, broken) = (table(&gpu, &rows, heads, 0), int(&gpu, 0));
            let out = up(&gpu, &vec![f32::NAN; n * n_head * d]);
            let parts = gpu.alloc(4 * Gpu::attention_parts(n, n_head, d), "test").unwrap();
            let before = gpu.n_launched();
            for (x, part) in fresh.iter().zip([KvPart::Keys, KvPart::Values]) {
                let rotation = (part == KvPart::Keys).then_some(&turned);
                let rows = of(x, n_head_kv * d);
                gpu.kv_write_cached(&rows, (None, rotation), (&table, layer), part, &broken).unwrap();
            }
            gpu.attention_cached(&of(&q, n_head * d), (&table, layer), 0, &out, &parts).unwrap();
            let launched = gpu.n_launched() - before;
            (down(&out), launched)
        };
        let (together, launched) = run(0..seqs.len());
        let alone: Vec<f32> = (0..seqs.len()).flat_map(|i| run(i..i + 1).0).collect();
        assert!(together.iter().all(|x| x.is_finite()) && together == alone, "case {seed}");
        assert_eq!(launched, n_launches, "case {seed}");
    }
}

#[test]
fn transforms_are_those_of_the_host_bit_for_bit() {
    let gpu = gpu();
    for d in [1, 3, 6, 20, 32, 48, 64, 80, 128, 256, 320] {
        let rows = Rng(d as u64).vec(7 * d);
        let mut want = rows.clone();
        want.chunks_exact_mut(d).for_each(longtake::tensor::hadamard);
        let dev = up(&gpu, &rows);
        gpu.hadamard_rows(&dev, 7, d).unwrap();
        assert!(down(&dev) == want, "heads of {d}");
    }
}
