//! Sizes and resampling: `smart_resize`, and the references' three bicubics, bit for bit.
//!
//! The resampler is our own because of how the reference made the models' training pictures: still pictures and lists of
//! frames went through Pillow ([`bicubic`]), whose weights have 22 fractional bits and whose passes are each rounded to 8
//! bits; the frames of video files went through torchvision ([`bicubic_film`]), which computes in f32 and rounds once. The
//! two differ by up to 17 levels where a picture is dithered. Families whose processors are those of transformers have everything
//! resampled in integers of 16 bits ([`bicubic_integer`]), as torchvision does with bytes. `fast_image_resize`, the usual crate, is like none of them.

use super::Rgb;
use super::limits::{MAX_ASPECT, MAX_PIXELS, MAX_SIDE};
use crate::{Error, Result};

/// What happens to a side that would become shorter than `factor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// The picture is refused (qwen-vl-utils, where it would have no pixels).
    Utils,
    /// It keeps `factor` (the processors of transformers).
    Processor,
}

/// The size to which a picture of (h, w) is resized, as (height, width): sides are multiples of `factor`, the area lies
/// between the two bounds where the aspect ratio allows it, halves round to even (qwen-vl-utils' rule, which accepts sides
/// below `factor`).
///
/// # Errors
/// Aspect ratio above 200, a zero side, senseless bounds, and shapes that no size within `max_pixels` can hold (where the
/// reference answers with a side of 0).
pub fn smart_resize(h: usize, w: usize, factor: usize, min_pixels: f64, max_pixels: f64) -> Result<(usize, usize)> {
    smart_resize_by(h, w, factor, min_pixels, max_pixels, Rounding::Utils)
}

/// [`smart_resize`] under either rule of rounding.
///
/// # Errors
/// Those of [`smart_resize`].
pub fn smart_resize_by(
    h: usize,
    w: usize,
    factor: usize,
    min_pixels: f64,
    max_pixels: f64,
    rounding: Rounding,
) -> Result<(usize, usize)> {
    check_shape(h, w)?;
    resized(1.0, (h as f64, w as f64), factor, (min_pixels, max_pixels), 1.0, rounding)
}

/// The size to which `n` frames of (h, w) are resized together: the volume of all of them lies between `shortest` and `longest`.
/// The test counts an even number of frames, halves to even; how much to shrink, the number itself. Sides below `factor` are
/// made as long first.
///
/// # Errors
/// Those of [`smart_resize`].
pub fn volume_size(n: usize, h: usize, w: usize, factor: usize, shortest: f64, longest: f64) -> Result<(usize, usize)> {
    check_shape(h, w)?;
    let (mut height, mut width, side) = (h as f64, w as f64, factor as f64);
    if height < side || width < side {
        let scale = (side / height).max(side / width);
        (height, width) = ((height * scale).floor(), (width * scale).floor());
        if height.max(width) / height.min(width) > MAX_ASPECT {
            return Err(Error::bad_input(format!(
                "frames of `{w}x{h}` have an aspect ratio above {MAX_ASPECT} with sides of at least {factor}"
            )));
        }
    }
    let frames = n as f64;
    let counted = (frames / 2.0).round_ties_even() * 2.0;
    resized(frames, (height, width), factor, (shortest, longest), counted, Rounding::Processor)
}

