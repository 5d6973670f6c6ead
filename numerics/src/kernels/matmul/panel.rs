//! Prefill: tiles of weight rows become panels of numbers that a product takes as they are, once for a whole batch, and so
//! do tiles of activations.
//!
//! - Quantized weights become 8-bit integers with one f32 scale per row and group of 32 to 256 columns, so that products of
//!   whole groups add up as integers. For Q8_0, with groups of 32, the panel holds the weights themselves. Other formats
//!   are rounded to the 255 steps of their group: the error of that is far below their own;
//!   `numerics/tests/tables/kernels_matmul.rs` bounds it per format.
//! - F16 and BF16 weights become 16-bit integers in groups of 32 columns ([`Panel::largest`](super::ops::Panel::largest)). Rounding costs about what that
//!   of F16 itself does.
//! - F32 weights stay what they are.
//! - Where a machine multiplies unsigned bytes with signed ones into 16 bits, codes of up to 63 stay what they are; their
//!   scales per 16 or 32 columns become integers in units of a float per row and 256 columns. What that rounds off is a
//!   thousandth of what rounding the activations does. Larger codes become 16-bit integers, scales and all, in groups of 256.

use super::codes::{CHUNK, Chunk, Codes, SUB};
use super::dot::{STEP, unpack_chunk, whole_chunk};
use super::lanes::{Lanes, ROUND, inverse_of, ratio};
use super::ops::{Int8Isa, Number, PackRows, QuantizeTile, Word};
use crate::ggml_type::GgmlType;
use crate::kernels::prefetch;

/// The most rows that a tile of any instruction set has.
const MAX_ROWS: usize = 32;

/// Zero as weights are stored: 128 too large.
const ZERO: u8 = 128;

/// Chunks of activations between the one being quantized and the one asked for.
const AHEAD: usize = 3;

/// What bringing rows into their panel starts with.
///
/// # Panics
/// When lengths disagree.
#[inline(always)]
pub(crate) fn check_pack<I: Int8Isa>(p: &PackRows<'_>, words: &[u32], scales: &mut [f32]) {
    let (panel, n, rows, n_chunks) = (p.panel, p.rows.len() / p.row_bytes, I::LAYOUT.rows, p.chunks.len());
    assert!(rows <= MAX_ROWS && n <= rows && p.rows.len() == n * p.row_bytes);
    assert!(words.len() == n_chunks * I::LAYOUT.w_words(panel) * rows);
    assert!(scales.len() == n_chunks * panel.w_scales() * rows);
    // Rows that are not there count as zeros.
    scales.fill(if panel.number == Number::F32 { 1.0 } else { 0.0 });
}

/// Brings rows of `F` into their panel, behind [`check_pack`].
///
/// # Panics
/// For a panel that this format has not.
#[inline(always)]
pub(crate) fn pack<I: Int8Isa, F: Codes>(p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    match p.panel.number {
        Number::Int8 if !I::LAYOUT.codes => pack_8::<I, F>(p, words, scales),
        Number::Int16 if I::CODES && !F::NARROW => pack_wide::<I, F>(p, words, scales),
        Number::Codes { .. } if I::CODES && F::NARROW => pack_codes::<I, F>(p, words, scales),
        number => panic!("no panel of {number:?} for this format"),
    }
}

/// Brings rows of floats into their panel, behind [`check_pack`].
#[inline(always)]
pub(crate) fn pack_floats<I: Int8Isa>(ty: GgmlType, p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    match p.panel.number {
        Number::F32 => pack_32::<I>(p, words),
        number => {
            assert!(number == Number::Int16 && matches!(ty, GgmlType::F16 | GgmlType::BF16), "{ty} in {number:?}");
            pack_16::<I>(ty, p, words, scales);
        }
    }
}

#[inline(always)]
fn pack_8<I: Int8Isa, F: Codes>(p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    let (rows, n_groups, steps) = (I::LAYOUT.rows, CHUNK / F::GROUP, I::LAYOUT.steps(Number::Int8));
    // Where words hold signed bytes, the top bit changes.
    let flip = if matches!(I::LAYOUT.int8, Word::Signed | Word::Octets) { ZERO } else { 0 };
    let mut integers = [[ZERO ^ flip; CHUNK]; MAX_ROWS];
    let words = words.chunks_exact_mut(steps * rows);
    for (c, (words, scales)) in p.chunks.zip(words.zip(scales.chunks_exact_mut(n_groups * rows))) {
        for (r, row) in p.rows.chunks_exact(p.row_bytes).enumerate() {
            let of_groups = requantize::<I::Lanes, F>(unpack_chunk::<I::Lanes, F>(row, c), flip, &mut integers[r]);
            for (g, scale) in of_groups.into_iter().take(n_groups).enumerate() {
                scales[g * rows + r] = scale;
            }
        }
        match I::LAYOUT.int8 {
            Word::Octets => interleave_octets(&integers[..rows], words),
            Word::Bytes | Word::Signed => I::transpose(bytemuck::cast_slice(&integers[..rows]), steps, words),
            _ => {
                let mut wide = [[0; CHUNK]; MAX_ROWS];
                for (wide, integers) in wide.iter_mut().zip(&integers[..rows]) {
                    widen(integers, wide, ZERO);
                }
                I::transpose(bytemuck::cast_slice(&wide[..rows]), steps, words);
            }
        }
    }
}

