//! Drawn videos that hurt whoever leaves something out: a symbol is shown for one frame pair, or is small and moves, and what stands
//! around it never changes, changes everywhere, or changes without meaning anything.

use super::symbols::{DrawnNeedle, DrawnVideo, Question};
use crate::Result;
use crate::random::Rng;

/// What happens in a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hard {
    /// A scene in which nothing moves, to the bit.
    Still,
    /// A scene that moves by at most 0.6 pixels a frame.
    Pan,
    /// A still scene whose light changes from pair to pair.
    Flicker,
    /// A still scene under noise, new in every frame.
    Noise,
    /// Another scene in every pair.
    Cuts,
    /// Scenes of eight pairs whose patterns move, as models were trained with.
    Scenes,
    /// The same with two symbols, three quarters of the video apart.
    LookAlikes,
    /// The same with three symbols.
    Several,
    /// A small symbol that is there for four pairs and moves by a cell from one to the next, before a ground that stays.
    Mover,
}

impl Hard {
    /// All of them.
    pub const ALL: [Hard; 9] = [
        Hard::Still,
        Hard::Pan,
        Hard::Flicker,
        Hard::Noise,
        Hard::Cuts,
        Hard::Scenes,
        Hard::LookAlikes,
        Hard::Several,
        Hard::Mover,
    ];

    /// As flags call it.
    pub fn id(self) -> &'static str {
        match self {
            Hard::Still => "still",
            Hard::Pan => "pan",
            Hard::Flicker => "flicker",
            Hard::Noise => "noise",
            Hard::Cuts => "cuts",
            Hard::Scenes => "scenes",
            Hard::LookAlikes => "two",
            Hard::Several => "three",
            Hard::Mover => "mover",
        }
    }

    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Hard::Still => "still",
            Hard::Pan => "slow pan",
            Hard::Flicker => "flicker",
            Hard::Noise => "noise",
            Hard::Cuts => "cut at every pair",
            Hard::Scenes => "moving scenes",
            Hard::LookAlikes => "two symbols far apart",
            Hard::Several => "three symbols",
            Hard::Mover => "small and moving",
        }
    }

    /// Symbols in a video.
    pub fn n_symbols(self) -> usize {
        match self {
            Hard::LookAlikes => 2,
            Hard::Several => 3,
            _ => 1,
        }
    }
}

/// Pairs for which a moving symbol is there.
const MOVER_PAIRS: usize = 4;
/// How far it moves, in pixels: a cell.
const STRIDE: f32 = super::symbols::CELL as f32;

/// A video of one kind.
pub struct HardVideo {
    kind: Hard,
    video: DrawnVideo,
    /// Of flicker: how much, in 8-bit steps. Of noise: its deviation.
    amount: f32,
    seed: u64,
}

impl HardVideo {
    /// A video of `n_pairs` pairs of frames of `size` (width, height); `depth` in [0, 1] says where a single symbol is, which is
    /// anywhere without it. No symbol is in the first pair.
    ///
    /// # Errors
    /// Those of [`DrawnVideo::new`].
    pub fn new(seed: u64, kind: Hard, size: (usize, usize), n_pairs: usize, depth: Option<f64>) -> Result<HardVideo> {
        let mut video = DrawnVideo::new(seed, size, n_pairs, kind.n_symbols(), depth)?;
        let mut rng = Rng::new(seed ^ (0x48 << 56));
        if kind == Hard::LookAlikes {
            let far = 3 * n_pairs / 4;
            let first = 1 + rng.below((n_pairs - far).saturating_sub(1).max(1));
            let mut places = [first, (first + far).min(n_pairs - 1)];
            if rng.below(2) == 0 {
                places.reverse();
            }
            for (needle, pair) in video.needles.iter_mut().zip(places) {
                needle.pair = pair;
            }
        }
        if kind == Hard::Mover {
            let last = n_pairs.saturating_sub(MOVER_PAIRS);
            let drawn = 1 + rng.below(last.max(1));
            video.needles[0].pair = if depth.is_some() { video.needles[0].pair.min(last) } else { drawn };
        }
        // Everybody keeps the first pair, so nothing is hidden there.
        let mut taken: Vec<usize> = video.needles.iter().map(|needle| needle.pair).collect();
        for i in 0..taken.len() {
            if taken[i] == 0 {
                taken[i] = (1..n_pairs).find(|pair| !taken.contains(pair)).unwrap_or(0);
                video.needles[i].pair = taken[i];
            }
        }
        let amount = match kind {
            Hard::Flicker => 8.0 + 16.0 * rng.unit() as f32,
            Hard::Noise => 8.0 + 12.0 * rng.unit() as f32,
            _ => 0.0,
        };
        Ok(HardVideo { kind, video, amount, seed })
    }

    /// Symbols, the one that is asked about first.
    pub fn needles(&self) -> &[DrawnNeedle] {
        &self.video.needles
    }

    /// What is asked.
    pub fn question(&self) -> Option<Question> {
        self.video.question()
    }

    /// Frame `i` as RGB bytes, (height, width, 3).
    pub fn frame(&self, i: usize) -> Vec<u8> {
        let pair = i / 2;
        let shown = self.video.needles.iter().find(|needle| needle.pair == pair);
        // A symbol, or a scene at a step of its movement.
        let values = |scene: usize, step: f32| match shown {
            Some(needle) => self.video.card(needle.symbol, pair).0,
            None => self.video.pattern(scene, step).0,
        };
        let random = |what: u64, at: usize| Rng::new(self.seed ^ (what << 56) ^ at as u64);
        let values = match self.kind {
            Hard::Scenes | Hard::LookAlikes | Hard::Several => return self.video.frame(i),
            Hard::Mover => {
                let needle = &self.video.needles[0];
                let step = pair.checked_sub(needle.pair).filter(|step| *step < MOVER_PAIRS);
                self.video.small(needle.symbol, step.map(|step| step as f32 * STRIDE))
            }
            Hard::Still => values(0, 0.0),
            Hard::Pan => values(0, 0.1 * i as f32),
            Hard::Cuts => values(pair, (i % 2) as f32),
            Hard::Flicker => {
                let light = self.amount * (2.0 * random(0x46, pair).unit() as f32 - 1.0);
                values(0, 0.0).iter().map(|v| v + light).collect()
            }
            Hard::Noise => {
                let mut noise = random(0x4e, i);
                values(0, 0.0).iter().map(|v| v + self.amount * noise.normal()).collect()
            }
        };
        values.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect()
    }
}
