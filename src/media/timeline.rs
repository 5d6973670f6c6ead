//! When frames are shown: irregular timestamps seen as a steady sequence.
//!
//! Sampling rules count frames, as if a video had a constant rate. For a file whose frames come at irregular times the
//! count would favour the busy parts, so index `i` of `n` stands for the frame on screen at `i/n` of the running time. A
//! frame counts as on screen up to half an interval before its time; a file of constant rate, with timestamps rounded to
//! whatever unit, therefore keeps exactly its own numbering.

use super::limits::MAX_FPS;

/// Rate assumed where a file gives none.
const NOMINAL_FPS: f64 = 25.0;

/// Display times of the frames of a video.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    /// In ticks, never decreasing; not empty.
    times: Vec<i64>,
    /// From the first frame's time to the last frame's end, in ticks; 0 where the times say nothing.
    duration: i64,
    /// Seconds per tick.
    tick: f64,
}

impl Timeline {
    /// `times` in display order (they are made to never decrease), the display time of the last frame in ticks (0 for
    /// unknown), ticks per second. `None` without a frame.
    pub fn new(mut times: Vec<i64>, last: i64, ticks_per_second: f64) -> Option<Timeline> {
        times.sort_unstable();
        let (&first, &end) = (times.first()?, times.last()?);
        let span = end.checked_sub(first).unwrap_or(0);
        let mean = span / (times.len() as i64 - 1).max(1);
        // A last frame that stays for ever says nothing about the rate.
        let last = if last > 0 && (times.len() == 1 || last <= mean.saturating_mul(10)) { last } else { mean };
        let tick = if ticks_per_second > 0.0 { 1.0 / ticks_per_second } else { 0.0 };
        let duration = span.saturating_add(last);
        let duration = if duration as f64 * tick > 0.0 { duration } else { 0 };
        Some(Timeline { times, duration, tick })
    }

    pub fn n_frames(&self) -> usize {
        self.times.len()
    }

    /// When the frame of this number is shown, in seconds from the first one.
    pub fn seconds(&self, number: usize) -> f64 {
        self.times[number].saturating_sub(self.times[0]) as f64 * self.tick
    }

    /// Mean frames per second, at most [`MAX_FPS`].
    pub fn fps(&self) -> f64 {
        match self.duration {
            0 => NOMINAL_FPS,
            ticks => (self.n_frames() as f64 / (ticks as f64 * self.tick)).min(MAX_FPS),
        }
    }

    /// Seconds.
    pub fn duration(&self) -> f64 {
        match self.duration {
            0 => self.n_frames() as f64 / NOMINAL_FPS,
            ticks => ticks as f64 * self.tick,
        }
    }

    /// Which frame in display order stands at `index` of the steady sequence.
    pub fn shown_at(&self, index: usize) -> usize {
        if self.duration == 0 {
            return index.min(self.n_frames() - 1);
        }
        let (n, first) = (self.n_frames() as i128, i128::from(self.times[0]));
        // The middle of interval `index`, everything multiplied by 2n to stay exact.
        let middle = (2 * index as i128 + 1) * i128::from(self.duration);
        let after = self.times.partition_point(|&t| (i128::from(t) - first) * 2 * n <= middle);
        after.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(times: &[i64], last: i64) -> Vec<usize> {
        let timeline = Timeline::new(times.to_vec(), last, 1000.0).unwrap();
        (0..times.len()).map(|i| timeline.shown_at(i)).collect()
    }

    #[test]
    fn constant_rates_keep_their_numbering() {
        // 29.97 frames a second in milliseconds, then the same with a late start.
        let times: Vec<i64> = (0..1000).map(|i| (i as f64 * 1001.0 / 30.0).round() as i64).collect();
        let late: Vec<i64> = times.iter().map(|t| t + 5000).collect();
        for times in [times, late] {
            assert_eq!(shown(&times, 33), (0..1000).collect::<Vec<_>>());
            let timeline = Timeline::new(times, 33, 1000.0).unwrap();
            assert!((timeline.fps() - 29.97).abs() < 0.01, "{}", timeline.fps());
        }
    }

    #[test]
    fn irregular_rates_are_seen_through_the_clock() {
        // Five frames in the first half second, then one that stays for another half; the middles of the six intervals are
        // at 83, 250, 417, 583, 750 and 917 ms.
        assert_eq!(shown(&[0, 100, 200, 300, 400, 500], 500), [0, 2, 4, 5, 5, 5]);
        assert_eq!(shown(&[0, 500, 600, 700, 800, 900], 100), [0, 0, 0, 1, 3, 5]);
    }

    #[test]
    fn senseless_times_do_no_harm() {
        assert!(Timeline::new(Vec::new(), 1, 1000.0).is_none());
        assert_eq!(shown(&[7], 0), [0]);
        assert_eq!(shown(&[7, 7, 7], 0), [0, 1, 2]);
        assert_eq!(shown(&[i64::MIN, i64::MAX], i64::MAX), [0, 1]);
        for ticks in [0.0, f64::NAN, f64::INFINITY, 1e-300] {
            let timeline = Timeline::new(vec![0, 1], 1, ticks).unwrap();
            assert!(timeline.fps() > 0.0 && timeline.duration() > 0.0, "{ticks}");
        }
    }
}
