//! Products with packed weights: every table against the scalar definition at odd sizes, integers exactly, and the
//! definition against exact products of the decoded weights.

use longtake_numerics::GgmlType;
use longtake_numerics::kernels::{
    Activations, CHUNK, Epilogue, Gelu, Kernels, MAX_DOT_TOKENS, Number, PackRows, Panel, QuantizeTile, RowChunk, Word,
    definition, matmul, matmul_with, supported,
};
use longtake_numerics::tensor::{MatView, can_quantize, quantize_row};

use crate::random::{Rng, Weights};
use crate::seeds;

/// Every type, with the NMSE that its products may have against exact ones of the decoded weights: for quantized types,
/// activations alone cost about 2.3e-5 with scales per 32 and 4.6e-5 with scales per 256; 16-bit integers cost about
/// 6e-9 for activations and as much for weights.
const TYPES: [(GgmlType, f64); 28] = [
    (GgmlType::F32, 1e-12),
    (GgmlType::F16, 2e-8),
    (GgmlType::BF16, 2e-8),
    (GgmlType::Q4_0, 1.2e-4),
    (GgmlType::Q4_1, 1.2e-4),
    (GgmlType::Q5_0, 1e-4),
    (GgmlType::Q5_1, 1e-4),
    (GgmlType::Q8_0, 5e-5),
    (GgmlType::Q2_K, 1.5e-4),
    (GgmlType::Q3_K, 1.5e-4),
    (GgmlType::Q4_K, 1.2e-4),
    (GgmlType::Q5_K, 1e-4),
    (GgmlType::Q6_K, 7.5e-5),
    (GgmlType::IQ4_NL, 1.2e-4),
    (GgmlType::IQ4_XS, 1.2e-4),
    (GgmlType::IQ1_S, 5e-5),
    (GgmlType::IQ1_M, 7.5e-5),
    (GgmlType::IQ2_XXS, 5e-5),
    (GgmlType::IQ2_XS, 7.5e-5),
    (GgmlType::IQ2_S, 7.5e-5),
    (GgmlType::IQ3_XXS, 5e-5),
    (GgmlType::IQ3_S, 5e-5),
    (GgmlType::TQ1_0, 5e-5),
    (GgmlType::TQ2_0, 5e-5),
    (GgmlType::Q1_0, 5e-5),
    (GgmlType::Q2_0, 5e-5),
    (GgmlType::MXFP4, 5e-5),
    (GgmlType::NVFP4, 7.5e-5),
];

/// The types that a few tokens meet in f32.
const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

/// The products of every definition that a table of this machine has.
fn wanted(w: &Weights, x: &[f32], len: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut all: Vec<(&str, Vec<f32>)> = Vec::new();
    for k in supported().into_iter().map(definition) {
        if all.iter().all(|(name, _)| *name != k.name) {
            let mut out = vec![f32::NAN; len];
            matmul(k, w.view(), x, &mut out);
            all.push((k.name, out));
        }
    }
    all
}

/// That of table `k`.
fn wanted_of<'a>(all: &'a [(&str, Vec<f32>)], k: &Kernels) -> &'a [f32] {
    &all.iter().find(|(name, _)| *name == definition(k).name).unwrap().1
}

fn scalar() -> &'static Kernels {
    let table = supported()[0];
    assert_eq!(table.name, "scalar");
    table
}

fn sizes(ty: GgmlType, rng: &mut Rng) -> (usize, usize, usize) {
    let blocks = match ty.block_len() {
        256 => 1 + rng.below(3),
        32 => 1 + rng.below(20),
        64 | 128 => 1 + rng.below(8),
        _ => 1 + rng.below(700),
    };
    (1 + rng.below(39), ty.block_len() * blocks, 1 + rng.below(167))
}

#[test]
fn the_list_of_types_is_complete() {
    let known = (0..64).filter_map(|id| GgmlType::from_id(id).ok()).filter(|ty| Panel::of(*ty).is_some());
    assert_eq!(known.count(), TYPES.len());
}

