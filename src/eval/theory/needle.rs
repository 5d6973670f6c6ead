//! E8: a needle among unrelated frames, without a model. It shows a direction, not benchmark scores.

use super::experiments::{ExperimentRow, SCALES, yes};
use super::{BASE, Experiment, N_ROT, rotary};
use crate::Result;
use crate::position::{Layout, Placer, Pos, Rotary};
use crate::random::Rng;

/// Text before the video, and a frame's tokens.
const N_TEXT: usize = 20;
const FRAME: [usize; 2] = [9, 16];
const DEPTHS: [f64; 5] = [0.0, 0.2, 0.4, 0.6, 0.8];
/// Draws of a query and its needle.
const N_DRAWS: usize = 1000;

/// The displacement from the centre of frame `needle` of `n` to the first text token after the video.
fn displacement(layout: Layout, scale: f64, n: usize, needle: usize) -> Result<Pos> {
    let (mut placer, mut pos) = (Placer::new(layout), Vec::new());
    let [h, w] = FRAME;
    placer.text(N_TEXT, &mut pos);
    placer.begin_visual(h, w, Some(scale))?;
    placer.pass_frames(needle)?;
    pos.clear();
    placer.frames(1, &mut pos);
    let key = pos[h / 2 * w + w / 2];
    placer.pass_frames(n - needle - 1)?;
    pos.clear();
    placer.text(1, &mut pos);
    let query = pos[0];
    Ok(Pos { t: query.t - key.t, h: query.h - key.h, w: query.w - key.w })
}

/// The chance that a needle like the query scores higher than each of `n` - 1 unrelated keys.
///
/// Given the query, the score of an unrelated key is normal with the query's length as its deviation, however both are
/// rotated; so the chance follows from the needle's score alone, and no unrelated key has to be drawn.
fn success(rotary: &Rotary, displacement: Pos, n: usize, draws: &[([f64; N_ROT], [f64; N_ROT])]) -> f64 {
    let half = N_ROT / 2;
    let turn: Vec<(f64, f64)> = (0..half).map(|i| rotary.angle(i, displacement).sin_cos()).collect();
    let chance = |(q, k): &([f64; N_ROT], [f64; N_ROT])| {
        let pair = |i: usize| {
            let (sin, cos) = turn[i];
            (q[i] * k[i] + q[i + half] * k[i + half]) * cos + (q[i] * k[i + half] - q[i + half] * k[i]) * sin
        };
        let score: f64 = (0..half).map(pair).sum();
        let length = q.iter().map(|v| v * v).sum::<f64>().sqrt();
        let below = 0.5 * libm::erfc(-score / length / std::f64::consts::SQRT_2);
        below.powi(n as i32 - 1)
    };
    draws.iter().map(chance).sum::<f64>() / draws.len() as f64
}

/// The experiment.
pub(super) fn proxy(seed: u64) -> Result<Experiment> {
    let mut rng = Rng::new(seed ^ 8);
    let draws: Vec<_> = (0..N_DRAWS)
        .map(|_| {
            let (mut q, mut k) = ([0.0; N_ROT], [0.0; N_ROT]);
            rng.fill_normal(&mut q, 0.0, 1.0);
            rng.fill_normal(&mut k, 0.0, 0.5);
            k.iter_mut().zip(&q).for_each(|(k, q)| *k += q);
            (q, k)
        })
        .collect();
    let mut cases: Vec<(Layout, f64)> = vec![(Layout::Rope, 1.0), (Layout::Mrope, 1.0), (Layout::VideoRope, 2.0)];
    cases.extend(SCALES.map(|scale| (Layout::Hope, scale)));
    let mut rows = Vec::new();
    let mut mean = |layout: Layout, scale: f64, n: usize, expected: &str| -> Result<f64> {
        let rotary = rotary(layout, BASE)?;
        let mut sum = 0.0;
        for depth in DEPTHS {
            let needle = (depth * n as f64).floor() as usize;
            sum += success(&rotary, displacement(layout, scale, n, needle)?, n, &draws);
        }
        let mean = sum / DEPTHS.len() as f64;
        let of = if layout == Layout::Hope { format!("{layout}, scale {scale}") } else { layout.to_string() };
        rows.push(ExperimentRow::info(
            format!("needle found among {n} frames, {of}, seed {seed}"),
            expected,
            format!("{mean:.2}"),
        ));
        Ok(mean)
    };
    let (mut short, mut long) = (Vec::new(), Vec::new());
    for &(layout, scale) in &cases {
        short.push(mean(layout, scale, 56, if layout == Layout::Rope { "0.89" } else { "1.00" })?);
        let of_500 = match layout {
            Layout::Rope => "0.20",
            Layout::Mrope => "0.97",
            Layout::VideoRope => "0.98",
            _ => "0.97 to 1.00",
        };
        mean(layout, scale, 500, of_500)?;
        let of_3000 = match layout {
            Layout::Rope => "0.05",
            Layout::Mrope => "0.91",
            Layout::VideoRope => "0.64",
            _ => "0.81 to 0.94",
        };
        long.push(mean(layout, scale, 3000, of_3000)?);
    }
    let (rope, videorope, hope) = (long[0], long[2], &long[3..]);
    let ordered = rope < videorope && hope.iter().all(|hope| videorope < *hope);
    rows.push(ExperimentRow::holds("rope < videorope < hope among 3000 frames", "yes", yes(ordered), ordered));
    let easy = short[1..].iter().all(|share| *share >= 0.99);
    rows.push(ExperimentRow::holds("all but rope find it among 56 frames", "yes", yes(easy), easy));
    Ok(Experiment { id: "E8", title: "a needle among random frames, without a model (for information)", rows })
}