/// The size of each of `frames` frames within bounds on `counted` of them.
fn resized(
    frames: f64,
    (height, width): (f64, f64),
    factor: usize,
    (min_pixels, max_pixels): (f64, f64),
    counted: f64,
    rounding: Rounding,
) -> Result<(usize, usize)> {
    // NaN fails these comparisons as well.
    if !(min_pixels >= 0.0 && max_pixels >= min_pixels && max_pixels.is_finite()) {
        return Err(Error::bad_input(format!(
            "pixel bounds `{min_pixels}` to `{max_pixels}` make no sense, expected 0 <= min <= max"
        )));
    }
    if factor == 0 || factor > MAX_SIDE {
        return Err(Error::bad_input(format!("size factor `{factor}` is not between 1 and {MAX_SIDE}")));
    }
    let (side, area) = (factor as f64, frames * height * width);
    let nearest = |length: f64| ((length / side).round_ties_even() * side).max(side);
    let (mut new_h, mut new_w) = (nearest(height), nearest(width));
    // The rounded sides decide whether to scale, the original ones how much.
    if counted * new_h * new_w > max_pixels {
        let beta = (area / max_pixels).sqrt();
        let least = if rounding == Rounding::Processor { side } else { 0.0 };
        let floor = |length: f64| ((length / beta / side).floor() * side).max(least);
        (new_h, new_w) = (floor(height), floor(width));
    } else if counted * new_h * new_w < min_pixels {
        let beta = (min_pixels / area).sqrt();
        let ceil = |length: f64| (length * beta / side).ceil() * side;
        (new_h, new_w) = (ceil(height), ceil(width));
    }
    if new_h < side || new_w < side {
        return Err(Error::limit(format!(
            "a picture of `{width}x{height}` cannot be shrunk to at most `{max_pixels}` pixels with sides of at \
             least {factor}"
        )));
    }
    if new_h * new_w > MAX_PIXELS as f64 {
        return Err(Error::limit(format!(
            "a picture of `{width}x{height}` would be resized to `{new_w}x{new_h}`, more than {MAX_PIXELS} pixels"
        )));
    }
    Ok((new_h as usize, new_w as usize))
}

/// [`smart_resize`] as the image processor of `transformers` 4.45.2 applies it: sides below `factor` are refused.
///
/// # Errors
/// A side below `factor`, and all errors of [`smart_resize`].
pub fn smart_resize_strict(
    h: usize,
    w: usize,
    factor: usize,
    min_pixels: f64,
    max_pixels: f64,
) -> Result<(usize, usize)> {
    if h < factor || w < factor {
        return Err(Error::bad_input(format!("a side of `{w}x{h}` is below {factor}, the least this rule accepts")));
    }
    smart_resize(h, w, factor, min_pixels, max_pixels)
}

/// Refuses sizes that no rule resizes: zero or absurd sides, aspect ratios above 200.
fn check_shape(h: usize, w: usize) -> Result<()> {
    if h == 0 || w == 0 {
        return Err(Error::bad_input(format!("a picture of `{w}x{h}` has no pixels")));
    }
    if h > MAX_SIDE || w > MAX_SIDE {
        return Err(Error::limit(format!("a picture of `{w}x{h}` has a side above {MAX_SIDE}")));
    }
    let aspect = h.max(w) as f64 / h.min(w) as f64;
    if aspect > MAX_ASPECT {
        return Err(Error::bad_input(format!(
            "a picture of `{w}x{h}` has an aspect ratio of `{aspect:.1}`, expected at most {MAX_ASPECT}"
        )));
    }
    Ok(())
}

/// Antialiased bicubic (a = -0.5) in two passes, each rounded to 8 bits from 22-bit weights: equal to the `resize` of
/// Pillow 13 on every byte. Because of the rounding the order of the passes shows: rows first, unless the height loses more
/// than twice as many pixels as the width (older releases always resized rows first).
///
/// # Panics
/// When a side is zero or `src.data` is not (height, width, 3): pictures are checked where they enter.
pub fn bicubic(src: &Rgb, height: usize, width: usize) -> Rgb {
    check_picture(src, height, width);
    let add = |sum: i32, p: u8, w: i32| sum + i32::from(p) * w;
    let rows =
        |data: &[u8]| resize_rows::<1, _, _, _, _>(data, &Taps::of_integers(src.width, width), HALF, add, to_byte);
    let columns = |data: &[u8], stride: usize| {
        resize_columns(data, stride * 3, &Taps::of_integers(src.height, height), HALF, add, to_byte)
    };
    let (lost_rows, lost_columns) = (src.height as i64 - height as i64, src.width as i64 - width as i64);
    let data = match (width == src.width, height == src.height) {
        (true, true) => src.data.clone(),
        (true, false) => columns(&src.data, width),
        (false, true) => rows(&src.data),
        _ if lost_rows > 0 && lost_rows > 2 * lost_columns => rows(&columns(&src.data, src.width)),
        _ => columns(&rows(&src.data), width),
    };
    Rgb { height, width, data }
}