#[test]
fn every_table_agrees_with_scalar() {
    for (ty, _) in TYPES {
        for seed in seeds(12) {
            let mut rng = Rng(seed);
            let (n_tokens, n_cols, n_rows) = sizes(ty, &mut rng);
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let x = rng.vec(n_tokens * n_cols);
            let all = wanted(&w, &x, n_tokens * n_rows);
            for k in supported() {
                let want = wanted_of(&all, k);
                let mut out = vec![f32::NAN; n_tokens * n_rows];
                matmul(k, w.view(), &x, &mut out);
                for it in 0..n_tokens {
                    for r in 0..n_rows {
                        let terms = x[it * n_cols..][..n_cols].iter().zip(&w.decoded[r * n_cols..][..n_cols]);
                        let scale = terms.map(|(a, b)| (a * b).abs()).sum::<f32>();
                        let (got, want) = (out[it * n_rows + r], want[it * n_rows + r]);
                        let case = format!("{} {ty} seed {seed} ({n_tokens}, {n_cols}) x {n_rows}", k.name);
                        assert!((got - want).abs() <= 1e-5 * scale, "{case} at ({it}, {r}): {got} instead of {want}");
                    }
                }
            }
        }
    }
}

/// Around the sizes at which each table changes its ways: whole tiles, one more, one less, and nothing at all.
#[test]
fn products_at_the_edges_of_tiles() {
    let types = [
        (GgmlType::Q4_K, 256),
        (GgmlType::Q5_0, 96),
        (GgmlType::Q2_K, 768),
        (GgmlType::Q6_K, 512),
        (GgmlType::Q8_0, 288),
        (GgmlType::F16, 31),
    ];
    for (seed, (ty, n_cols)) in types.into_iter().enumerate() {
        for k in supported() {
            let layout = k.int8.layout;
            let near = |n: usize| [n - 1, n, n + 1];
            let tokens = [near(1), near(8), near(layout.tokens), near(layout.tokens + layout.tokens / 2)].concat();
            for n_rows in [near(layout.rows), near(1), near(2 * layout.rows)].concat() {
                let mut rng = Rng(seed as u64 + 600);
                let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
                for n_tokens in tokens.iter().copied() {
                    let x = rng.vec(n_tokens * n_cols);
                    let (mut got, mut want) = (vec![f32::NAN; n_tokens * n_rows], vec![f32::NAN; n_tokens * n_rows]);
                    matmul(k, w.view(), &x, &mut got);
                    matmul(definition(k), w.view(), &x, &mut want);
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        let (it, r) = (i / n_rows, i % n_rows);
                        let terms = x[it * n_cols..][..n_cols].iter().zip(&w.decoded[r * n_cols..][..n_cols]);
                        let scale = terms.map(|(a, b)| (a * b).abs()).sum::<f32>();
                        let case = format!("{} {ty} seed {seed} ({n_tokens}, {n_cols}) x {n_rows}", k.name);
                        assert!((got - want).abs() <= 1e-5 * scale, "{case} at ({it}, {r}): {got} instead of {want}");
                    }
                }
            }
        }
    }
}

/// Whoever decodes beside others hears nothing of them.
#[test]
fn a_few_tokens_get_what_each_gets_alone_bit_for_bit() {
    for (ty, _) in TYPES.into_iter().filter(|(ty, _)| !FLOATS.contains(ty)) {
        for n_tokens in 2..=MAX_DOT_TOKENS {
            let mut rng = Rng(n_tokens as u64 + 40);
            let (_, n_cols, n_rows) = sizes(ty, &mut rng);
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let x = rng.vec(n_tokens * n_cols);
            for k in supported() {
                let (mut together, mut alone) = (vec![f32::NAN; n_tokens * n_rows], vec![f32::NAN; n_tokens * n_rows]);
                matmul(k, w.view(), &x, &mut together);
                for (x, out) in x.chunks_exact(n_cols).zip(alone.chunks_exact_mut(n_rows)) {
                    matmul(k, w.view(), x, out);
                }
                assert_eq!(together, alone, "{} {ty} ({n_tokens}, {n_cols}) x {n_rows}", k.name);
            }
        }
    }
}

/// Vectors of another length, the same sums.
#[test]
fn tables_of_one_kind_of_products_decode_the_same_bits() {
    let tables = supported();
    let table = |name: &str| tables.iter().find(|k| k.name == name);
    for (half, whole) in [("avx2", "avx512"), ("avxvnni", "avx512vnni")] {
        let (Some(half), Some(whole)) = (table(half), table(whole)) else { continue };
        for (ty, _) in TYPES.into_iter().filter(|(ty, _)| !FLOATS.contains(ty)) {
            let mut rng = Rng(77);
            let (_, n_cols, n_rows) = sizes(ty, &mut rng);
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let x = rng.vec(n_cols);
            let (mut a, mut b) = (vec![f32::NAN; n_rows], vec![f32::NAN; n_rows]);
            matmul(half, w.view(), &x, &mut a);
            matmul(whole, w.view(), &x, &mut b);
            assert_eq!(a, b, "{} and {}: {ty} {n_cols} x {n_rows}", half.name, whole.name);
        }
    }
}

