//! Drawn video: moving patterns that mean nothing, and cards with a coloured symbol that questions are about. The embedded
//! models were trained on such pictures (`training/symbols`), so that needles can be hidden without anything on disk.
//!
//! Every frame follows from the seed and its number alone, to the last bit on every machine.

use crate::random::Rng;
use crate::{Error, Result};

/// Sides of drawn frames are multiples of this.
pub const CELL: usize = 28;

/// What a symbol looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    shape: usize,
    color: usize,
}

/// The shapes, as the model says them.
pub const SHAPES: [&str; 8] = ["circle", "square", "triangle", "star", "cross", "heart", "ring", "diamond"];
/// The colours, as the model says them.
pub const COLORS: [&str; 8] = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black"];
const INKS: [[f32; 3]; 8] = [
    [215.0, 35.0, 35.0],
    [245.0, 140.0, 20.0],
    [238.0, 212.0, 25.0],
    [40.0, 160.0, 60.0],
    [40.0, 80.0, 220.0],
    [140.0, 45.0, 185.0],
    [245.0, 120.0, 185.0],
    [25.0, 25.0, 25.0],
];

impl Symbol {
    /// The shape's name.
    pub fn shape(self) -> &'static str {
        SHAPES[self.shape]
    }

    /// The colour's name.
    pub fn color(self) -> &'static str {
        COLORS[self.color]
    }
}

impl std::fmt::Display for Symbol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.color(), self.shape())
    }
}

/// A question about the symbols of a video, and its one right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub text: String,
    pub answer: &'static str,
}

/// A symbol and the frame pair that shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnNeedle {
    pub symbol: Symbol,
    pub pair: usize,
}

/// A video of frame pairs, `width` x `height` pixels each, at [`FPS`].
#[derive(Debug, Clone)]
pub struct DrawnVideo {
    pub width: usize,
    pub height: usize,
    pub n_pairs: usize,
    pub needles: Vec<DrawnNeedle>,
    seed: u64,
}

/// Frames per second of drawn videos: the rate at which Qwen2-VL samples, so that each frame is seen.
pub const FPS: u32 = 2;
/// A pattern stays so many frame pairs.
const SCENE_PAIRS: usize = 8;

// Streams of random numbers that must not meet.
const NEEDLES: u64 = 1;
const SCENES: u64 = 2;
const CARDS: u64 = 3;
const NOISE: u64 = 4;
const QUESTIONS: u64 = 5;

fn rng(seed: u64, stream: u64, n: usize) -> Rng {
    let mixed = Rng::new(seed ^ (stream << 56)).next_u64();
    Rng::new(mixed.wrapping_add(n as u64))
}

impl DrawnVideo {
    /// A video with `n_needles` symbols, no shape and no colour among them twice. `depth` in [0, 1] says where the first one
    /// is; the others, and the first without it, are anywhere.
    ///
    /// # Errors
    /// Sides that are no multiples of 28 or below 56, more needles than shapes or frame pairs, a depth outside [0, 1].
    pub fn new(
        seed: u64,
        (width, height): (usize, usize),
        n_pairs: usize,
        n_needles: usize,
        depth: Option<f64>,
    ) -> Result<DrawnVideo> {
        if [width, height].iter().any(|side| !(2 * CELL..=4096).contains(side) || side % CELL != 0) {
            let message = format!("drawn frames of `{width}x{height}`: sides must be multiples of 28 from 56 to 4096");
            return Err(Error::bad_input(message));
        }
        if n_needles > SHAPES.len().min(n_pairs) {
            let most = SHAPES.len().min(n_pairs);
            return Err(Error::bad_input(format!(
                "`{n_needles}` symbols in {n_pairs} frame pairs, at most {most} fit"
            )));
        }
        if depth.is_some_and(|d| !(0.0..=1.0).contains(&d)) {
            return Err(Error::bad_input(format!("depth `{}` must be between 0 and 1", depth.unwrap_or_default())));
        }
        let mut rng = rng(seed, NEEDLES, 0);
        let mut needles: Vec<DrawnNeedle> = Vec::new();
        while needles.len() < n_needles {
            let symbol = Symbol { shape: rng.below(SHAPES.len()), color: rng.below(COLORS.len()) };
            let pair = match depth.filter(|_| needles.is_empty()) {
                Some(depth) => ((depth * n_pairs as f64) as usize).min(n_pairs - 1),
                None => rng.below(n_pairs),
            };
            let meets =
                |n: &DrawnNeedle| n.pair == pair || n.symbol.shape == symbol.shape || n.symbol.color == symbol.color;
            if !needles.iter().any(meets) {
                needles.push(DrawnNeedle { symbol, pair });
            }
        }
        Ok(DrawnVideo { width, height, n_pairs, needles, seed })
    }

