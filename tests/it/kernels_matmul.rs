//! Products with quantized weights: every table against the scalar definition at odd sizes, integers exactly, and the
//! definition against exact products of the decoded weights.

use longtake::gguf::GgmlType;
use longtake::kernels::{
    Activations, CHUNK, Kernels, PackRows, QuantizeTile, RowChunk, Word, matmul, panel_group, supported,
};
use longtake::tensor::{MatView, dequantize_row, quantize_row};

/// A small generator (splitmix64) of roughly normal numbers: seeds appear in every message.
struct Rng(u64);

impl Rng {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Variance 1: the sum of twelve numbers of variance 1/3, halved.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() / 2.0
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.uniform() + 1.0) / 2.0 * n as f32) as usize % n
    }
}

/// Every type whose products are integer, with the NMSE that its products may have against exact ones of the decoded
/// weights: activations alone cost about 2.3e-5 with scales per 32 and 4.6e-5 with scales per 256.
const TYPES: [(GgmlType, f64); 12] = [
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
];

/// Packed weights of one matrix, and what they decode to.
struct Weights {
    ty: GgmlType,
    n_cols: usize,
    n_rows: usize,
    packed: Vec<u8>,
    decoded: Vec<f32>,
}

impl Weights {
    fn random(ty: GgmlType, n_cols: usize, n_rows: usize, rng: &mut Rng) -> Weights {
        let mut packed = vec![0; n_rows * ty.row_bytes(n_cols).unwrap()];
        quantize_row(ty, &rng.vec(n_rows * n_cols), &mut packed, None).unwrap();
        let mut decoded = vec![0.0; n_rows * n_cols];
        dequantize_row(ty, &packed, &mut decoded).unwrap();
        Weights { ty, n_cols, n_rows, packed, decoded }
    }

    fn view(&self) -> MatView<'_> {
        MatView::new(self.ty, self.n_cols, self.n_rows, &self.packed).unwrap()
    }

    fn row_bytes(&self) -> usize {
        self.ty.row_bytes(self.n_cols).unwrap()
    }
}

fn scalar() -> &'static Kernels {
    let table = supported()[0];
    assert_eq!(table.name, "scalar");
    table
}

fn sizes(ty: GgmlType, rng: &mut Rng) -> (usize, usize, usize) {
    let n_cols = ty.block_len() * (1 + rng.below(if ty.block_len() == 256 { 3 } else { 20 }));
    (1 + rng.below(19), n_cols, 1 + rng.below(67))
}

#[test]
fn the_list_of_types_is_complete() {
    let integer = (0..64).filter_map(|id| GgmlType::from_id(id).ok()).filter(|ty| panel_group(*ty).is_some());
    assert_eq!(integer.count(), TYPES.len());
}