/// The same filter for the frames of video files: rows first, all in f32, rounded to 8 bits (halves to even) at the end.
/// Equal to the `resize` of torchvision's `transforms.functional` on every byte of the reference's numbers; sums of f32 depend
/// on how they were compiled there, so a value within 1e-5 of a half might come out on the other side of it.
///
/// # Panics
/// Those of [`bicubic`].
pub fn bicubic_film(src: &Rgb, height: usize, width: usize) -> Rgb {
    check_picture(src, height, width);
    if (height, width) == (src.height, src.width) {
        return src.clone();
    }
    // A side that keeps its length has weights of one and zero.
    let (across, down) = (Taps::of_floats(src.width, width), Taps::of_floats(src.height, height));
    let rows =
        resize_rows::<8, _, _, _, _>(&src.data, &across, 0.0, |sum, p: u8, w: f32| sum + f32::from(p) * w, |sum| sum);
    let data = resize_columns(
        &rows,
        width * 3,
        &down,
        0.0,
        |sum, p: f32, w: f32| sum + p * w,
        |sum: f32| {
            // Adding and taking away 1.5 * 2^23 leaves the nearest whole number, without a call on CPUs before SSE4.1.
            const WHOLE: f32 = 12_582_912.0;
            (sum.clamp(0.0, 255.0) + WHOLE - WHOLE) as u8
        },
    );
    Rgb { height, width, data }
}

/// The same filter over bytes as torchvision has it: rows first, then columns, each rounded to 8 bits from integer weights of
/// at most 15 bits, as many as the largest weight of a pass allows. A side that keeps its length is left alone. Equal to
/// torchvision 0.23 on every byte (CPUs with AVX2).
///
/// # Panics
/// Those of [`bicubic`].
pub fn bicubic_integer(src: &Rgb, height: usize, width: usize) -> Rgb {
    check_picture(src, height, width);
    let add = |sum: i32, p: u8, w: i32| sum + i32::from(p) * w;
    let mut data = None;
    if width != src.width {
        let (taps, bits) = Taps::of_short_integers(src.width, width);
        let round = |sum: i32| (sum >> bits).clamp(0, 255) as u8;
        data = Some(resize_rows::<1, _, _, _, _>(&src.data, &taps, 1 << (bits - 1), add, round));
    }
    if height != src.height {
        let (taps, bits) = Taps::of_short_integers(src.height, height);
        let round = |sum: i32| (sum >> bits).clamp(0, 255) as u8;
        let rows = data.as_deref().unwrap_or(&src.data);
        data = Some(resize_columns(rows, width * 3, &taps, 1 << (bits - 1), add, round));
    }
    Rgb { height, width, data: data.unwrap_or_else(|| src.data.clone()) }
}

fn check_picture(src: &Rgb, height: usize, width: usize) {
    assert!(src.height > 0 && src.width > 0 && height > 0 && width > 0, "pictures have pixels");
    assert_eq!(src.data.len(), src.height * src.width * 3, "a picture holds height x width x 3 bytes");
}

/// Fractional bits of a whole weight.
const WEIGHT_BITS: u32 = 22;
/// One half, which turns the final shift into rounding.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// For each output sample of one axis, the run of input samples that it is a weighted sum of.
struct Taps<W> {
    n_in: usize,
    /// First input sample and number of them, per output sample.
    runs: Vec<(usize, usize)>,
    /// Weights of all runs, one after another.
    weights: Vec<W>,
}

impl Taps<i32> {
    /// Weights as fractions of 2^22.
    fn of_integers(n_in: usize, n_out: usize) -> Taps<i32> {
        let unit = f64::from(1u32 << WEIGHT_BITS);
        Taps::of_doubles(n_in, n_out).map(|w| (w * unit).round() as i32)
    }

    /// Weights as fractions of 2^bits, with as many bits (up to 22) as the largest weight of at most 15 bits allows.
    fn of_short_integers(n_in: usize, n_out: usize) -> (Taps<i32>, u32) {
        let taps = Taps::of_doubles(n_in, n_out);
        let largest = taps.weights.iter().copied().fold(0.0, f64::max);
        let fits = |bits: u32| (0.5 + largest * f64::from(1u32 << bits)) as i32;
        let mut bits = 0;
        while bits < WEIGHT_BITS && fits(bits + 1) < 1 << 15 {
            bits += 1;
        }
        let unit = f64::from(1u32 << bits);
        (taps.map(|w| (w * unit).round() as i32), bits)
    }
}

