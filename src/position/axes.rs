//! The allocation table: which position id drives each rotary pair.

use super::Layout;
use crate::{Error, Result};

/// What drives a pair: one of the three position ids, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    T,
    H,
    W,
    /// Zero frequency: the pair passes through untouched.
    Zero,
}

/// The section split [t, h, w] in pairs for a head of `n_rot` dimensions where the file gives none.
pub fn default_sections(layout: Layout, n_rot: usize) -> [usize; 3] {
    let n_pair = n_rot / 2;
    let t = if layout == Layout::HopeX { n_pair / 2 } else { n_pair / 4 };
    let h = (n_pair - t).div_ceil(2);
    [t, h, n_pair - t - h]
}

/// The driver of each of the `n_rot / 2` pairs, highest frequency first (HoPE paper, section 4.1; M-RoPE: Qwen2-VL).
///
/// # Errors
/// An odd `n_rot`, or sections that do not sum to `n_rot / 2`.
pub fn axes(layout: Layout, sections: [usize; 3], n_rot: usize) -> Result<Vec<Axis>> {
    let n_pair = n_rot / 2;
    let sum = sections.iter().try_fold(0usize, |sum, s| sum.checked_add(*s));
    if n_rot == 0 || !n_rot.is_multiple_of(2) || sum != Some(n_pair) {
        return Err(Error::mismatch(format!(
            "rope sections `{sections:?}` do not sum to half of head dimension `{n_rot}`"
        )));
    }
    let [t, h, w] = sections;
    let spatial = |i: usize| if i.is_multiple_of(2) { Axis::H } else { Axis::W };
    let axis = |i: usize| match layout {
        Layout::Rope | Layout::Tad => Axis::T,
        Layout::Mrope if i < t => Axis::T,
        Layout::Mrope if i < t + h => Axis::H,
        Layout::Mrope => Axis::W,
        Layout::MropeI | Layout::HopeI if i % 3 == 1 && i < 3 * h => Axis::H,
        Layout::MropeI | Layout::HopeI if i % 3 == 2 && i < 3 * w => Axis::W,
        Layout::MropeI => Axis::T,
        Layout::HopeI => Axis::Zero,
        _ if i < h + w => spatial(i),
        Layout::VideoRope => Axis::T,
        Layout::Hope | Layout::HopeX => Axis::Zero,
    };
    Ok((0..n_pair).map(axis).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_sections_follow_the_table() {
        let rows = [
            (128, [16, 24, 24]),
            (96, [12, 18, 18]),
            (80, [10, 15, 15]),
            (64, [8, 12, 12]),
            (32, [4, 6, 6]),
            (16, [2, 3, 3]),
            (8, [1, 2, 1]),
        ];
        for (d, want) in rows {
            assert_eq!(default_sections(Layout::Hope, d), want, "head dimension {d}");
        }
        assert_eq!(default_sections(Layout::HopeX, 64), [16, 8, 8]);
        assert_eq!(default_sections(Layout::HopeX, 128), [32, 16, 16]);
    }

    #[test]
    fn wrong_sections_are_refused() {
        assert!(axes(Layout::Hope, [16, 24, 23], 128).is_err());
        assert!(axes(Layout::Hope, [1, 1, 1], 7).is_err());
        assert!(axes(Layout::Hope, [usize::MAX, 1, 1], 128).is_err());
    }
}