/// The numbers in a word; bytes are `excess` too large.
fn numbers(word: u32, of: Word, excess: i32) -> Vec<i32> {
    match of {
        Word::Bytes if excess == 0 => word.to_le_bytes().map(|b| b as i8 as i32).to_vec(),
        Word::Bytes => word.to_le_bytes().map(|b| b as i32 - excess).to_vec(),
        Word::Codes if excess != 0 => word.to_le_bytes().map(i32::from).to_vec(),
        Word::Signed | Word::Octets | Word::Codes => word.to_le_bytes().map(|b| b as i8 as i32).to_vec(),
        Word::Pairs => vec![word as i16 as i32, (word >> 16) as i16 as i32],
        Word::Float => vec![word as i32],
    }
}

/// The words of row `r` out of a panel of `rows`.
fn words_of_row(words: &[u32], rows: usize, r: usize, of: Word) -> Vec<u32> {
    // Of octets, two steps lie side by side.
    let n = if of == Word::Octets { 2 } else { 1 };
    words.chunks_exact(n * rows).flat_map(|steps| steps[n * r..][..n].to_vec()).collect()
}

/// The words of every chunk of every token, (n_chunks * n_tokens) rows of `steps`.
fn words_of_tokens(words: &[u32], n_tokens: usize, steps: usize, of: Word) -> Vec<Vec<u32>> {
    let mut rows: Vec<Vec<u32>> = words.chunks_exact(steps).map(<[u32]>::to_vec).collect();
    if of == Word::Octets {
        for chunk in rows.chunks_mut(n_tokens) {
            for pair in chunk.chunks_exact_mut(2) {
                let mixed = pair.concat();
                (0..2 * steps).for_each(|i| pair[i / 2 % 2][i / 4 * 2 + i % 2] = mixed[i]);
            }
        }
    }
    rows
}

#[test]
fn panels_hold_the_same_numbers_and_scales_in_every_table() {
    for (ty, _) in TYPES {
        for seed in 0..6 {
            let mut rng = Rng(seed + 100);
            let (_, n_cols, n_rows) = sizes(ty, &mut rng);
            let w = Weights::pack(ty, n_cols, n_rows.min(16), &rng.vec(n_cols * n_rows.min(16)));
            let n_chunks = n_cols.div_ceil(CHUNK);
            let pack = |k: &Kernels| {
                let layout = k.int8.layout;
                let panel = layout.panel(ty).unwrap();
                let (word, steps, groups) = (layout.word(panel.number), layout.w_words(panel), panel.w_scales());
                let (mut all, mut scales) = (Vec::new(), Vec::new());
                for rows in w.packed.chunks(layout.rows * w.view().row_bytes()) {
                    let mut words = vec![7; n_chunks * steps * layout.rows];
                    let mut out = vec![f32::NAN; n_chunks * groups * layout.rows];
                    let p = PackRows { rows, row_bytes: w.view().row_bytes(), chunks: 0..n_chunks, panel };
                    (k.int8.pack)(ty, p, &mut words, &mut out);
                    for r in 0..rows.len() / w.view().row_bytes() {
                        let words = words_of_row(&words, layout.rows, r, word);
                        all.push(words.into_iter().flat_map(|w| numbers(w, word, 128)).collect());
                        scales.push(out[r..].iter().step_by(layout.rows).map(|s| s.to_bits()).collect());
                    }
                }
                (all, scales)
            };
            let codes = supported().into_iter().find(|k| k.int8.layout.codes).map(definition);
            let definitions = [Some(scalar()), codes].map(|k| k.map(|k| (k, pack(k))));
            // The definitions themselves: scale times integer is the weight, within half a step and, for bytes, what 16-bit
            // numbers with eight bits for the fraction lose; floats are the weights; codes have a test of their own.
            for (k, want) in definitions.iter().flatten() {
                let (numbers, scales): &(Vec<Vec<i32>>, Vec<Vec<u32>>) = want;
                let panel = k.int8.layout.panel(ty).unwrap();
                let groups = panel.groups();
                for (i, exact) in w.decoded.iter().enumerate() {
                    let (r, c) = (i / n_cols, i % n_cols);
                    let case = format!("{} {ty} seed {seed} row {r} column {c}", k.name);
                    let (number, step) = (numbers[r][c], f32::from_bits(scales[r][c * panel.w_scales() / CHUNK]));
                    let error = (number as f32 * step - exact).abs();
                    match panel.number {
                        Number::F32 => assert_eq!((number as u32, step), (exact.to_bits(), 1.0), "{case}"),
                        Number::Int16 => {
                            assert!(error <= 0.505 * step, "{case}: off by {error} of {step}");
                            assert!(number.abs() <= panel.largest().0.into() && groups == scales[r].len() / n_chunks);
                        }
                        Number::Int8 => assert!(error <= 0.76 * step, "{case}: off by {error} of {step}"),
                        Number::Codes { .. } => (),
                    }
                }
            }
            for k in supported() {
                let [plain, codes] = &definitions;
                let (_, want) = if k.int8.layout.codes { codes } else { plain }.as_ref().unwrap();
                assert!(pack(k) == *want, "{} {ty} seed {seed} ({n_rows}, {n_cols})", k.name);
            }
        }
    }
}