    /// Frames, two of each pair.
    pub fn n_frames(&self) -> usize {
        2 * self.n_pairs
    }

    /// The second at which a pair begins.
    pub fn second(&self, pair: usize) -> f64 {
        (2 * pair) as f64 / f64::from(FPS)
    }

    /// A question about the first needle: its shape or its colour, by the other where there are several needles.
    pub fn question(&self) -> Option<Question> {
        let symbol = self.needles.first()?.symbol;
        let several = self.needles.len() > 1;
        let (text, answer) = match (rng(self.seed, QUESTIONS, 0).below(2), several) {
            (0, false) => ("What shape is shown?".to_string(), symbol.shape()),
            (_, false) => ("What color is the symbol?".to_string(), symbol.color()),
            (0, true) => (format!("What shape is {}?", symbol.color()), symbol.shape()),
            (_, true) => (format!("What color is the {}?", symbol.shape()), symbol.color()),
        };
        Some(Question { text, answer })
    }

    /// Frame `i` as RGB bytes, (height, width, 3).
    pub fn frame(&self, i: usize) -> Vec<u8> {
        let pair = i / 2;
        let (mut rgb, deviation) = match self.needles.iter().find(|needle| needle.pair == pair) {
            Some(needle) => self.card(needle.symbol, pair),
            None => self.pattern(pair / SCENE_PAIRS, (i % (2 * SCENE_PAIRS)) as f32),
        };
        let mut noise = rng(self.seed, NOISE, i);
        for value in &mut rgb {
            // Uniform noise of the same deviation; the models do not care, and it costs a tenth.
            *value += deviation * 3.464 * (noise.uniform() as f32 - 0.5);
        }
        rgb.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect()
    }

    /// A symbol on a light ground, and how noisy it is.
    pub(super) fn card(&self, symbol: Symbol, pair: usize) -> (Vec<f32>, f32) {
        let mut rng = rng(self.seed, CARDS, pair);
        let mut between = |a: f64, b: f64| (a + (b - a) * rng.uniform()) as f32;
        let level = between(215.0, 250.0);
        let ground: [f32; 3] = std::array::from_fn(|_| level + between(-8.0, 8.0));
        let ink: [f32; 3] = INKS[symbol.color].map(|v| v + between(-10.0, 10.0));
        let most = 0.5 * self.width.min(self.height) as f64;
        let radius = between((0.7 * most).min(36.0), most.min(60.0));
        let cx = between(f64::from(radius), self.width as f64 - f64::from(radius));
        let cy = between(f64::from(radius), self.height as f64 - f64::from(radius));
        let (sin, cos) = libm::sincosf(between(-0.15, 0.15));
        let deviation = between(0.0, 6.0);
        (self.on_ground((ground, ink), symbol.shape, (radius, cx, cy), (sin, cos)), deviation)
    }

    /// A light ground that stays, and on it a small symbol so many pixels from where it first appears, if it is there.
    pub(super) fn small(&self, symbol: Symbol, moved: Option<f32>) -> Vec<f32> {
        let mut rng = rng(self.seed, CARDS, 0);
        let mut between = |a: f64, b: f64| (a + (b - a) * rng.uniform()) as f32;
        let level = between(215.0, 250.0);
        let ground: [f32; 3] = std::array::from_fn(|_| level + between(-8.0, 8.0));
        let ink: [f32; 3] = INKS[symbol.color].map(|v| v + between(-10.0, 10.0));
        let most = 0.5 * self.width.min(self.height) as f64;
        let radius = between((0.7 * most).min(22.0), most.min(28.0));
        let (left, right) = (f64::from(radius), self.width as f64 - f64::from(radius));
        let (from, goes_right) = (between(left, right), between(0.0, 1.0) < 0.5);
        let cy = between(f64::from(radius), self.height as f64 - f64::from(radius));
        let Some(moved) = moved else {
            return self.on_ground((ground, ink), symbol.shape, (0.0, 0.0, 0.0), (0.0, 1.0));
        };
        // At the edge it comes back from the other side.
        let way = if goes_right { moved } else { -moved };
        let (left, right) = (left as f32, right as f32);
        let cx = left + (from + way - left).rem_euclid((right - left).max(1.0));
        self.on_ground((ground, ink), symbol.shape, (radius, cx, cy), (0.0, 1.0))
    }

