//! Edit lists: which parts of a track are shown, one after the other.
//!
//! As players do: a frame belongs to a part when its time is in it, so frames before the first part (which a cut without
//! re-encoding leaves in the file) are decoded but not shown; pauses before the film begins are nothing to see and are left
//! out. Parts that repeat or go backwards need somebody who can decode backwards.

use super::boxes::{entries, u64_at, word};
use super::index::Sample;
use crate::{Error, Result};

/// A part of the track in ticks of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    /// First time that is shown.
    start: i64,
    /// First time that is not.
    end: i64,
    /// What to add to a time of the track for the time of the film.
    shift: i64,
}

/// The parts that an `elst` box names, in order; none where it names none, and then everything is shown. The box counts in
/// `movie_ticks` per second, the parts in `ticks`.
///
/// # Errors
/// `Unsupported` for parts that repeat or go backwards.
pub(super) fn read(elst: &[u8], ticks: u32, movie_ticks: u32) -> Result<Vec<Edit>> {
    let (short, long) = match elst.first() {
        Some(&1) => (&[][..], entries::<20>(Some(elst))),
        _ => (entries::<12>(Some(elst)), &[][..]),
    };
    let short = short.iter().map(|e| (u64::from(word(e, 0)), i64::from(word(e, 1) as i32)));
    let long = long.iter().map(|e| (u64_at(e, 0).unwrap_or(0), u64_at(e, 8).unwrap_or(0) as i64));
    let length = |duration: u64| {
        let (duration, ticks, movie_ticks) = (u128::from(duration), u128::from(ticks), u128::from(movie_ticks.max(1)));
        i64::try_from((duration * ticks + movie_ticks / 2) / movie_ticks).unwrap_or(i64::MAX)
    };
    // Lengths are rounded to ticks of the movie: two parts of one take may touch by that much.
    let slack = length(1).saturating_add(1);
    let mut edits: Vec<Edit> = Vec::new();
    let mut now = 0i64;
    let mut all = short.chain(long).peekable();
    while let Some((duration, start)) = all.next() {
        let len = length(duration);
        if start < 0 {
            now = now.saturating_add(len); // a pause
            continue;
        }
        // No length at the end of the list: as long as there is something.
        let end = match len {
            0 if all.peek().is_some() => continue,
            0 => i64::MAX,
            len => start.saturating_add(len),
        };
        if let Some(last) = edits.last_mut().filter(|last| last.end > start) {
            if last.end.saturating_sub(start) > slack || last.start >= start {
                return Err(Error::unsupported("an edit list that shows a part twice or backwards is not built in"));
            }
            last.end = start;
        }
        edits.push(Edit { start, end, shift: now.saturating_sub(start) });
        now = now.saturating_add(len);
    }
    Ok(edits)
}

/// The samples that are shown, in display order, and the time of each. Everything when `edits` is empty or shows nothing.
pub(super) fn display_order(samples: &[Sample], edits: &[Edit]) -> (Vec<u32>, Vec<i64>) {
    let mut order: Vec<u32> = (0..samples.len() as u32).collect();
    order.sort_by_key(|&i| samples[i as usize].pts);
    let mut times = Vec::with_capacity(order.len());
    let mut at = edits.iter().peekable();
    let mut within = order.clone();
    within.retain(|&i| {
        let pts = samples[i as usize].pts;
        while at.next_if(|edit| edit.end <= pts).is_some() {}
        let edit = at.peek().filter(|edit| edit.start <= pts);
        times.extend(edit.map(|edit| pts.saturating_add(edit.shift)));
        edit.is_some()
    });
    if within.is_empty() {
        times.extend(order.iter().map(|&i| samples[i as usize].pts));
        return (order, times);
    }
    (within, times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elst(edits: &[(u32, i32)]) -> Vec<u8> {
        let head = [0u32, edits.len() as u32];
        let rest = edits.iter().flat_map(|&(duration, start)| [duration, start as u32, 0x1_0000]);
        head.into_iter().chain(rest).flat_map(u32::to_be_bytes).collect()
    }

    fn long_elst(edits: &[(u64, i64)]) -> Vec<u8> {
        let mut bytes = [1u32 << 24, edits.len() as u32].map(u32::to_be_bytes).concat();
        for (duration, start) in edits {
            bytes.extend([duration.to_be_bytes(), start.to_be_bytes()].concat());
            bytes.extend(0x1_0000u32.to_be_bytes());
        }
        bytes
    }

    /// Times of a film of ten frames, 100 ticks each, under an edit list in the same ticks.
    fn times(elst: &[u8]) -> Vec<(u32, i64)> {
        let sample = |i: i64| Sample { offset: 0, size: 1, pts: i * 100, sync: true, config: 0 };
        let samples: Vec<Sample> = (0..10).map(sample).collect();
        let (shown, times) = display_order(&samples, &read(elst, 1000, 1000).unwrap());
        shown.into_iter().zip(times).collect()
    }

    #[test]
    fn parts_follow_one_another() {
        let all: Vec<(u32, i64)> = (0..10).map(|i| (i, i64::from(i) * 100)).collect();
        for nothing in [&[][..], &elst(&[]), &elst(&[(500, -1)]), &elst(&[(5, 5000)])] {
            assert_eq!(times(nothing), all);
        }
        assert_eq!(times(&elst(&[(300, 200)])), [(2, 0), (3, 100), (4, 200)]);
        assert_eq!(times(&elst(&[(40, -1), (0, 700)])), [(7, 40), (8, 140), (9, 240)]);
        let cut = [(1, 0), (2, 100), (7, 200), (8, 300)];
        assert_eq!(times(&elst(&[(200, 100), (200, 700)])), cut);
        assert_eq!(times(&long_elst(&[(200, 100), (200, 700)])), cut);
        assert_eq!(times(&elst(&[(200, 100), (50, -1), (100, 700)])), [(1, 0), (2, 100), (7, 250)]);
        assert_eq!(times(&elst(&[(201, 100), (200, 300)])), [(1, 0), (2, 100), (3, 201), (4, 301)], "rounding");
        // Half a frame in: the frame before the start is not shown.
        assert_eq!(times(&elst(&[(200, 150)])), [(2, 50), (3, 150)]);
    }

    #[test]
    fn what_goes_backwards_is_not_built_in() {
        for edits in [&[(300, 500), (300, 0)][..], &[(300, 0), (300, 0)], &[(500, 0), (500, 200)]] {
            assert_eq!(read(&elst(edits), 1000, 1000).unwrap_err().kind(), crate::ErrorKind::Unsupported, "{edits:?}");
        }
        // Absurd numbers overflow nothing.
        for edits in [&[(u64::MAX, i64::MAX)][..], &[(u64::MAX, 0), (u64::MAX, i64::MAX)], &[(0, i64::MAX), (7, -9)]] {
            for (ticks, movie_ticks) in [(1, 1), (u32::MAX, 1), (1, u32::MAX), (1, 0)] {
                read(&long_elst(edits), ticks, movie_ticks).ok();
            }
        }
    }
}