/// Codes as they are, with their integer scales and offsets, are the weights, but for the rounding of scales and offsets.
#[test]
fn panels_of_codes_hold_the_weights() {
    let scalar = definition(supported().into_iter().find(|k| k.int8.layout.codes).unwrap_or(scalar()));
    for (ty, _) in TYPES {
        let layout = scalar.int8.layout;
        let Some(panel @ Panel { number: Number::Codes { max, affine }, group }) = layout.panel(ty) else { continue };
        for seed in 0..6 {
            let mut rng = Rng(seed + 150);
            let n_cols = ty.block_len() * (1 + rng.below(20));
            let w = Weights::pack(ty, n_cols, layout.rows, &rng.vec(n_cols * layout.rows));
            let (n_chunks, w_words) = (n_cols.div_ceil(CHUNK), layout.w_words(panel));
            let mut words = vec![7; n_chunks * w_words * layout.rows];
            let mut units = vec![f32::NAN; 2 * n_chunks * layout.rows];
            let row_bytes = w.view().row_bytes();
            let p = PackRows { rows: &w.packed, row_bytes, chunks: 0..n_chunks, panel };
            (scalar.int8.pack)(ty, p, &mut words, &mut units);
            for (i, exact) in w.decoded.iter().enumerate() {
                let (r, c, at) = (i / n_cols, i % n_cols / CHUNK, i % n_cols % CHUNK);
                let word = |n: usize| words[(c * w_words + n) * layout.rows + r];
                let (k, unit) = (at / group, [0, 1].map(|u| units[(2 * c + u) * layout.rows + r]));
                let code = word(at / 4).to_le_bytes()[at % 4];
                let scale = word(CHUNK / 4 + k) as i16;
                let offset = (word(CHUNK / 4 + CHUNK / group + k / 2) >> (16 * (k % 2))) as i16;
                let got = scale as f32 * unit[0] * code as f32 + offset as f32 * unit[affine as usize];
                // Of symmetric formats, the code of zero is the middle one.
                let zero = if affine { 0.0 } else { (max as f32 + 1.0) / 2.0 };
                let most = 0.51 * (unit[0].abs() * (code as f32 - zero).abs() + unit[1].abs());
                assert!(code <= max && (got - exact).abs() <= most, "{ty} seed {seed} weight {i}: {got} not {exact}");
            }
        }
    }
}

