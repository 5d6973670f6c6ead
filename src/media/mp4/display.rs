//! How the pictures of a track are turned and mirrored before they are shown.
//!
//! A display matrix maps (x, y) to (a·x + c·y, b·x + d·y); the track has one, and the movie another that follows it. Read as
//! ffmpeg reads it, whose frames players and training pipelines see: the angle of the x axis decides, then the signs of the
//! other axis tell a mirror. Scales and shears move no pixel, as pixels that are not square do not.

use image::metadata::Orientation;

use super::boxes::u32_at;
use crate::{Error, Result};

/// Nine numbers, row by row: `a b u`, `c d v`, `x y w`; the last column has 30 fractional bits, the others 16.
type Matrix = [i64; 9];

const IDENTITY: Matrix = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30];

/// What the matrices of a track header and of a movie header (whole boxes, as far as they are there) do together.
///
/// # Errors
/// `Unsupported` for an angle that is not a quarter turn.
pub(super) fn orientation(tkhd: Option<&[u8]>, mvhd: Option<&[u8]>) -> Result<Orientation> {
    let track = matrix(tkhd, [40, 52]);
    let movie = matrix(mvhd, [36, 48]);
    of_matrix(&product(&track, &movie))
}

/// The matrix at `at` of a box of version 0 or 1.
fn matrix(content: Option<&[u8]>, at: [usize; 2]) -> Matrix {
    let Some(content) = content else { return IDENTITY };
    let at = at[usize::from(content.first() == Some(&1))];
    let numbers = content.get(at..at + 36);
    numbers.map_or(IDENTITY, |m| std::array::from_fn(|i| i64::from(u32_at(m, i * 4).unwrap_or(0) as i32)))
}

/// First `one`, then `other`. Sums keep 32 bits, as the files do.
fn product(one: &Matrix, other: &Matrix) -> Matrix {
    std::array::from_fn(|i| {
        let (row, column) = (i / 3, i % 3);
        let shifts = [16, 16, 30];
        let sum: i64 = (0..3).map(|e| (one[row * 3 + e] * other[e * 3 + column]) >> shifts[e]).sum();
        i64::from(sum as i32)
    })
}

fn of_matrix(m: &Matrix) -> Result<Orientation> {
    let [a, b, c, d] = [m[0], m[1], m[3], m[4]].map(|v| v as f64);
    let (x_scale, y_scale) = (a.hypot(c), b.hypot(d));
    if x_scale == 0.0 || y_scale == 0.0 {
        return Ok(Orientation::NoTransforms); // not a picture any more: nobody follows it
    }
    let degrees = (b / y_scale).atan2(a / x_scale).to_degrees().rem_euclid(360.0);
    let near = |angle: f64| (degrees - angle).abs() < 1.0;
    Ok(if near(0.0) || near(360.0) {
        if d < 0.0 { Orientation::FlipVertical } else { Orientation::NoTransforms }
    } else if near(90.0) {
        if c > 0.0 { Orientation::Rotate90FlipH } else { Orientation::Rotate90 }
    } else if near(180.0) {
        if d < 0.0 { Orientation::Rotate180 } else { Orientation::FlipHorizontal }
    } else if near(270.0) {
        if c < 0.0 { Orientation::Rotate270FlipH } else { Orientation::Rotate270 }
    } else {
        return Err(Error::unsupported(format!(
            "a picture turned by `{degrees:.0}` degrees is not built in, expected quarter turns"
        )));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Orientation::*;

    fn of(abcd: [f64; 4]) -> Orientation {
        let [a, b, c, d] = abcd.map(|v| (v * 65536.0) as i64);
        of_matrix(&[a, b, 0, c, d, 0, 0, 0, 1 << 30]).unwrap()
    }

    #[test]
    fn all_eight_orientations() {
        let rows = [
            ([1.0, 0.0, 0.0, 1.0], NoTransforms),
            ([0.0, 1.0, -1.0, 0.0], Rotate90),
            ([-1.0, 0.0, 0.0, -1.0], Rotate180),
            ([0.0, -1.0, 1.0, 0.0], Rotate270),
            ([-1.0, 0.0, 0.0, 1.0], FlipHorizontal),
            ([1.0, 0.0, 0.0, -1.0], FlipVertical),
            ([0.0, 1.0, 1.0, 0.0], Rotate90FlipH),
            ([0.0, -1.0, -1.0, 0.0], Rotate270FlipH),
        ];
        for (abcd, want) in rows {
            assert_eq!(of(abcd), want, "{abcd:?}");
            assert_eq!(of(abcd.map(|v| v * 0.5)), want, "a scale changes nothing: {abcd:?}");
            let [a, b, c, d] = abcd;
            assert_eq!(of([a * 2.0, b * 3.0, c * 2.0, d * 3.0]), want, "nor pixels that are not square: {abcd:?}");
        }
        assert_eq!(of([1.0, 0.0, 0.4, 1.0]), NoTransforms, "nor a shear");
        assert_eq!(of([0.0; 4]), NoTransforms);
        assert_eq!(of([0.9999, 0.01, -0.01, 0.9999]), NoTransforms, "half a degree");
        let err = of_matrix(&product(&IDENTITY, &[56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30])).unwrap_err();
        assert!(err.to_string().contains("`30` degrees"), "{err}");
    }

    #[test]
    fn the_movie_turns_after_the_track() {
        let tkhd = |version: u8, abcd: [i32; 4]| header(if version == 1 { 52 } else { 40 }, version, abcd);
        let mvhd = |version: u8, abcd: [i32; 4]| header(if version == 1 { 48 } else { 36 }, version, abcd);
        fn header(at: usize, version: u8, [a, b, c, d]: [i32; 4]) -> Vec<u8> {
            let mut bytes = vec![0; at];
            bytes[0] = version;
            let m = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30];
            bytes.extend(m.iter().flat_map(|v| v.to_be_bytes()));
            bytes
        }
        let (turn, mirror) = ([0, 1, -1, 0], [-1, 0, 0, 1]);
        for version in [0, 1] {
            let both = |track, movie| orientation(Some(&tkhd(version, track)), Some(&mvhd(version, movie))).unwrap();
            assert_eq!(both(turn, turn), Rotate180);
            assert_eq!(both(turn, mirror), Rotate90FlipH);
            assert_eq!(both(mirror, turn), Rotate270FlipH);
        }
        assert_eq!(orientation(Some(&tkhd(0, turn)), None).unwrap(), Rotate90);
        assert_eq!(orientation(Some(&tkhd(0, turn)[..70]), Some(&[])).unwrap(), NoTransforms, "cut off");
        // Whatever this is, it is no crash.
        orientation(Some(&header(40, 0, [i32::MAX; 4])), Some(&header(36, 0, [i32::MIN; 4]))).ok();
    }
}
