//! What several formats share: f16 fields, 6-bit scale tables, extremes of a block.
#![forbid(unsafe_code)]

use super::f16_to_f32;
use super::lanes::round_f64;

/// Elements below this, far below the smallest f16, count as zero in a search: their reciprocals need not be finite.
pub(super) const NOTHING: f32 = 1e-30;

/// The f16 at byte `at`.
#[inline(always)]
pub(super) fn f16_at(src: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([src[at], src[at + 1]]))
}

/// The u32 at byte `at`.
#[inline(always)]
pub(super) fn u32_at(src: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([src[at], src[at + 1], src[at + 2], src[at + 3]])
}

/// Writes `value` as f16 at byte `at`.
pub(super) fn put_f16(dst: &mut [u8], at: usize, value: f32) {
    dst[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// The f16 nearest to a number, as the scale of scales: never infinite, and not 0 for a number that is not, because the
/// smallest f16 is then the better unit.
pub(super) fn super_scale(value: f64) -> f32 {
    let rounded = f16_to_f32(half::f16::from_f32((value as f32).clamp(-65504.0, 65504.0)).to_bits());
    if rounded == 0.0 && value != 0.0 { f32::powi(2.0, -24).copysign(value as f32) } else { rounded }
}

/// The two most promising scales of scales, best first, for sub-blocks that would each like to have the scale `.0` of
/// `parts`, where a difference costs `.1` times its square. Integers run from `lowest` to `highest`.
pub(super) fn super_scale_candidates(parts: &[(f64, f64)], lowest: f64, highest: f64) -> [f32; 2] {
    let extreme = parts.iter().fold(0.0f64, |best, p| if p.0.abs() > best.abs() { p.0 } else { best });
    let mut best = [(f64::INFINITY, 0.0); 2];
    for end in [highest, lowest] {
        if end == 0.0 {
            continue;
        }
        // The largest scale becomes about this integer: from just beyond the range, which cuts it off, down to half of it.
        // Whole numbers are among them, for blocks whose sub-blocks are all alike.
        let step = f64::max(0.25, end.abs() / 128.0).log2().round().exp2().copysign(end);
        for i in 0..(0.55 * end / step) as i32 {
            let d = super_scale(extreme / (end + 2.0 * step - step * i as f64));
            if d == 0.0 || d == best[0].1 || d == best[1].1 {
                continue;
            }
            let inverse = 1.0 / d as f64;
            let cost = parts.iter().map(|&(value, weight)| {
                let integer = round_f64((value * inverse).clamp(lowest, highest));
                weight * (value - d as f64 * integer).powi(2)
            });
            let cost = cost.sum::<f64>();
            if cost < best[0].0 {
                best = [(cost, d), best[0]];
            } else if cost < best[1].0 {
                best[1] = (cost, d);
            }
        }
    }
    best.map(|b| b.1)
}

/// `1 / d`, or 0 where that is no finite number: all codes of such a block are then the code of zero.
pub(super) fn reciprocal(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The first element with the largest magnitude, with its sign.
pub(super) fn signed_extreme(src: &[f32]) -> f32 {
    src.iter().fold(0.0f32, |best, &x| if x.abs() > best.abs() { x } else { best })
}

/// Smallest and largest element of a block that is not empty; of equal ones, as zeros of both signs are, the first.
pub(super) fn min_max(src: &[f32]) -> (f32, f32) {
    src.iter().fold((src[0], src[0]), |(min, max), &x| (if x < min { x } else { min }, if x > max { x } else { max }))
}

/// The weights of squared errors for N elements: `importance`, brought to a largest value of 1 and kept off 0 so that no
/// element is free to become anything; or equal weights.
pub(super) fn weights<const N: usize>(importance: Option<&[f32]>) -> [f32; N] {
    let mut weights = [1.0; N];
    if let Some(importance) = importance {
        let largest = importance.iter().fold(0.0f32, |max, &w| max.max(w));
        if largest > 0.0 {
            for (weight, w) in weights.iter_mut().zip(importance) {
                *weight = (w / largest).max(1e-6);
            }
        }
    }
    weights
}

/// 256 elements as SUBS sub-blocks of N.
pub(super) fn split<const SUBS: usize, const N: usize>(x: &[f32; 256]) -> [[f32; N]; SUBS] {
    std::array::from_fn(|k| std::array::from_fn(|i| x[k * N + i]))
}

/// The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each, from their 12 bytes.
///
/// Bytes 0..4 hold scales 0..4 and bytes 4..8 minima 0..4 in their lower six bits; their upper two bits are the upper two
/// bits of scales (minima) 4..8, whose lower four bits are the low (high) halves of bytes 8..12.
#[inline(always)]
pub fn q4_k_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        mins[i] = packed[i + 4] & 63;
        scales[i + 4] = packed[i + 8] & 15 | packed[i] >> 6 << 4;
        mins[i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// The inverse of [`q4_k_scales`].
pub(super) fn pack_q4_k_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
    }
    packed
}

/// The inverse of [`q3_k_scales`].
pub(super) fn pack_q3_k_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (i, scale) in scales.iter().enumerate() {
        packed[i % 8] |= (scale & 15) << (i / 8 * 4);
        packed[8 + i % 4] |= scale >> 4 << (i / 4 * 2);
    }
    packed
}

/// The 16 scales of Q3_K, 6 bits each and 32 too large, from their 12 bytes.
///
/// Bytes 0..8 hold the lower four bits of scales 0..8 in their low and of scales 8..16 in their high halves; bytes 8..12
/// hold the upper two bits: bits `2k..2k+2` of byte `8 + i` belong to scale `4k + i`.
#[inline(always)]
pub fn q3_k_scales(packed: &[u8; 12]) -> [u8; 16] {
    let mut scales = [0; 16];
    for i in 0..16 {
        let lower = packed[i % 8] >> (i / 8 * 4) & 15;
        scales[i] = lower | (packed[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
    }
    scales
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_tables_survive_packing() {
        let scales: [u8; 16] = std::array::from_fn(|i| ((i * 37 + 11) % 64) as u8);
        assert_eq!(q3_k_scales(&pack_q3_k_scales(&scales)), scales);
        let (a, b) = (scales[..8].try_into().unwrap(), scales[8..].try_into().unwrap());
        assert_eq!(q4_k_scales(&pack_q4_k_scales(a, b)), (*a, *b));
    }
}
