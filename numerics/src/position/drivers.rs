//! The allocation table: which position ids drive each rotary pair.

use super::Layout;
use super::rule::Pairs;
use crate::{Error, Result};

/// What drives a pair: a weighted sum of the three position ids, mostly one of them; or nothing. Weights sum to 1, so that a
/// pair turns alike under text, whose three ids are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Driver {
    weights: Option<[i8; 3]>,
}

impl Driver {
    /// The time id alone.
    pub const T: Driver = Driver { weights: Some([1, 0, 0]) };
    /// The id of the row alone.
    pub const H: Driver = Driver { weights: Some([0, 1, 0]) };
    /// The id of the column alone.
    pub const W: Driver = Driver { weights: Some([0, 0, 1]) };
    /// Zero frequency: the pair passes through untouched.
    pub const ZERO: Driver = Driver { weights: None };

    /// The sum of `weights` times (t, h, w).
    pub const fn sum(weights: [i8; 3]) -> Driver {
        Driver { weights: Some(weights) }
    }

    /// The weights of t, h and w; none where nothing turns the pair.
    pub fn weights(self) -> Option<[i8; 3]> {
        self.weights
    }

    /// Its name: an axis, a sum such as `t+h-w`, `0` for none.
    pub fn name(self) -> String {
        let Some(weights) = self.weights else { return "0".into() };
        let mut name = String::new();
        for (weight, axis) in weights.into_iter().zip(["t", "h", "w"]) {
            match weight {
                0 => continue,
                1.. if name.is_empty() => {}
                1.. => name.push('+'),
                _ => name.push('-'),
            }
            if weight.unsigned_abs() != 1 {
                name.push_str(&weight.unsigned_abs().to_string());
            }
            name.push_str(axis);
        }
        name
    }
}

/// The section split [t, h, w] in pairs for `n_rot` rotated dimensions where the file gives none: what was published for heads
/// of its size, if anything was.
pub fn default_sections(layout: Layout, n_rot: usize) -> [usize; 3] {
    let n_pair = n_rot / 2;
    let t = match layout.rule().pairs {
        // Qwen3-VL: [24, 20, 20]; Qwen3.5, of whose heads 64 dimensions rotate: [11, 11, 10].
        Pairs::Interleaved(_) if n_rot == 128 => 24,
        Pairs::Interleaved(_) => n_pair.div_ceil(3),
        _ if layout == Layout::HopeX => n_pair / 2,
        _ => n_pair / 4,
    };
    let h = (n_pair - t).div_ceil(2);
    [t, h, n_pair - t - h]
}

/// The driver of each of the `n_rot / 2` pairs, highest frequency first (HoPE paper, section 4.1; M-RoPE: Qwen2-VL). Where a head
/// has more than `n_rot` dimensions, the others do not rotate and are no pairs.
///
/// # Errors
/// An odd `n_rot`, or sections that do not sum to `n_rot / 2`.
pub fn drivers(layout: Layout, sections: [usize; 3], n_rot: usize) -> Result<Vec<Driver>> {
    let n_pair = n_rot / 2;
    let sum = sections.iter().try_fold(0usize, |sum, s| sum.checked_add(*s));
    if n_rot == 0 || !n_rot.is_multiple_of(2) || sum != Some(n_pair) {
        return Err(Error::mismatch(format!(
            "rope sections `{sections:?}` do not sum to half of the `{n_rot}` rotated dimensions of a head"
        )));
    }
    let [t, h, w] = sections;
    let driver = |i: usize| match layout.rule().pairs {
        Pairs::All(one) => one,
        Pairs::Bands if i < t => Driver::T,
        Pairs::Bands if i < t + h => Driver::H,
        Pairs::Bands => Driver::W,
        Pairs::SpaceFirst(_) if i < h + w => [Driver::H, Driver::W][i % 2],
        Pairs::SpaceSecond(_) if 0 < i && i < h + w => [Driver::W, Driver::H][i % 2],
        Pairs::Interleaved(_) if i % 3 == 1 && i / 3 < h => Driver::H,
        Pairs::Interleaved(_) if i % 3 == 2 && i / 3 < w => Driver::W,
        Pairs::SpaceFirst(rest) | Pairs::SpaceSecond(rest) | Pairs::Interleaved(rest) => rest,
        Pairs::Repeated(list) => list[i % list.len()],
    };
    Ok((0..n_pair).map(driver).collect())
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
        assert_eq!(default_sections(Layout::MropeI, 128), [24, 20, 20]);
        assert_eq!(default_sections(Layout::HopeI, 64), [11, 11, 10]);
    }

    #[test]
    fn wrong_sections_are_refused() {
        assert!(drivers(Layout::Hope, [16, 24, 23], 128).is_err());
        assert!(drivers(Layout::Hope, [1, 1, 1], 7).is_err());
        assert!(drivers(Layout::Hope, [usize::MAX, 1, 1], 128).is_err());
    }

    /// A text token's ids are all n: then every pair turns by n, under every layout.
    #[test]
    fn weights_sum_to_one() {
        for layout in Layout::ALL {
            for driver in drivers(layout, default_sections(layout, 128), 128).unwrap() {
                let sum = driver.weights().map(|w| w.into_iter().map(i32::from).sum::<i32>());
                assert!(sum.is_none_or(|sum| sum == 1), "{layout}: {}", driver.name());
            }
        }
    }

    #[test]
    fn sums_have_names() {
        for (driver, want) in [
            (Driver::T, "t"),
            (Driver::ZERO, "0"),
            (Driver::sum([-1, 1, 1]), "-t+h+w"),
            (Driver::sum([3, -1, -1]), "3t-h-w"),
        ] {
            assert_eq!(driver.name(), want);
        }
    }
}