    /// A shape of some radius around a point, none of radius 0, turned by an angle of this sine and cosine.
    fn on_ground(
        &self,
        (ground, ink): ([f32; 3], [f32; 3]),
        shape: usize,
        (radius, cx, cy): (f32, f32, f32),
        (sin, cos): (f32, f32),
    ) -> Vec<f32> {
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            for x in 0..self.width {
                let near = (x as f32 - cx).abs().max((y as f32 - cy).abs()) <= 1.3 * radius;
                let cover = if near && radius > 0.0 {
                    // Three by three points make the edge smooth.
                    let hits = (0..9).filter(|k| {
                        let dx = (x as f32 + (k % 3) as f32 / 3.0 - cx) / radius;
                        let dy = (y as f32 + (k / 3) as f32 / 3.0 - cy) / radius;
                        inside(shape, dx * cos + dy * sin, dy * cos - dx * sin)
                    });
                    hits.count() as f32 / 9.0
                } else {
                    0.0
                };
                rgb.extend((0..3).map(|c| ground[c] + cover * (ink[c] - ground[c])));
            }
        }
        rgb
    }

    /// A pattern at step `step` of its movement, and how noisy it is.
    pub(super) fn pattern(&self, scene: usize, step: f32) -> (Vec<f32>, f32) {
        use std::f32::consts::TAU;
        let mut rng = rng(self.seed, SCENES, scene);
        let kind = rng.below(6);
        let mut between = |a: f64, b: f64| (a + (b - a) * rng.uniform()) as f32;
        let a: [f32; 3] = std::array::from_fn(|_| between(0.0, 255.0));
        let b: [f32; 3] = std::array::from_fn(|_| between(0.0, 255.0));
        let turn = between(0.0, std::f64::consts::TAU);
        let (period, phase, speed) = (between(14.0, 60.0), between(0.0, 60.0), between(-6.0, 6.0));
        let (hard, deviation) = (between(0.0, 1.0) < 0.7, between(0.0, 8.0));
        let at = phase + speed * step;
        let (sin, cos) = libm::sincosf(turn);
        let (w, h) = (self.width as f32, self.height as f32);
        // The range of `along` over the frame, for gradients.
        let (low, high) = ((w * cos).min(0.0) + (h * sin).min(0.0), (w * cos).max(0.0) + (h * sin).max(0.0));
        let wave = |x: f32, period: f32| libm::sinf(x * (TAU / period));
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            for x in 0..self.width {
                let (x, y) = (x as f32, y as f32);
                let (along, across) = (x * cos + y * sin, y * cos - x * sin);
                let mut weight = match kind {
                    0 => 0.0,
                    1 => 0.5 + 0.5 * wave(along + at, period),
                    2 => 0.5 + 0.5 * wave(along + at, period) * wave(across, period),
                    3 => (along + at - low) / (high - low),
                    4 => 0.5 + 0.5 * wave(libm::hypotf(x - phase / 60.0 * w, y - turn / TAU * h) + at, period),
                    _ => {
                        let clouds = [(0.3, 1.0), (2.1, 1.7), (4.4, 2.9)].map(|(more, slower)| {
                            let (sin, cos) = libm::sincosf(turn + more);
                            libm::sinf((x * cos + y * sin + at) * (TAU / (period * slower)) + turn + more)
                        });
                        clouds.iter().sum::<f32>() / 6.0 + 0.5
                    }
                };
                if hard && matches!(kind, 1 | 2 | 4) {
                    weight = if weight > 0.5 { 1.0 } else { 0.0 };
                }
                let weight = weight.clamp(0.0, 1.0);
                rgb.extend((0..3).map(|c| a[c] + weight * (b[c] - a[c])));
            }
        }
        (rgb, deviation)
    }
}

