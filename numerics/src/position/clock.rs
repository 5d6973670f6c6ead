//! How fast time goes by in a visual segment: by a temporal scale, or by the clock.

use crate::{Error, Result};

/// What a visual segment says of its time; a layout heeds what it knows (see [`Time`](super::Time)).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// The temporal scale, or the layout's own.
    pub scale: Option<f64>,
    /// Seconds, for models that were trained with them.
    pub clock: Option<Clock>,
}

impl From<Option<f64>> for Pace {
    fn from(scale: Option<f64>) -> Pace {
        Pace { scale, clock: None }
    }
}

/// Absolute time (Qwen2.5-VL): a frame pair stands at the whole number of ids that have passed since the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// Seconds between two frame pairs: 2 / frames a second.
    pub seconds_per_pair: f64,
    /// Ids per second (`tokens_per_second`).
    pub ids_per_second: f64,
}

impl Clock {
    /// Refuses clocks that stand still or run backwards.
    ///
    /// # Errors
    /// Rates that are not positive and finite.
    pub fn checked(self) -> Result<Clock> {
        let Clock { seconds_per_pair, ids_per_second } = self;
        let is_rate = |v: f64| v > 0.0 && v <= 1e6;
        if is_rate(seconds_per_pair) && is_rate(ids_per_second) {
            return Ok(self);
        }
        Err(Error::bad_input(format!(
            "`{seconds_per_pair}` seconds for each frame pair at `{ids_per_second}` ids a second, expected positive numbers"
        )))
    }

    /// The id of pair `f`. Every product is rounded to f32 as the reference does: in f64, some pairs of odd frame rates land on
    /// the other side of a whole number.
    pub fn id(&self, f: f64) -> f64 {
        let seconds = f as f32 * self.seconds_per_pair as f32;
        f64::from((seconds * self.ids_per_second as f32).floor())
    }
}