/// Eight columns of every row in turn.
#[inline(always)]
fn interleave_octets(rows: &[[u8; CHUNK]], words: &mut [u32]) {
    let words = words.as_chunks_mut::<2>().0;
    for (r, row) in rows.iter().enumerate() {
        for (j, octet) in row.as_chunks::<8>().0.iter().enumerate() {
            words[j * rows.len() + r] = bytemuck::cast(*octet);
        }
    }
}

/// A chunk as integers, 128 too large but for the bits of `flip`, and the scales of its groups.
#[inline(always)]
fn requantize<L: Lanes, F: Codes>(mut chunk: Chunk<L>, flip: u8, out: &mut [u8; CHUNK]) -> [f32; CHUNK / 32] {
    let mut scales = [[0.0; 8]; 2];
    let exact = F::MAX_CODE == u8::MAX && F::GROUP == 32;
    if exact {
        for (a, scales) in chunk.a.into_iter().zip(&mut scales) {
            L::put_floats(a, scales);
        }
    } else {
        // The range is that of the possible codes, which a block nearly always uses up.
        let tops = L::range(chunk.a, chunk.b, F::MAX_CODE as f32, F::GROUP / SUB);
        for half in 0..2 {
            let inverse = L::inverse(tops[half]);
            L::put_floats(L::mul(tops[half], STEP), &mut scales[half]);
            let [a, b] = L::fixed_point(chunk.a[half], chunk.b[half], inverse, F::CENTERED);
            for (k, codes) in chunk.codes[4 * half..][..4].iter_mut().enumerate() {
                let second = 2 * k + !F::WIDE as usize;
                *codes = L::requantize(*codes, [a[2 * k], a[second]], [b[2 * k], b[second]]);
            }
        }
    }
    for (codes, out) in chunk.codes.into_iter().zip(out.as_chunks_mut::<32>().0) {
        L::put_bytes(L::xor(codes, flip), out);
    }
    let mut of_groups = [0.0; CHUNK / 32];
    for (g, scale) in of_groups.iter_mut().take(CHUNK / F::GROUP).enumerate() {
        *scale = scales.as_flattened()[g * (F::GROUP / SUB)];
    }
    of_groups
}

#[inline(always)]
fn pack_codes<I: Int8Isa, F: Codes>(p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    const MOST_WORDS: usize = 96;
    let (rows, w_words) = (I::LAYOUT.rows, I::LAYOUT.w_words(p.panel));
    let mut of_rows = [0u32; MOST_WORDS * MAX_ROWS];
    let of_rows = &mut of_rows[..w_words * rows];
    let words = words.chunks_exact_mut(w_words * rows);
    for (c, (words, scales)) in p.chunks.zip(words.zip(scales.chunks_exact_mut(2 * rows))) {
        for (r, (row, to)) in p.rows.chunks_exact(p.row_bytes).zip(of_rows.chunks_exact_mut(w_words)).enumerate() {
            let chunk = unpack_chunk::<I::Lanes, F>(row, c);
            [scales[r], scales[rows + r]] = codes_of_row::<I::Lanes, F>(chunk, to);
        }
        I::transpose(of_rows, w_words, words);
    }
}

