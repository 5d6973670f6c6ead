//! YUV pictures become RGB, the way ffmpeg's `rgb24` output does it by default.
//!
//! The matrix follows the file's own label (BT.601 when there is none, whatever the size), levels are limited (16 to 235)
//! unless the file says full, and each chroma sample serves all luma samples of its cell. Transfer curves are not touched.
//! Coefficients have 13 fractional bits. With subsampled chroma each product is rounded down by itself, as in the vector code
//! that ffmpeg uses there, which made the pictures that models were trained on; without, the sum is rounded to nearest.
//! Results agree within two levels on every layout.

use super::Rgb;

/// How to read YUV values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Color {
    /// H.273 matrix coefficients (1 is BT.709, 5 and 6 BT.601, 9 BT.2020); anything else counts as BT.601.
    pub matrix: u8,
    /// Levels run from 0 to 255 instead of 16 to 235 (240 for chroma).
    pub full_range: bool,
}

/// One plane of a picture: `stride` bytes lead from one row to the next.
#[derive(Clone, Copy)]
pub struct Plane<'a> {
    /// From the first row to the last sample of the last row.
    pub data: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
}

/// A planar 8-bit picture that is not ours.
#[derive(Clone, Copy)]
pub struct Planes<'a> {
    /// Rows of luma.
    pub height: usize,
    /// Columns of luma.
    pub width: usize,
    /// Luma.
    pub y: Plane<'a>,
    /// Cb and Cr, or nothing for a grey picture.
    pub chroma: Option<[Plane<'a>; 2]>,
    /// Luma samples per chroma sample, vertically and horizontally, as powers of two: (1, 1) is 4:2:0.
    pub shift: (u32, u32),
}

impl Planes<'_> {
    /// Whether every row that [`to_rgb`] will read is there.
    pub fn is_complete(&self) -> bool {
        let holds = |plane: &Plane, rows: usize, columns: usize| {
            rows > 0
                && columns > 0
                && columns <= plane.stride
                && (rows - 1).checked_mul(plane.stride).and_then(|n| n.checked_add(columns)) <= Some(plane.data.len())
        };
        let rows = self.height.div_ceil(1 << self.shift.0);
        let columns = self.width.div_ceil(1 << self.shift.1);
        holds(&self.y, self.height, self.width) && self.chroma.iter().flatten().all(|plane| holds(plane, rows, columns))
    }
}

/// Converts a picture.
///
/// # Panics
/// When it is not complete ([`Planes::is_complete`]).
pub fn to_rgb(planes: &Planes, color: Color) -> Rgb {
    assert!(planes.is_complete(), "planes hold the picture they describe");
    let (height, width) = (planes.height, planes.width);
    let Some([cb, cr]) = planes.chroma else { return gray_to_rgb(planes) };
    let table = Table::new(color, planes.shift != (0, 0));
    let mut data = Vec::with_capacity(height * width * 3);
    for row in 0..height {
        let luma = &planes.y.data[row * planes.y.stride..][..width];
        let chroma_width = width.div_ceil(1 << planes.shift.1);
        let chroma_row = row >> planes.shift.0;
        let cb = &cb.data[chroma_row * cb.stride..][..chroma_width];
        let cr = &cr.data[chroma_row * cr.stride..][..chroma_width];
        for (cell, (&u, &v)) in luma.chunks(1 << planes.shift.1).zip(cb.iter().zip(cr)) {
            let (u, v) = (usize::from(u), usize::from(v));
            let (r, g, b) = (table.r_v[v], table.g_u[u] + table.g_v[v], table.b_u[u]);
            for &y in cell {
                let y = table.y[usize::from(y)];
                data.extend_from_slice(&[to_byte(y + r), to_byte(y + g), to_byte(y + b)]);
            }
        }
    }
    Rgb { height, width, data }
}