#[test]
fn activations_have_the_same_integers_and_scales_in_every_table() {
    let eight = [32, 64, 128, 256].map(|group| Panel { number: Number::Int8, group });
    let others = [
        Panel { number: Number::Int16, group: 32 },
        Panel { number: Number::Int16, group: 256 },
        Panel { number: Number::F32, group: CHUNK },
    ];
    let codes = [16, 32].map(|group| Panel { number: Number::Codes { max: 0, affine: false }, group });
    for seed in 0..20 {
        let mut rng = Rng(seed + 200);
        let (n_tokens, n_cols) = (1 + rng.below(4), 32 * (1 + rng.below(20)));
        let mut x = rng.vec(n_tokens * n_cols);
        x[..32].fill(0.0);
        let n_chunks = n_cols.div_ceil(CHUNK);
        let rows = |k: &Kernels| {
            let mut out = vec![RowChunk::ZERO; n_tokens * n_chunks];
            (k.int8.quantize_rows)(&x, n_cols, &mut out);
            let bits = |v: [f32; 16]| v.map(f32::to_bits);
            out.iter().map(|c| (c.q, bits(c.d), bits(c.s))).collect::<Vec<_>>()
        };
        let want = rows(scalar());
        for (i, x) in x.iter().enumerate() {
            let (chunk, at) = (&want[i / n_cols * n_chunks + i % n_cols / CHUNK], i % n_cols % CHUNK);
            let d = f32::from_bits(chunk.1[at / 16]);
            let error = chunk.0[at] as f32 * d - x;
            assert!(error.abs() <= 0.501 * d, "seed {seed} activation {i}: {error}");
        }
        for panel in eight.into_iter().chain(others).chain(codes) {
            let is_codes = matches!(panel.number, Number::Codes { .. });
            // Every table has another number of tokens per tile: all fit into the smallest.
            let tile = |k: &Kernels| {
                let (word, steps) = (k.int8.layout.word(panel.number), k.int8.layout.x_words(panel));
                let mut words = vec![7; n_chunks * steps * n_tokens];
                let n_scales = n_chunks * panel.x_scales() * n_tokens;
                let (mut scales, mut sums) = (vec![f32::NAN; n_scales], vec![7; n_scales]);
                let (words_of, scales_of, sums_of) = (&mut words[..], &mut scales[..], &mut sums[..]);
                let q = QuantizeTile { x: &x, n_cols, panel, words: words_of, scales: scales_of, sums: sums_of };
                (k.int8.quantize_tile)(q);
                let all: Vec<Vec<i32>> = words_of_tokens(&words, n_tokens, steps, word)
                    .iter()
                    .map(|w| w.iter().flat_map(|w| numbers(*w, word, 0)).collect())
                    .collect();
                for (i, row) in all.iter().enumerate() {
                    if is_codes {
                        // Behind the integers come the sums of the groups, 16 bits each.
                        let (row, sums) = row.split_at(CHUNK);
                        for (group, sum) in row.chunks_exact(panel.group).zip(sums.chunks_exact(2)) {
                            let sum = (sum[0] & 0xff | sum[1] << 8) as i16;
                            assert_eq!(group.iter().sum::<i32>(), sum as i32, "{} seed {seed} {panel:?}", k.name);
                        }
                        continue;
                    }
                    for (g, group) in row.chunks_exact(panel.group).enumerate() {
                        let at = (i / n_tokens * panel.groups() + g) * n_tokens + i % n_tokens;
                        let factor = if word == Word::Bytes { -128 } else { 0 };
                        let sum = if factor == 0 { 0 } else { factor * group.iter().sum::<i32>() };
                        assert_eq!(sums[at], sum, "{} seed {seed} {panel:?}", k.name);
                    }
                }
                (all, scales)
            };
            let want = tile(scalar());
            for (i, row) in want.0.iter().enumerate() {
                for (j, q) in row.iter().enumerate().take(CHUNK) {
                    let (it, c) = (i % n_tokens, i / n_tokens * CHUNK + j);
                    let exact = if c < n_cols { x[it * n_cols + c] } else { 0.0 };
                    let step = want.1[(c * panel.x_scales() / CHUNK) * n_tokens + it];
                    if panel.number == Number::F32 {
                        assert_eq!(
                            (f32::from_bits(*q as u32), step),
                            (exact, 1.0),
                            "seed {seed} token {it} column {c}"
                        );
                    } else {
                        let error = (*q as f32 * step - exact).abs();
                        assert!(error <= 0.501 * step, "seed {seed} {panel:?} token {it} column {c}: off by {error}");
                    }
                }
            }
            for k in supported().into_iter().filter(|k| !is_codes || k.int8.layout.codes) {
                assert!(rows(k) == rows(scalar()), "{} rows, seed {seed}", k.name);
                assert!(tile(k) == want, "{} seed {seed} {panel:?} ({n_tokens}, {n_cols})", k.name);
            }
        }
    }
}

