//! What several formats share: f16 fields, 6-bit scale tables, extremes of a block.
#![forbid(unsafe_code)]

use super::f16_to_f32;

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

/// `1 / d`, or 0 where that is no finite number: all codes of such a block are then the code of zero.
pub(super) fn reciprocal(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The first element with the largest magnitude, with its sign.
pub(super) fn signed_extreme(src: &[f32]) -> f32 {
    src.iter().fold(0.0f32, |best, &x| if x.abs() > best.abs() { x } else { best })
}

/// Smallest and largest element of a block that is not empty.
pub(super) fn min_max(src: &[f32]) -> (f32, f32) {
    src.iter().fold((src[0], src[0]), |(min, max), &x| (min.min(x), max.max(x)))
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