impl Taps<f64> {
    /// Each weight made into another.
    fn map<W>(self, f: impl Fn(f64) -> W) -> Taps<W> {
        Taps { n_in: self.n_in, runs: self.runs, weights: self.weights.into_iter().map(f).collect() }
    }

    /// Exact weights.
    fn of_doubles(n_in: usize, n_out: usize) -> Taps<f64> {
        let scale = n_in as f64 / n_out as f64;
        // When shrinking, the kernel is stretched so that every input sample counts.
        let stretch = scale.max(1.0);
        let (support, shrink) = (2.0 * stretch, 1.0 / stretch);
        let mut taps = Taps { n_in, runs: Vec::with_capacity(n_out), weights: Vec::new() };
        let mut exact = Vec::new();
        for i in 0..n_out {
            let center = (i as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(n_in);
            exact.clear();
            exact.extend((first..end).map(|x| kernel((x as f64 - center + 0.5) * shrink)));
            // At the border the window is cut off, so the weights are made to sum to one again.
            let sum: f64 = exact.iter().sum();
            taps.weights.extend(exact.iter().map(|w| w / sum));
            taps.runs.push((first, end - first));
        }
        taps
    }
}

impl Taps<f32> {
    /// The same computed as torch does: f32, where a distance is f64 until it is scaled.
    fn of_floats(n_in: usize, n_out: usize) -> Taps<f32> {
        let scale = n_in as f32 / n_out as f32;
        let stretch = scale.max(1.0);
        let (support, shrink) = (2.0 * stretch, 1.0 / f64::from(stretch));
        let shrink = f64::from(shrink as f32);
        let mut taps = Taps { n_in, runs: Vec::with_capacity(n_out), weights: Vec::new() };
        for i in 0..n_out {
            let center = (f64::from(scale) * (i as f64 + 0.5)) as f32;
            // With sides beyond what f32 tells apart, the last window might begin past the end.
            let first = ((f64::from(center - support) + 0.5).max(0.0) as usize).min(n_in - 1);
            let end = ((f64::from(center + support) + 0.5) as usize).clamp(first + 1, n_in);
            let at = taps.weights.len();
            taps.weights.extend((first..end).map(|x| {
                let distance = f64::from(x as f32 - center) + 0.5;
                kernel_f32((distance * shrink) as f32)
            }));
            let run = &mut taps.weights[at..];
            let sum = run.iter().fold(0.0, |sum, w| sum + w);
            run.iter_mut().for_each(|w| *w /= sum);
            taps.runs.push((first, end - first));
        }
        taps
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The same, rounded where the reference's compiled code rounds.
fn kernel_f32(x: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        (1.5f32.mul_add(x, -2.5) * x).mul_add(x, 1.0)
    } else if x < 2.0 {
        (-0.5f32).mul_add(x, 2.5).mul_add(x, -4.0).mul_add(x, 2.0)
    } else {
        0.0
    }
}

/// Rounds a sum of weighted bytes (which already holds one half) and clips it to a byte.
fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Resizes each row of `src` (rows, n_in, 3) to (rows, n_out, 3). A sum begins as `zero`, takes weighted samples by `add`,
/// and becomes a sample by `done`. `ROWS` rows go side by side, which fills vector registers where there is a vector
/// instruction for `add`.
fn resize_rows<const ROWS: usize, S: Copy, W: Copy, A: Copy, T>(
    src: &[S],
    taps: &Taps<W>,
    zero: A,
    add: impl Fn(A, S, W) -> A,
    done: impl Fn(A) -> T,
) -> Vec<T> {
    let (n_in, n_out) = (taps.n_in * 3, taps.runs.len() * 3);
    let mut out = Vec::with_capacity(src.len() / n_in * n_out);
    let mut block = vec![[src[0]; ROWS]; n_in];
    let mut sums = vec![[zero; ROWS]; n_out];
    for rows in src.chunks(n_in * ROWS) {
        for (r, row) in rows.chunks_exact(n_in).enumerate() {
            block.iter_mut().zip(row).for_each(|(samples, &p)| samples[r] = p);
        }
        let mut weights = taps.weights.as_slice();
        for (&(first, n), out) in taps.runs.iter().zip(sums.as_chunks_mut::<3>().0) {
            let (run, rest) = weights.split_at(n);
            weights = rest;
            let mut pixel = [[zero; ROWS]; 3];
            for (samples, &w) in block[first * 3..(first + n) * 3].as_chunks::<3>().0.iter().zip(run) {
                for (sum, &p) in pixel.as_flattened_mut().iter_mut().zip(samples.as_flattened()) {
                    *sum = add(*sum, p, w);
                }
            }
            *out = pixel;
        }
        for r in 0..rows.len() / n_in {
            out.extend(sums.iter().map(|samples| done(samples[r])));
        }
    }
    out
}

/// Resizes the columns of `src` (n_in, stride) to (n_out, stride), likewise.
fn resize_columns<S: Copy, W: Copy, A: Copy, T>(
    src: &[S],
    stride: usize,
    taps: &Taps<W>,
    zero: A,
    add: impl Fn(A, S, W) -> A,
    done: impl Fn(A) -> T,
) -> Vec<T> {
    let mut out = Vec::with_capacity(taps.runs.len() * stride);
    let mut sums = vec![zero; stride];
    let mut weights = taps.weights.as_slice();
    for &(first, n) in &taps.runs {
        let (run, rest) = weights.split_at(n);
        weights = rest;
        sums.fill(zero);
        for (row, &w) in src[first * stride..(first + n) * stride].chunks_exact(stride).zip(run) {
            for (s, &p) in sums.iter_mut().zip(row) {
                *s = add(*s, p, w);
            }
        }
        out.extend(sums.iter().map(|&s| done(s)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_output_sum_to_one() {
        for (n_in, n_out) in [(1, 1), (1, 5), (7, 3), (1920, 1008), (100, 99), (99, 100)] {
            let taps = Taps::of_integers(n_in, n_out);
            let mut at = 0;
            for &(first, n) in &taps.runs {
                assert!(n > 0 && first + n <= n_in, "{n_in} -> {n_out}");
                let sum: i32 = taps.weights[at..at + n].iter().sum();
                at += n;
                // Each of n weights is off by at most one half.
                assert!((sum - (1 << WEIGHT_BITS)).unsigned_abs() as usize <= n, "{n_in} -> {n_out}: {sum}");
            }
            assert_eq!((at, taps.runs.len()), (taps.weights.len(), n_out));
        }
    }

    #[test]
    fn windows_stay_within_any_side() {
        for (n_in, n_out) in
            [(1, 1), (1, 9), (7, 3), (MAX_SIDE, 1), (MAX_SIDE, 28), (MAX_SIDE - 1, MAX_SIDE), (3, 4099)]
        {
            let taps = Taps::of_floats(n_in, n_out);
            assert!(taps.runs.is_sorted() && taps.runs.iter().all(|&(first, n)| n > 0 && first + n <= n_in));
            assert_eq!(taps.runs.iter().map(|run| run.1).sum::<usize>(), taps.weights.len());
            assert!(taps.weights.iter().all(|w| w.is_finite()), "{n_in} -> {n_out}");
        }
    }

    #[test]
    fn constant_pictures_stay_constant() {
        for level in [0, 1, 127, 254, 255] {
            let src = Rgb { height: 9, width: 13, data: vec![level; 9 * 13 * 3] };
            for (h, w) in [(1, 1), (28, 28), (9, 5), (4, 13), (9, 13)] {
                for out in [bicubic(&src, h, w), bicubic_film(&src, h, w)] {
                    assert_eq!((out.height, out.width, out.data.len()), (h, w, h * w * 3));
                    assert!(out.data.iter().all(|&p| p == level), "{level} at {h}x{w}");
                }
            }
        }
    }

    #[test]
    fn sizes_of_the_specification() {
        let image = |h, w| smart_resize(h, w, 28, 3136.0, 12_845_056.0).unwrap();
        let rows = [
            ((1080, 1920), (1092, 1932)),
            ((720, 1280), (728, 1288)),
            ((480, 640), (476, 644)),
            ((100, 100), (112, 112)),
            ((28, 28), (56, 56)),
            ((70, 70), (56, 56)),
            ((98, 42), (112, 56)),
            ((30, 1000), (28, 1008)),
            ((4000, 6000), (2912, 4368)),
            ((1, 1), (56, 56)),
        ];
        for ((h, w), want) in rows {
            assert_eq!(image(h, w), want, "{h}x{w}");
        }
    }
}