/// Grey pictures without chroma run from 0 to 255, as ffmpeg reads them.
fn gray_to_rgb(planes: &Planes) -> Rgb {
    let rows = planes.y.data.chunks(planes.y.stride).take(planes.height);
    let data = rows.flat_map(|row| row[..planes.width].iter().flat_map(|&y| [y; 3])).collect();
    Rgb { height: planes.height, width: planes.width, data }
}

/// Fractional bits of a contribution.
const BITS: u32 = 13;

/// What each value contributes.
struct Table {
    y: [i32; 256],
    r_v: [i32; 256],
    g_u: [i32; 256],
    g_v: [i32; 256],
    b_u: [i32; 256],
}

impl Table {
    fn new(color: Color, floor_each: bool) -> Table {
        // Weights of red and blue in luma (H.273, table 4).
        let (kr, kb) = match color.matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 | 10 => (0.2627, 0.0593),
            _ => (0.299, 0.114),
        };
        let kg = 1.0 - kr - kb;
        let (black, y_gain, c_gain) = if color.full_range { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        let table = |zero: i32, gain: f64| {
            let gain = (gain * f64::from(1 << BITS)).round() as i32;
            let whole = if floor_each { !0 << BITS } else { !0 };
            std::array::from_fn(|i| ((i as i32 - zero) * gain) & whole)
        };
        let half = if floor_each { 0 } else { 1 << (BITS - 1) };
        Table {
            y: table(black, y_gain).map(|y: i32| y + half),
            r_v: table(128, 2.0 * (1.0 - kr) * c_gain),
            g_u: table(128, -2.0 * (1.0 - kb) * kb / kg * c_gain),
            g_v: table(128, -2.0 * (1.0 - kr) * kr / kg * c_gain),
            b_u: table(128, 2.0 * (1.0 - kb) * c_gain),
        }
    }
}

fn to_byte(value: i32) -> u8 {
    (value >> BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(yuv: [u8; 3], color: Color) -> [u8; 3] {
        let plane = |i: usize| Plane { data: &yuv[i..=i], stride: 1 };
        let planes = Planes { height: 1, width: 1, y: plane(0), chroma: Some([plane(1), plane(2)]), shift: (1, 1) };
        to_rgb(&planes, color).data.try_into().unwrap()
    }

    #[test]
    fn primaries_come_out_right() {
        let color = |matrix, full_range| Color { matrix, full_range };
        assert_eq!(pixel([16, 128, 128], color(6, false)), [0, 0, 0]);
        assert_eq!(pixel([235, 128, 128], color(1, false)), [255, 255, 255]);
        assert_eq!(pixel([255, 128, 128], color(1, true)), [255, 255, 255]);
        // Studio-range red of BT.601 and BT.709, full-range red of BT.601.
        for (yuv, color) in
            [([81, 90, 240], color(6, false)), ([63, 102, 240], color(1, false)), ([76, 85, 255], color(5, true))]
        {
            let got = pixel(yuv, color);
            assert!(got[0] >= 252 && got[1] <= 2 && got[2] <= 2, "{yuv:?} {color:?}: {got:?}");
        }
    }

    #[test]
    fn odd_sizes_have_a_last_chroma_cell() {
        let luma: Vec<u8> = (0..15).map(|i| 16 + i * 10).collect();
        let grey = [128u8; 6];
        let chroma = Plane { data: &grey, stride: 3 };
        let y = Plane { data: &luma, stride: 5 };
        let planes = Planes { height: 3, width: 5, y, chroma: Some([chroma, chroma]), shift: (1, 1) };
        assert!(planes.is_complete());
        let rgb = to_rgb(&planes, Color::default());
        assert_eq!(rgb.data.len(), 45);
        assert!(rgb.data.as_chunks::<3>().0.iter().all(|p| p[0] == p[1] && p[1] == p[2]));
        let short = Plane { data: &grey[..5], stride: 3 };
        assert!(!Planes { chroma: Some([chroma, short]), ..planes }.is_complete());
    }
}