/// The codes, scales and offsets of a chunk, and what 1 of the scales and of the offsets is worth; see [`Word::Codes`].
#[inline(always)]
fn codes_of_row<L: Lanes, F: Codes>(chunk: Chunk<L>, to: &mut [u32]) -> [f32; 2] {
    const SUBS: usize = CHUNK / SUB;
    let apart = 1 + F::WIDE as usize;
    let groups = SUBS / apart;
    let (codes, to) = to.split_at_mut(CHUNK / 4);
    assert!(to.len() >= groups + groups / 2);
    for (codes, to) in chunk.codes.into_iter().zip(bytemuck::cast_slice_mut::<_, u8>(codes).as_chunks_mut::<32>().0) {
        L::put_bytes(codes, to);
    }
    let floats = |v: [L::Floats; 2]| {
        let mut floats = [0.0; SUBS];
        for (v, floats) in v.into_iter().zip(floats.as_chunks_mut().0) {
            L::put_floats(v, floats);
        }
        floats
    };
    let (scales, scale) = integers::<SUBS>(floats(chunk.a), largest_scale(F::MAX_CODE, F::ZERO));
    let (offsets, offset) = match F::ZERO {
        Some(zero) => (scales.map(|scale| scale.wrapping_mul(u32::from(zero)).wrapping_neg()), 0.0),
        None => integers(floats(chunk.b), i16::MAX as f32),
    };
    let twice = scales.map(|scale| scale & 0xffff | scale << 16);
    for k in 0..groups {
        to[k] = twice[k * apart];
    }
    for k in 0..groups / 2 {
        to[groups + k] = offsets[2 * k * apart] & 0xffff | offsets[(2 * k + 1) * apart] << 16;
    }
    [scale, offset]
}

/// The largest integer scale: sums over 256 columns fit into 32 bits, and offsets into 16.
const fn largest_scale(max_code: u8, zero: Option<u8>) -> f32 {
    match zero {
        Some(zero) => (i16::MAX as i32 / zero as i32) as f32,
        None => (i32::MAX / (CHUNK as i32 * 127 * max_code as i32)) as f32,
    }
}

/// Numbers as integers up to `most`, of which the lower 16 bits count, and what 1 of them is worth. What is not finite makes the
/// unit so.
#[inline(always)]
fn integers<const N: usize>(x: [f32; N], most: f32) -> ([u32; N], f32) {
    let top = f32::from_bits(x.iter().fold(0, |top, x| top.max(x.to_bits() & 0x7fff_ffff)));
    let inverse = ratio(most, top);
    (x.map(|x| (x * inverse + ROUND).to_bits()), top / most)
}

#[inline(always)]
fn pack_wide<I: Int8Isa, F: Codes>(p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    let (rows, steps, most) = (I::LAYOUT.rows, I::LAYOUT.steps(Number::Int16), f32::from(p.panel.largest().0));
    let mut integers = [[0i16; CHUNK]; MAX_ROWS];
    for (c, (words, scales)) in p.chunks.zip(words.chunks_exact_mut(steps * rows).zip(scales.chunks_exact_mut(rows))) {
        for (r, row) in p.rows.chunks_exact(p.row_bytes).enumerate() {
            scales[r] = wide_row::<I::Lanes, F>(unpack_chunk::<I::Lanes, F>(row, c), most, &mut integers[r]);
        }
        I::transpose(bytemuck::cast_slice(&integers[..rows]), steps, words);
    }
}

/// A chunk as integers up to `most`, and what 1 of them is worth. What is not finite makes that so.
#[inline(always)]
fn wide_row<L: Lanes, F: Codes>(chunk: Chunk<L>, most: f32, out: &mut [i16; CHUNK]) -> f32 {
    let mut tops = [0.0; 8];
    L::put_floats(L::range(chunk.a, chunk.b, F::MAX_CODE as f32, CHUNK / SUB)[0], &mut tops);
    let inverse = ratio(most, tops[0]);
    let (mut a, mut b) = ([0.0; CHUNK / SUB], [0.0; CHUNK / SUB]);
    for (v, to) in chunk.a.into_iter().zip(a.as_chunks_mut().0).chain(chunk.b.into_iter().zip(b.as_chunks_mut().0)) {
        L::put_floats(L::mul(v, inverse), to);
    }
    let mut codes = [0; CHUNK];
    for (v, to) in chunk.codes.into_iter().zip(codes.as_chunks_mut().0) {
        L::put_bytes(v, to);
    }
    let subs = codes.as_chunks::<SUB>().0.iter().zip(out.as_chunks_mut::<SUB>().0);
    for ((codes, out), (a, b)) in subs.zip(a.into_iter().zip(b)) {
        for (code, out) in codes.iter().zip(out) {
            *out = (f32::from(*code) * a + b + ROUND).to_bits() as i16;
        }
    }
    tops[0] / most
}