/// Groups whose sums are as large as they can be: an i32 holds them. All rows are one, and inputs of one size have the signs of its
/// weights, which are equal where a type can be made here, and any blocks where it is only read.
#[test]
fn the_largest_sums_fit() {
    for (ty, _) in TYPES {
        let (n_cols, n_rows, n_tokens) = (512, 5, 13);
        for sign in [1.0, -1.0] {
            let row = Weights::pack(ty, n_cols, 1, &vec![0.75 * sign; n_cols]);
            let packed = row.packed.repeat(n_rows);
            let want: f64 = row.decoded.iter().map(|w| 3.0 * f64::from(w.abs())).sum();
            let x: Vec<f32> = row.decoded.iter().map(|w| 3.0f32.copysign(*w)).collect::<Vec<_>>().repeat(n_tokens);
            // Blocks of any kind are rounded; a sum that does not fit is wrong by far more.
            let most = if can_quantize(ty) { 1e-3 } else { 1e-2 };
            for k in supported() {
                let mut out = vec![f32::NAN; n_tokens * n_rows];
                matmul(k, MatView::new(ty, n_cols, n_rows, &packed).unwrap(), &x, &mut out);
                let fits = out.iter().all(|v| (f64::from(*v) / want - 1.0).abs() < most);
                assert!(fits, "{} {ty}: {out:?} not {want}", k.name);
            }
        }
    }
}

/// The error that products add, for many and for few tokens.
#[test]
fn products_stay_close_to_exact_ones() {
    for (ty, most) in TYPES {
        for (seed, n_tokens) in [(1, 24), (2, 4)] {
            let most = if n_tokens == 4 && FLOATS.contains(&ty) { 1e-12 } else { most };
            let (n_cols, n_rows) = (2048, 64);
            let mut rng = Rng(seed + 300);
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let x = rng.vec(n_tokens * n_cols);
            for k in supported() {
                let mut out = vec![f32::NAN; n_tokens * n_rows];
                matmul(k, w.view(), &x, &mut out);
                let (mut error, mut total) = (0.0, 0.0);
                for (i, got) in out.iter().enumerate() {
                    let (x, w) = (&x[i / n_rows * n_cols..][..n_cols], &w.decoded[i % n_rows * n_cols..][..n_cols]);
                    let exact: f64 = x.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64).sum();
                    error += (*got as f64 - exact).powi(2);
                    total += exact * exact;
                }
                let nmse = error / total;
                println!("{:<10} {ty:<6} {n_tokens:>2} tokens: NMSE {nmse:.2e}", k.name);
                assert!(nmse <= most, "{} {ty} {n_tokens} tokens: NMSE {nmse:.2e}, expected {most:.1e}", k.name);
            }
        }
    }
}

#[test]
fn one_input_serves_matrices_of_different_types() {
    let mut rng = Rng(400);
    for n_tokens in [3, 21] {
        let x = rng.vec(n_tokens * 256);
        let weights = TYPES.map(|(ty, _)| Weights::pack(ty, 256, 5, &rng.vec(256 * 5)));
        for k in supported() {
            let mut shared = Activations::new(k, &x, 256);
            for w in &weights {
                let (mut got, mut want) = (vec![f32::NAN; n_tokens * 5], vec![f32::NAN; n_tokens * 5]);
                shared.matmul(w.view(), &mut got);
                matmul(k, w.view(), &x, &mut want);
                assert_eq!(got, want, "{} {}", k.name, w.ty);
            }
        }
    }
}

/// Integers have no NaN: the scales carry what is not finite.
#[test]
fn what_is_not_finite_stays_visible() {
    let mut rng = Rng(500);
    for (ty, _) in TYPES {
        let w = Weights::pack(ty, 512, 3, &rng.vec(512 * 3));
        for n_tokens in [1, 13] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = rng.vec(n_tokens * 512);
                x[300] = bad;
                for k in supported() {
                    let mut out = vec![0.0; n_tokens * 3];
                    matmul(k, w.view(), &x, &mut out);
                    let case = format!("{} {ty} {n_tokens} tokens with {bad}", k.name);
                    assert!(out[..3].iter().all(|v| !v.is_finite()), "{case}: {:?}", &out[..3]);
                    assert!(out[3..].iter().all(|v| v.is_finite()), "{case}: reaches other tokens");
                }
            }
        }
    }
}