#[test]
fn every_table_agrees_with_scalar() {
    for (ty, _) in TYPES {
        for seed in 0..12 {
            let mut rng = Rng(seed);
            let (n_tokens, n_cols, n_rows) = sizes(ty, &mut rng);
            let w = Weights::random(ty, n_cols, n_rows, &mut rng);
            let x = rng.vec(n_tokens * n_cols);
            let mut want = vec![f32::NAN; n_tokens * n_rows];
            matmul(scalar(), w.view(), &x, &mut want);
            for k in supported() {
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
    for (seed, (ty, n_cols)) in
        [(GgmlType::Q4_K, 256), (GgmlType::Q6_K, 512), (GgmlType::Q8_0, 288), (GgmlType::Q5_0, 32)]
            .into_iter()
            .enumerate()
    {
        for k in supported() {
            let layout = k.int8.layout;
            let near = |n: usize| [n - 1, n, n + 1];
            let mut tokens = [near(1), near(8), near(layout.tokens), near(2 * layout.tokens)].concat();
            tokens.push(layout.tokens + layout.token_step);
            for n_rows in [near(layout.rows), near(1), near(2 * layout.rows)].concat() {
                let mut rng = Rng(seed as u64 + 600);
                let w = Weights::random(ty, n_cols, n_rows, &mut rng);
                for n_tokens in tokens.iter().copied() {
                    let x = rng.vec(n_tokens * n_cols);
                    let (mut got, mut want) = (vec![f32::NAN; n_tokens * n_rows], vec![f32::NAN; n_tokens * n_rows]);
                    matmul(k, w.view(), &x, &mut got);
                    matmul(scalar(), w.view(), &x, &mut want);
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

/// The integers (n, n_cols padded) in the words of a panel or of a tile of tokens with `width` lanes per step.
fn integers(words: &[u32], width: usize, n: usize, word: Word, excess: i32) -> Vec<Vec<i32>> {
    let lane = |i: usize| {
        // Of octets, two steps lie side by side.
        let side_by_side = if word == Word::Octets { 2 } else { 1 };
        let words =
            words.chunks_exact(side_by_side * width).flat_map(move |steps| &steps[side_by_side * i..][..side_by_side]);
        words.flat_map(move |w| match word {
            Word::Bytes => {
                w.to_le_bytes().map(|b| if excess == 0 { b as i8 as i32 } else { b as i32 - excess }).to_vec()
            }
            Word::Signed | Word::Octets => w.to_le_bytes().map(|b| b as i8 as i32).to_vec(),
            Word::Pairs => vec![*w as i16 as i32, (*w >> 16) as i16 as i32],
        })
    };
    (0..n).map(|i| lane(i).collect()).collect()
}

#[test]
fn panels_hold_the_same_integers_and_scales_in_every_table() {
    for (ty, _) in TYPES {
        for seed in 0..6 {
            let mut rng = Rng(seed + 100);
            let (_, n_cols, n_rows) = sizes(ty, &mut rng);
            let w = Weights::random(ty, n_cols, n_rows.min(16), &mut rng);
            let n_chunks = n_cols.div_ceil(CHUNK);
            let groups = CHUNK / panel_group(ty).unwrap();
            let pack = |k: &Kernels| {
                let layout = k.int8.layout;
                let (mut all, mut scales) = (Vec::new(), Vec::new());
                for rows in w.packed.chunks(layout.rows * w.row_bytes()) {
                    let mut words = vec![7; n_chunks * layout.steps() * layout.rows];
                    let mut out = vec![f32::NAN; n_chunks * groups * layout.rows];
                    let p = PackRows { rows, row_bytes: w.row_bytes(), chunks: 0..n_chunks };
                    (k.int8.pack)(ty, p, &mut words, &mut out);
                    let n = rows.len() / w.row_bytes();
                    all.extend(integers(&words, layout.rows, n, layout.word, 128));
                    scales.extend((0..n).map(|r| out[r..].iter().step_by(layout.rows).map(|s| s.to_bits()).collect()));
                }
                (all, scales)
            };
            let want: (Vec<Vec<i32>>, Vec<Vec<u32>>) = pack(scalar());
            // The definition itself: scale times integer is the weight, within half a step and what 16-bit numbers with
            // eight bits for the fraction lose.
            for (r, (integers, scales)) in want.0.iter().zip(&want.1).enumerate() {
                for c in 0..n_cols {
                    let step = f32::from_bits(scales[c * groups / CHUNK]);
                    let error = integers[c] as f32 * step - w.decoded[r * n_cols + c];
                    assert!(
                        error.abs() <= 0.76 * step,
                        "{ty} seed {seed} row {r} column {c}: off by {error} of {step}"
                    );
                }
            }
            for k in supported() {
                assert!(pack(k) == want, "{} {ty} seed {seed} ({n_rows}, {n_cols})", k.name);
            }
        }
    }
}

#[test]
fn activations_have_the_same_integers_and_scales_in_every_table() {
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
        for group in [32, 64, 128, 256] {
            let tile = |k: &Kernels| {
                let layout = k.int8.layout;
                let width = layout.tokens;
                let n = n_tokens.min(width);
                let mut words = vec![7; n_chunks * layout.steps() * width];
                let n_scales = n_chunks * (CHUNK / group) * width;
                let (mut scales, mut sums) = (vec![f32::NAN; n_scales], vec![7; n_scales]);
                let x = &x[..n * n_cols];
                let (words_of, scales_of, sums_of) = (&mut words[..], &mut scales[..], &mut sums[..]);
                let q = QuantizeTile { x, n_cols, width, group, words: words_of, scales: scales_of, sums: sums_of };
                (k.int8.quantize_tile)(q);
                let all = integers(&words, width, width, layout.word, 0);
                assert!(all[n..].iter().flatten().all(|q| *q == 0), "{} pads with {:?}", k.name, all[n]);
                for (it, row) in all.iter().enumerate() {
                    for (g, group) in row.chunks_exact(group).enumerate() {
                        let factor = if layout.word == Word::Bytes { -128 } else { 0 };
                        assert_eq!(sums[g * width + it], factor * group.iter().sum::<i32>(), "{} seed {seed}", k.name);
                    }
                }
                let bits = |it: usize| scales[it..].iter().step_by(width).map(|s| s.to_bits()).collect::<Vec<_>>();
                (all[..n].to_vec(), (0..n).map(bits).collect::<Vec<_>>())
            };
            let want = tile(scalar());
            for k in supported() {
                assert!(rows(k) == rows(scalar()), "{} rows, seed {seed}", k.name);
                assert!(tile(k) == want, "{} seed {seed} group {group} ({n_tokens}, {n_cols})", k.name);
            }
        }
    }
}

/// The error that integer products add, for many and for few tokens.
#[test]
fn products_stay_close_to_exact_ones() {
    for (ty, most) in TYPES {
        for (seed, n_tokens) in [(1, 24), (2, 4)] {
            let (n_cols, n_rows) = (2048, 64);
            let mut rng = Rng(seed + 300);
            let w = Weights::random(ty, n_cols, n_rows, &mut rng);
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
        let weights = TYPES.map(|(ty, _)| Weights::random(ty, 256, 5, &mut rng));
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
        let w = Weights::random(ty, 512, 3, &mut rng);
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