#[inline(always)]
fn pack_16<I: Int8Isa>(ty: GgmlType, p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    const BYTES: usize = 2;
    let (rows, steps) = (I::LAYOUT.rows, I::LAYOUT.steps(Number::Int16));
    let (group, most) = (p.panel.group, f32::from(p.panel.largest().0));
    let mut integers = [[0i16; CHUNK]; MAX_ROWS];
    let words = words.chunks_exact_mut(steps * rows);
    for (c, (words, scales)) in p.chunks.zip(words.zip(scales.chunks_exact_mut(CHUNK / group * rows))) {
        for (r, row) in p.rows.chunks_exact(p.row_bytes).enumerate() {
            let (mut floats, mut padded) = ([0.0; CHUNK], [0; CHUNK * BYTES]);
            let bytes = whole_chunk(chunk_of(row, c * CHUNK * BYTES, CHUNK * BYTES), &mut padded);
            decode_16::<I::Lanes>(ty, bytes, &mut floats);
            let groups = floats.chunks_exact(group).zip(integers[r].chunks_exact_mut(group));
            for (g, (floats, integers)) in groups.enumerate() {
                scales[g * rows + r] = quantize_16::<I::Lanes>(floats, most, integers);
            }
        }
        I::transpose(bytemuck::cast_slice(&integers[..rows]), steps, words);
    }
}

/// F16 or BF16 numbers.
#[inline(always)]
fn decode_16<L: Lanes>(ty: GgmlType, src: &[u8; 2 * CHUNK], dst: &mut [f32; CHUNK]) {
    for (src, dst) in src.as_chunks::<16>().0.iter().zip(dst.as_chunks_mut::<8>().0) {
        let mut bits = [0; 8];
        for (bits, src) in bits.iter_mut().zip(src.as_chunks::<2>().0) {
            *bits = u16::from_le_bytes(*src);
        }
        if ty == GgmlType::F16 {
            L::put_floats(L::f16s(bits), dst);
        } else {
            *dst = bits.map(|bits| f32::from_bits((bits as u32) << 16));
        }
    }
}

/// The integers of a group, up to `most`, and their scale. What is not finite makes the scale so.
#[inline(always)]
fn quantize_16<L: Lanes>(x: &[f32], most: f32, out: &mut [i16]) -> f32 {
    let top = f32::from_bits(L::top(x.as_chunks::<32>().0));
    let inverse = ratio(most, top);
    for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (x, out) in x.iter().zip(out) {
            *out = (*x * inverse + ROUND).to_bits() as i16;
        }
    }
    top * (1.0 / most)
}

#[inline(always)]
fn pack_32<I: Int8Isa>(p: PackRows<'_>, words: &mut [u32]) {
    const BYTES: usize = 4;
    let (rows, steps) = (I::LAYOUT.rows, I::LAYOUT.steps(Number::F32));
    let mut floats = [[0u8; CHUNK * BYTES]; MAX_ROWS];
    for (c, words) in p.chunks.zip(words.chunks_exact_mut(steps * rows)) {
        for (row, floats) in p.rows.chunks_exact(p.row_bytes).zip(&mut floats) {
            let src = chunk_of(row, c * CHUNK * BYTES, CHUNK * BYTES);
            floats[..src.len()].copy_from_slice(src);
            floats[src.len()..].fill(0);
        }
        I::transpose(bytemuck::cast_slice(&floats[..rows]), steps, words);
    }
}

/// Up to `n` elements from the one at `at` on.
#[inline(always)]
fn chunk_of<T>(row: &[T], at: usize, n: usize) -> &[T] {
    &row[at..row.len().min(at + n)]
}

