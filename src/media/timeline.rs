//! When frames are shown: irregular timestamps seen as a steady sequence.
//!
//! Sampling rules count frames, as if a video had a constant rate. For a file whose frames come at irregular times the
//! count would favour the busy parts, so index `i` of `n` stands for a time: `i/(n-1)` of the way from the first frame's time
//! to the last one's. The frame at an index is the one on screen at its time, or the next one where that is nearer and at
//! most half a mean interval away. Index 0 is therefore the first frame and index `n-1` the last one; a file of constant
//! rate, with timestamps rounded to whatever unit or shaken by less than half an interval, keeps exactly its own numbering.
//!
//! Only the times of the frames count, since containers disagree about how long the last one stays: the same stream gives
//! the same frames from any of them, whoever decodes it.

use super::limits::MAX_FPS;
use super::video::Shown;

/// Rate assumed where a file gives none.
const NOMINAL_FPS: f64 = 25.0;

/// Display times of the frames of a video.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    /// In ticks, never decreasing; not empty.
    times: Vec<i64>,
    /// From the first frame's time to the last frame's, in ticks; 0 where the times say nothing.
    span: i64,
    /// How long the last frame stays, in ticks.
    last: i64,
    /// Seconds per tick.
    tick: f64,
}

impl Timeline {
    /// `times` in display order (they are made to never decrease), the display time of the last frame in ticks (0 for
    /// unknown), ticks per second. `None` without a frame.
    pub(super) fn new(mut times: Vec<i64>, last: i64, ticks_per_second: f64) -> Option<Timeline> {
        times.sort_unstable();
        let (&first, &end) = (times.first()?, times.last()?);
        let span = end.checked_sub(first).unwrap_or(0);
        let mean = span / (times.len() as i64 - 1).max(1);
        // A last frame that stays for ever says nothing about the rate.
        let last = if last > 0 && (times.len() == 1 || last <= mean.saturating_mul(10)) { last } else { mean };
        let tick = if ticks_per_second > 0.0 { 1.0 / ticks_per_second } else { 0.0 };
        let span = if span as f64 * tick > 0.0 { span } else { 0 };
        Some(Timeline { times, span, last, tick })
    }

    pub(super) fn n_frames(&self) -> usize {
        self.times.len()
    }

    /// Mean frames per second from the first frame to the last, at most [`MAX_FPS`].
    pub(super) fn fps(&self) -> f64 {
        // One frame has no rate but, maybe, a length.
        let (n, ticks) = if self.span > 0 { (self.n_frames() - 1, self.span) } else { (self.n_frames(), self.last) };
        let seconds = ticks as f64 * self.tick;
        if seconds > 0.0 { (n as f64 / seconds).min(MAX_FPS) } else { NOMINAL_FPS }
    }

    /// Seconds.
    pub(super) fn duration(&self) -> f64 {
        let seconds = self.span.saturating_add(self.last) as f64 * self.tick;
        if seconds > 0.0 { seconds } else { self.n_frames() as f64 / NOMINAL_FPS }
    }

    /// Which frame in display order stands at `index` of the steady sequence, and when it appears.
    pub(super) fn shown(&self, index: usize) -> Shown {
        let number = self.shown_at(index);
        let ticks = self.times[number].saturating_sub(self.times[0]);
        let seconds = if self.span > 0 { ticks as f64 * self.tick } else { number as f64 / self.fps() };
        Shown { number, seconds }
    }

    /// The number alone.
    pub(super) fn shown_at(&self, index: usize) -> usize {
        let end = self.n_frames() - 1;
        let index = index.min(end);
        // Frames of one and the same time are all there is, or the first of them is not to be lost.
        if self.span == 0 || index == 0 {
            return index;
        }
        // Everything from the first frame on, multiplied by 2(n-1) to stay exact.
        let scale = 2 * end as i128;
        let at = |i: usize| (i128::from(self.times[i]) - i128::from(self.times[0])) * scale;
        let time = 2 * index as i128 * i128::from(self.span);
        let now = self.times.partition_point(|&t| (i128::from(t) - i128::from(self.times[0])) * scale <= time) - 1;
        let (behind, ahead) = (time - at(now), at((now + 1).min(end)) - time);
        let takes_next = now < end && ahead < behind && ahead <= i128::from(self.span);
        now + usize::from(takes_next)
    }
}

impl Timeline {
    /// When the frame of this number is shown, in seconds from the first one.
    pub(super) fn seconds(&self, number: usize) -> f64 {
        self.times[number].saturating_sub(self.times[0]) as f64 * self.tick
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
    fn shaken_times_keep_their_numbering() {
        for late_by in [0, 1, 7, 15] {
            let times: Vec<i64> = (0..200).map(|i| i * 33 + i * 7919 % (late_by + 1)).collect();
            assert_eq!(shown(&times, 33), (0..200).collect::<Vec<_>>(), "up to {late_by} of 33 late");
        }
    }

    #[test]
    fn irregular_rates_are_seen_through_the_clock() {
        // Five frames in the first half second, then one that stays for another half: nobody knows how long it stays.
        assert_eq!(shown(&[0, 100, 200, 300, 400, 500], 500), [0, 1, 2, 3, 4, 5]);
        // The times of the six indices are 0, 180, 360, 540, 720 and 900 ms.
        assert_eq!(shown(&[0, 500, 600, 700, 800, 900], 100), [0, 0, 0, 1, 3, 5]);
        // A busy beginning, then a still picture: 0, 1250, 2500, 3750, 5000 ms.
        assert_eq!(shown(&[0, 33, 66, 100, 5000], 5000), [0, 3, 3, 3, 4]);
        // A long first frame, as screen recordings have it: 0, 1025, 2050, 3075, 4100 ms.
        assert_eq!(shown(&[0, 4000, 4033, 4066, 4100], 33), [0, 0, 0, 0, 4]);
        // Two frames at one time.
        assert_eq!(shown(&[0, 0, 100, 100, 200, 200], 100), [0, 1, 2, 3, 3, 5]);
    }

    #[test]
    fn how_long_the_last_frame_stays_changes_no_choice() {
        let times = [0, 40, 80, 700, 740, 780, 1500];
        let want = shown(&times, 0);
        for last in [1, 40, 5000, i64::MAX] {
            assert_eq!(shown(&times, last), want, "{last}");
            let timeline = Timeline::new(times.to_vec(), last, 1000.0).unwrap();
            assert_eq!(timeline.fps(), 4.0);
        }
    }

    #[test]
    fn frames_know_their_own_times() {
        let timeline = Timeline::new(vec![1000, 1510, 1600, 2000], 100, 1000.0).unwrap();
        let got: Vec<(usize, f64)> = (0..4).map(|i| timeline.shown(i)).map(|s| (s.number, s.seconds)).collect();
        assert_eq!(got, [(0, 0.0), (0, 0.0), (2, 0.6), (3, 1.0)]);
        let timeless = Timeline::new(vec![3, 3, 3], 0, 1000.0).unwrap();
        assert_eq!(timeless.shown(2), Shown { number: 2, seconds: 2.0 / 25.0 });
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
