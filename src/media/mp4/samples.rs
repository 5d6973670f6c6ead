//! The sample tables of a whole file (`stbl`), expanded.

use super::super::limits::{MAX_FRAMES, MAX_SAMPLE_BYTES, MIN_SAMPLE_BYTES, N_FREE_SAMPLES};
use super::boxes::{child, entries, u32_at, u64_at, word};
use super::index::Sample;
use crate::{Error, Result};

/// Samples as they are collected.
pub(super) struct SampleTable {
    pub samples: Vec<Sample>,
    pub lost: usize,
    /// Decoding time of the next sample.
    pub dts: i64,
    /// Duration of the sample before it.
    delta: i64,
    /// Time and duration of the sample that is shown last.
    pub last: (i64, i64),
    /// Of all samples so far: they do not overlap, so the file bounds them.
    bytes: u64,
    file_len: u64,
    /// Most samples that are kept, so that the table stays smaller than the file it is about (or than what is small anyway).
    max_samples: usize,
}

impl SampleTable {
    /// An empty table for a file of so many bytes.
    pub(super) fn new(file_len: u64) -> SampleTable {
        let max_samples = usize::try_from(file_len / MIN_SAMPLE_BYTES).unwrap_or(usize::MAX);
        SampleTable {
            samples: Vec::new(),
            lost: 0,
            dts: 0,
            delta: 0,
            last: (i64::MIN, 0),
            bytes: 0,
            file_len,
            max_samples: max_samples.saturating_add(N_FREE_SAMPLES).min(MAX_FRAMES),
        }
    }

    /// Adds one sample if the file holds it.
    ///
    /// # Errors
    /// `Limit` beyond the caps, `Format` for an index that lists the same bytes again and again.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn push(
        &mut self,
        offset: u64,
        size: u32,
        delta: u32,
        shift: i64,
        sync: bool,
        config: u32,
    ) -> Result<()> {
        if self.samples.len() + self.lost >= MAX_FRAMES {
            return Err(Error::limit(format!("the video has more than {MAX_FRAMES} frames")));
        }
        let pts = self.dts.saturating_add(shift);
        self.delta = i64::from(delta);
        self.dts = self.dts.saturating_add(self.delta);
        let held = offset.checked_add(u64::from(size)).is_some_and(|end| end <= self.file_len);
        if !held || size == 0 || size > MAX_SAMPLE_BYTES {
            self.lost += 1;
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(u64::from(size));
        if self.bytes > self.file_len {
            return Err(Error::format("the index lists more bytes of frames than the file holds"));
        }
        if pts > self.last.0 {
            self.last = (pts, self.delta);
        }
        if self.samples.len() >= self.max_samples {
            return Err(Error::limit(format!(
                "the index lists more than `{}` frames in a file of `{}` bytes",
                self.max_samples, self.file_len
            )));
        }
        let config = u16::try_from(config.saturating_sub(1)).unwrap_or(u16::MAX - 1);
        self.samples.push(Sample { offset, size, pts, sync, config });
        Ok(())
    }

    /// The sample tables of a whole file.
    ///
    /// # Errors
    /// Those of [`SampleTable::push`]; `Unsupported` for compact sizes.
    pub(super) fn read_stbl(&mut self, stbl: &[u8]) -> Result<()> {
        let sizes = Sizes::read(stbl)?;
        let chunks = Chunks { near: entries::<4>(child(stbl, b"stco")), far: entries::<8>(child(stbl, b"co64")) };
        let runs = entries::<12>(child(stbl, b"stsc"));
        let mut deltas = Runs::new(entries::<8>(child(stbl, b"stts")));
        let mut shifts = Runs::new(entries::<8>(child(stbl, b"ctts")));
        let sync_box = child(stbl, b"stss");
        let mut syncs = entries::<4>(sync_box).iter().map(|e| word(e, 0)).peekable();
        let mut it = 0u32;
        // Runs come in order: no chunk is visited twice, whatever the table says.
        let mut chunk = 0u64;
        for (i, run) in runs.iter().enumerate() {
            let (first, per_chunk, config) = (word(run, 0), word(run, 1), word(run, 2));
            // Chunks are counted from 1; a run ends where the next begins.
            let end = runs.get(i + 1).map_or(u64::MAX, |next| u64::from(word(next, 0)).saturating_sub(1));
            let end = end.min(chunks.len() as u64);
            chunk = chunk.max(u64::from(first).saturating_sub(1));
            while chunk < end {
                let Some(mut offset) = chunks.offset(chunk as usize) else { break };
                chunk += 1;
                for _ in 0..per_chunk {
                    let Some(size) = sizes.get(it) else { return Ok(()) };
                    it += 1;
                    // The list may repeat or skip; it only ever moves forward.
                    while syncs.next_if(|&s| s < it).is_some() {}
                    let sync = sync_box.is_none() || syncs.peek() == Some(&it);
                    let shift = i64::from(shifts.next().unwrap_or(0) as i32);
                    let delta = deltas.next().unwrap_or(self.delta as u32);
                    self.push(offset, size, delta, shift, sync, config)?;
                    offset = offset.saturating_add(u64::from(size));
                }
            }
        }
        // Samples without a chunk are nowhere.
        let homeless = sizes.count.saturating_sub(it) as usize;
        self.lost = self.lost.saturating_add(homeless);
        Ok(())
    }
}

/// The sizes of the samples: one for all, or one each.
struct Sizes<'a> {
    all: u32,
    each: &'a [[u8; 4]],
    count: u32,
}

impl Sizes<'_> {
    fn read(stbl: &[u8]) -> Result<Sizes<'_>> {
        let Some(stsz) = child(stbl, b"stsz") else {
            if child(stbl, b"stz2").is_some() {
                return Err(Error::unsupported("compact sample sizes (stz2) are not built in"));
            }
            return Ok(Sizes { all: 0, each: &[], count: 0 });
        };
        let (all, count) = (u32_at(stsz, 4).unwrap_or(0), u32_at(stsz, 8).unwrap_or(0));
        let each = stsz.get(12..).unwrap_or_default().as_chunks::<4>().0;
        Ok(Sizes { all, each, count })
    }

    fn get(&self, i: u32) -> Option<u32> {
        match self.all {
            _ if i >= self.count => None,
            0 => self.each.get(i as usize).map(|size| word(size, 0)),
            size => Some(size),
        }
    }
}

/// Where the chunks begin, in either width.
struct Chunks<'a> {
    near: &'a [[u8; 4]],
    far: &'a [[u8; 8]],
}

impl Chunks<'_> {
    fn len(&self) -> usize {
        self.near.len().max(self.far.len())
    }

    fn offset(&self, i: usize) -> Option<u64> {
        let near = self.near.get(i).map(|offset| u64::from(word(offset, 0)));
        near.or_else(|| self.far.get(i).and_then(|offset| u64_at(offset, 0)))
    }
}

/// A run-length table: (count, value) pairs, one value per call.
struct Runs<'a> {
    entries: &'a [[u8; 8]],
    left: u32,
    value: u32,
}

impl Runs<'_> {
    fn new(entries: &[[u8; 8]]) -> Runs<'_> {
        Runs { entries, left: 0, value: 0 }
    }

    fn next(&mut self) -> Option<u32> {
        while self.left == 0 {
            let (first, rest) = self.entries.split_first()?;
            (self.left, self.value, self.entries) = (word(first, 0), word(first, 1), rest);
        }
        self.left -= 1;
        Some(self.value)
    }
}