/// Brings a tile of activations into the form of `q.panel`.
///
/// # Panics
/// When lengths disagree.
#[inline(always)]
pub(crate) fn quantize_tile<I: Int8Isa>(q: QuantizeTile<'_>) {
    let (panel, n, n_chunks) = (q.panel, q.x.len() / q.n_cols, q.n_cols.div_ceil(CHUNK));
    let steps = I::LAYOUT.x_words(panel);
    assert!(q.x.len() == n * q.n_cols && q.words.len() == n_chunks * n * steps);
    assert!(q.scales.len() == n_chunks * n * panel.x_scales() && q.sums.len() == q.scales.len());
    match panel.number {
        Number::Int8 => {}
        Number::Int16 | Number::Codes { .. } => q.sums.fill(0),
        Number::F32 => {
            q.scales.fill(1.0);
            q.sums.fill(0);
        }
    }
    let mut wide = [0i16; CHUNK];
    // Token by token, as they lie in memory.
    for (t, c) in (0..n).flat_map(|t| (0..n_chunks).map(move |c| (t, c))) {
        let words = &mut q.words[(c * n + t) * steps..][..steps];
        prefetch::read(q.x.as_ptr().wrapping_add(t * q.n_cols + (c + AHEAD) * CHUNK).cast(), CHUNK * size_of::<f32>());
        let mut padded = [0.0; CHUNK];
        let x = whole_chunk(chunk_of(&q.x[t * q.n_cols..][..q.n_cols], c * CHUNK, CHUNK), &mut padded);
        let place = |g: usize| (c * panel.groups() + g) * n + t;
        match (panel.number, I::LAYOUT.int8) {
            (Number::Int8, Word::Bytes | Word::Signed | Word::Octets) => {
                let out = bytemuck::cast_slice_mut(words).try_into().expect("a word holds four");
                quantize_8::<I>(x, panel.group, out, place, q.scales, q.sums);
            }
            (Number::Int8, _) => {
                let mut integers = [0; CHUNK];
                quantize_8::<I>(x, panel.group, &mut integers, place, q.scales, q.sums);
                // The integers are signed already.
                for (wide, q) in wide.iter_mut().zip(integers) {
                    *wide = q as i8 as i16;
                }
                words.copy_from_slice(bytemuck::cast_slice(&wide));
            }
            (Number::Int16, _) => {
                let most = f32::from(panel.largest().1);
                for (g, (x, wide)) in x.chunks_exact(panel.group).zip(wide.chunks_exact_mut(panel.group)).enumerate() {
                    q.scales[place(g)] = quantize_16::<I::Lanes>(x, most, wide);
                }
                words.copy_from_slice(bytemuck::cast_slice(&wide));
            }
            (Number::F32, _) => words.copy_from_slice(bytemuck::cast_slice(x)),
            (Number::Codes { .. }, _) => q.scales[c * n + t] = quantize_codes::<I::Lanes>(x, panel.group, words),
        }
    }
    if (panel.number, I::LAYOUT.int8) == (Number::Int8, Word::Octets) {
        for words in q.words.chunks_exact_mut(n * steps) {
            words.chunks_exact_mut(2 * steps).for_each(pair_tokens);
        }
    }
}

/// The chunks of two tokens, one behind the other, take turns of eight columns.
#[inline(always)]
fn pair_tokens(words: &mut [u32]) {
    const OCTETS: usize = CHUNK / 8;
    let words: &mut [[u32; 2]; 2 * OCTETS] = words.as_chunks_mut::<2>().0.try_into().expect("the chunks of two tokens");
    *words = std::array::from_fn(|i| words[i % 2 * OCTETS + i / 2]);
}

/// The signed bytes of a chunk; `place` says where the scale and the sum of each group go.
#[inline(always)]
fn quantize_8<I: Int8Isa>(
    x: &[f32; CHUNK],
    group: usize,
    out: &mut [u8; CHUNK],
    place: impl Fn(usize) -> usize,
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let excess = if I::LAYOUT.int8 == Word::Bytes { -(ZERO as i32) } else { 0 };
    for (g, (x, out)) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
        let (x, out) = (x.as_chunks::<32>().0, out.as_chunks_mut::<32>().0);
        let top = f32::from_bits(I::Lanes::top(x));
        let inverse = inverse_of(top);
        for (x, out) in x.iter().zip(out.iter_mut()) {
            I::Lanes::put_bytes(I::Lanes::quantize(x, inverse), out);
        }
        scales[place(g)] = top * STEP;
        sums[place(g)] = excess * I::Lanes::total(out);
    }
}

/// The signed bytes of a chunk and the sums of its groups, see [`Word::Codes`]; the scale of all.
#[inline(always)]
fn quantize_codes<L: Lanes>(x: &[f32; CHUNK], group: usize, words: &mut [u32]) -> f32 {
    let (bytes, sums) = words.split_at_mut(CHUNK / 4);
    let bytes = bytemuck::cast_slice_mut::<_, u8>(bytes).as_chunks_mut::<32>().0;
    let sums: &mut [i16] = bytemuck::cast_slice_mut(sums);
    let x = x.as_chunks::<32>().0;
    let top = f32::from_bits(L::top(x));
    let inverse = inverse_of(top);
    for (k, (x, bytes)) in x.iter().zip(bytes).enumerate() {
        let integers = L::quantize(x, inverse);
        L::put_bytes(integers, bytes);
        let [first, second] = L::sums(integers);
        if group == SUB {
            (sums[2 * k], sums[2 * k + 1]) = (first as i16, second as i16);
        } else {
            sums[k] = (first + second) as i16;
        }
    }
    top * STEP
}

/// Bytes that are `zero` too large as 16-bit integers.
#[inline(always)]
fn widen(integers: &[u8; CHUNK], wide: &mut [i16; CHUNK], zero: u8) {
    for (wide, byte) in wide.iter_mut().zip(integers) {
        *wide = *byte as i16 - zero as i16;
    }
}