/// The same for weights, of which only the float types can be so.
#[test]
fn weights_that_are_not_finite_stay_visible() {
    let mut rng = Rng(600);
    for ty in FLOATS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (n_cols, n_rows) = (600, 5);
            let mut floats = rng.vec(n_rows * n_cols);
            floats[2 * n_cols + 300] = bad;
            let mut packed = vec![0; n_rows * ty.row_bytes(n_cols).unwrap()];
            quantize_row(ty, &floats, &mut packed, None).unwrap();
            for n_tokens in [1, 13] {
                let x = rng.vec(n_tokens * n_cols);
                for k in supported() {
                    let mut out = vec![0.0; n_tokens * n_rows];
                    matmul(k, MatView::new(ty, n_cols, n_rows, &packed).unwrap(), &x, &mut out);
                    for (i, v) in out.iter().enumerate() {
                        let case = format!("{} {ty} {n_tokens} tokens with {bad} at {i}: {v}", k.name);
                        assert_eq!(v.is_finite(), i % n_rows != 2, "{case}");
                    }
                }
            }
        }
    }
}

/// An epilogue gives, bit for bit, what the same operations do on the product afterwards.
#[test]
fn an_epilogue_is_what_could_follow() {
    for ty in [GgmlType::Q4_K, GgmlType::Q8_0, GgmlType::F16, GgmlType::F32] {
        for (seed, n_tokens) in [1, 7, 9, 61].into_iter().enumerate() {
            let mut rng = Rng(seed as u64 + 700);
            let (n_cols, n_rows) = (512, 1 + rng.below(300));
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let (x, bias, before) = (rng.vec(n_tokens * n_cols), rng.vec(n_rows), rng.vec(n_tokens * n_rows));
            for k in supported() {
                let mut plain = vec![f32::NAN; n_tokens * n_rows];
                matmul(k, w.view(), &x, &mut plain);
                let gelus = [None, Some(Gelu::Quick), Some(Gelu::Tanh)];
                for (with_bias, gelu, add) in (0..12).map(|i| (i & 1 != 0, gelus[i / 4], i & 2 != 0)) {
                    let mut want = plain.clone();
                    for (i, v) in want.iter_mut().enumerate().filter(|_| with_bias) {
                        *v += bias[i % n_rows];
                    }
                    match gelu {
                        Some(Gelu::Quick) => (k.quick_gelu)(&mut want),
                        Some(Gelu::Tanh) => (k.gelu_tanh)(&mut want),
                        None => (),
                    }
                    for (v, before) in want.iter_mut().zip(&before).filter(|_| add) {
                        *v += before;
                    }
                    let mut got = before.clone();
                    let epilogue = Epilogue { bias: with_bias.then_some(&bias[..]), gelu, add };
                    matmul_with(k, w.view(), &x, epilogue, &mut got);
                    assert!(got == want, "{} {ty} ({n_tokens}, {n_cols}) x {n_rows}: {epilogue:?}", k.name);
                }
            }
        }
    }
}

/// The same for two matrices at once, of one type or of two.
#[test]
fn a_gated_product_is_two_products() {
    let pairs = [
        (GgmlType::Q4_K, GgmlType::Q4_K),
        (GgmlType::Q4_K, GgmlType::Q6_K),
        (GgmlType::F16, GgmlType::Q8_0),
        (GgmlType::F32, GgmlType::BF16),
    ];
    for (gate_ty, up_ty) in pairs {
        for (seed, n_tokens) in [1, 8, 9, 61].into_iter().enumerate() {
            let mut rng = Rng(seed as u64 + 800);
            let (n_cols, n_rows) = (512, 1 + rng.below(300));
            let gate = Weights::pack(gate_ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let up = Weights::pack(up_ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let (x, biases) = (rng.vec(n_tokens * n_cols), [rng.vec(n_rows), rng.vec(n_rows)]);
            for k in supported() {
                let [mut want, mut other, mut got] = [(); 3].map(|()| vec![f32::NAN; n_tokens * n_rows]);
                for [of_gate, of_up] in
                    [[None, None], [Some(&biases[0][..]), Some(&biases[1][..])], [None, Some(&biases[0])]]
                {
                    let with = |bias| Epilogue { bias, ..Epilogue::default() };
                    matmul_with(k, gate.view(), &x, with(of_gate), &mut want);
                    matmul_with(k, up.view(), &x, with(of_up), &mut other);
                    (k.silu_mul)(&mut want, &other);
                    let (gate, up) = ((gate.view(), of_gate), (up.view(), of_up));
                    Activations::new(k, &x, n_cols).matmul_gated(gate, up, &mut got);
                    assert!(got == want, "{} {gate_ty} {up_ty} ({n_tokens}, {n_cols}) x {n_rows}", k.name);
                }
            }
        }
    }
}