/// Whether a point lies in a shape of radius 1 about 0; `u` to the right, `v` down.
fn inside(shape: usize, u: f32, v: f32) -> bool {
    let r = libm::hypotf(u, v);
    let (near, far) = (u.abs().min(v.abs()), u.abs().max(v.abs()));
    match SHAPES[shape] {
        "circle" => r <= 0.9,
        "square" => far <= 0.8,
        "triangle" => v <= 0.75 && v + 1.0 >= u.abs() * (1.75 / 0.95),
        "cross" => near <= 0.3 && far <= 0.9,
        "heart" => {
            let (x, y) = (1.2 * u, -1.2 * v);
            let sum = x * x + y * y - 1.0;
            sum * sum * sum - x * x * y * y * y <= 0.0
        }
        "ring" => (0.5..=0.9).contains(&r),
        "diamond" => u.abs() + v.abs() <= 1.0,
        // A star: the point is folded onto the half ray between an outer corner (1, 0) and the inner one beside it.
        _ => {
            let part = std::f32::consts::TAU / 5.0;
            let turned = libm::atan2f(v, u) + std::f32::consts::FRAC_PI_2 + part / 2.0;
            let angle = (turned.rem_euclid(part) - part / 2.0).abs();
            let (sin, cos) = libm::sincosf(angle);
            let (x, y) = (r * cos, r * sin);
            let (inner_sin, inner_cos) = libm::sincosf(part / 2.0);
            let (bx, by) = (0.42 * inner_cos - 1.0, 0.42 * inner_sin);
            bx * y - by * (x - 1.0) >= 0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_from_seed_and_number() {
        let video = |seed| DrawnVideo::new(seed, (112, 84), 20, 3, Some(0.5)).unwrap();
        assert_eq!(video(1).frame(7), video(1).frame(7));
        assert_ne!(video(1).frame(7), video(2).frame(7));
        assert_ne!(video(1).frame(6), video(1).frame(7), "noise and movement differ");
        assert_eq!(video(1).frame(0).len(), 112 * 84 * 3);
        assert_eq!(video(1).needles[0].pair, 10);
    }

    #[test]
    fn needles_differ_in_shape_and_colour_and_place() {
        for seed in 0..200 {
            let video = DrawnVideo::new(seed, (56, 56), 8, 8, None).unwrap();
            for key in [|n: &DrawnNeedle| n.symbol.shape, |n: &DrawnNeedle| n.symbol.color, |n: &DrawnNeedle| n.pair] {
                let mut seen: Vec<usize> = video.needles.iter().map(key).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..8).collect::<Vec<_>>(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_card_shows_its_ink_on_a_light_ground() {
        for seed in 0..32 {
            let video = DrawnVideo::new(seed, (448, 252), 1, 1, None).unwrap();
            let ink = INKS[video.needles[0].symbol.color];
            let frame = video.frame(0);
            let near = |p: &[u8]| p.iter().zip(ink).all(|(v, want)| (f32::from(*v) - want).abs() < 32.0);
            let inked = frame.chunks_exact(3).filter(|p| near(p)).count();
            let light = frame.chunks_exact(3).filter(|p| p.iter().all(|v| *v > 190)).count();
            assert!(inked > 500, "seed {seed}: {} pixels of {}", inked, video.needles[0].symbol);
            assert!(light > 448 * 252 / 2, "seed {seed}: {light} light pixels");
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        assert!(DrawnVideo::new(0, (57, 56), 4, 1, None).is_err());
        assert!(DrawnVideo::new(0, (28, 56), 4, 1, None).is_err());
        assert!(DrawnVideo::new(0, (56, 56), 4, 5, None).is_err());
        assert!(DrawnVideo::new(0, (56, 56), 100, 9, None).is_err());
        assert!(DrawnVideo::new(0, (56, 56), 4, 1, Some(f64::NAN)).is_err());
        assert!(DrawnVideo::new(0, (56, 56), 4, 1, Some(1.1)).is_err());
    }
}
