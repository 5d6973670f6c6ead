//! The index of an MP4 or QuickTime file: where each coded picture lies and when it is shown.
//!
//! Only the boxes that hold the index are read into memory, `moov` first, then one `moof` after the other in fragmented files;
//! never the media data. The tables are expanded by our own code rather than a crate's: `re_mp4` trusts the counts it finds
//! (a few hundred bytes can ask it for 2^32 samples) and panics where tables contradict each other. It serves as a judge in
//! the tests.

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::boxes::{box_head, child, path};
use super::fragments::Defaults;
use super::samples::SampleTable;
use super::track::{self, Head};
use crate::media::limits::{MAX_MP4_BOXES, MAX_MP4_INDEX};
use crate::{Error, Result};

/// Ticks per second of a movie that does not say.
pub(super) const MOVIE_TICKS: u32 = 1000;

/// One coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Byte in the file.
    pub offset: u64,
    pub size: u32,
    /// When it is shown, in ticks of the track.
    pub pts: i64,
    /// Listed as a point where decoding can begin.
    pub sync: bool,
    /// Which of [`Head::configs`] it needs.
    pub config: u16,
}

// What the cap on samples counts with.
const _: () = assert!(size_of::<Sample>() == 24);

/// The video track that is read.
#[derive(Debug)]
pub(super) struct Track {
    pub head: Head,
    /// In decoding order; all of them lie within the file.
    pub samples: Vec<Sample>,
    /// Samples that the index lists but the file does not hold.
    pub n_lost: usize,
    /// How long the sample shown last stays, in ticks; 0 for unknown.
    pub last_duration: i64,
}

/// Reads the index of `file`.
///
/// # Errors
/// `Format` for damaged or missing boxes and files without video, `Unsupported` for video that is not H.264 as the built-in
/// decoder takes it, `Limit` for an index beyond the caps.
pub(super) fn read_track(file: &mut (impl Read + Seek)) -> Result<Track> {
    let file_len = file.seek(SeekFrom::End(0))?;
    let mut moov = None;
    let mut has_fragments = false;
    let mut walk = Walk::new(file, file_len)?;
    while let Some(next) = walk.next()? {
        match &next.name {
            b"moov" if moov.is_none() => moov = Some(walk.content(&next)?),
            b"moof" => has_fragments = true,
            _ => {}
        }
    }
    let moov = moov.ok_or_else(|| {
        Error::format(
            "the file has no moov box (its index); a recording that was cut off before it was finished lacks it",
        )
    })?;
    let trak = track::pick(&moov)?;
    let head = Head::read(trak, child(&moov, b"mvhd"))?;
    let mut table = SampleTable::new(file_len);
    table.read_stbl(path(trak, &[b"mdia", b"minf", b"stbl"]).unwrap_or_default())?;
    let defaults = Defaults::of(child(&moov, b"mvex").unwrap_or_default(), head.id);
    drop(moov);
    if has_fragments {
        let mut walk = Walk::new(file, file_len)?;
        while let Some(next) = walk.next()? {
            if &next.name == b"moof" {
                let (moof, n_lost) = (walk.content(&next)?, table.lost);
                table.read_moof(&moof, next.at, &defaults)?;
                // How many pictures a fragment that is cut off would have had is not known where its tables are gone.
                if next.is_cut && table.lost == n_lost {
                    table.lost += 1;
                }
            }
        }
        // What is left is too short for a box, or none.
        if walk.at < file_len {
            table.lost += 1;
        }
    }
    let n_configs = head.configs.len();
    if let Some(bad) = table.samples.iter().find(|s| usize::from(s.config) >= n_configs) {
        let wanted = u32::from(bad.config) + 1;
        return Err(Error::format(format!("a sample needs description `{wanted}` of {n_configs}")));
    }
    let track = Track { head, n_lost: table.lost, last_duration: table.last.1, samples: table.samples };
    if track.samples.is_empty() {
        return Err(Error::format(match track.n_lost {
            0 => "the video track has no frames".to_string(),
            n => format!("none of the `{n}` frames of the index is within the file"),
        }));
    }
    Ok(track)
}

/// The boxes at the top level of a file, from the first to the last.
struct Walk<'a, F> {
    /// Boxes that follow closely come from one read.
    file: BufReader<&'a mut F>,
    /// Where the next byte is read from; asking the system each time would be the larger part of the work.
    here: u64,
    file_len: u64,
    /// Where the next box begins.
    at: u64,
    n_boxes: usize,
    /// Bytes of content that may still be read.
    budget: u64,
}

/// A box at the top level.
struct TopBox {
    name: [u8; 4],
    /// Byte in the file at which its head begins.
    at: u64,
    head_len: u64,
    /// Of its content, as far as the file holds it: a box that is cut off may still do.
    len: u64,
    /// Whether the file ends before it.
    is_cut: bool,
}

impl<'a, F: Read + Seek> Walk<'a, F> {
    fn new(file: &'a mut F, file_len: u64) -> Result<Walk<'a, F>> {
        let mut file = BufReader::with_capacity(4096, file);
        file.rewind()?;
        Ok(Walk { file, here: 0, file_len, at: 0, n_boxes: 0, budget: MAX_MP4_INDEX })
    }

    fn next(&mut self) -> Result<Option<TopBox>> {
        let left = self.file_len.saturating_sub(self.at);
        if left < 8 {
            return Ok(None);
        }
        self.n_boxes += 1;
        if self.n_boxes > MAX_MP4_BOXES {
            return Err(Error::limit(format!("the file consists of more than {MAX_MP4_BOXES} boxes")));
        }
        let mut head = [0u8; 16];
        let n = left.min(16) as usize;
        self.read_at(self.at, &mut head[..n])?;
        let Some((name, head_len, size)) = box_head(&head[..n], left) else { return Ok(None) };
        let this =
            TopBox { name, at: self.at, head_len, len: size.min(left).saturating_sub(head_len), is_cut: size > left };
        // At least eight bytes further each time.
        self.at = self.at.saturating_add(size);
        Ok(Some(this))
    }

    fn content(&mut self, this: &TopBox) -> Result<Vec<u8>> {
        self.budget = self
            .budget
            .checked_sub(this.len)
            .ok_or_else(|| Error::limit(format!("the index of the file is larger than {MAX_MP4_INDEX} bytes")))?;
        let mut data = vec![0u8; this.len as usize];
        self.read_at(this.at + this.head_len, &mut data)?;
        Ok(data)
    }

    /// Keeps what is buffered where it can.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<()> {
        match i64::try_from(i128::from(at) - i128::from(self.here)) {
            Ok(by) => self.file.seek_relative(by)?,
            Err(_) => drop(self.file.seek(SeekFrom::Start(at))?),
        }
        self.file.read_exact(into)?;
        self.here = at + into.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// The crate that others use finds the same samples in intact files.
    #[test]
    fn samples_agree_with_re_mp4() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/media");
        let names = [
            "baseline.mp4",
            "high_b.mp4",
            "cropped.mp4",
            "fragments.mp4",
            "moving.mov",
            "vfr.mp4",
            "edited.mp4",
            "rotated_90.mp4",
            "two_sizes.mp4",
            "open_gop.mp4",
        ];
        for name in names {
            let path = format!("{dir}/{name}");
            let track = read_track(&mut File::open(&path).unwrap()).unwrap_or_else(|err| panic!("{name}: {err}"));
            let (judge, _) = re_mp4::Mp4::read_file(&path).unwrap_or_else(|err| panic!("{name}: {err}"));
            let want = judge.tracks().values().find(|t| t.kind == Some(re_mp4::TrackKind::Video)).unwrap();
            assert_eq!((track.samples.len(), track.n_lost), (want.samples.len(), 0), "{name}");
            assert_eq!(u64::from(track.head.ticks_per_second), want.timescale, "{name}");
            // It moves times so that the first is 0, except in fragments.
            let first = |times: &mut dyn Iterator<Item = i64>| times.min().unwrap_or(0);
            let ours = first(&mut track.samples.iter().map(|s| s.pts));
            let theirs = first(&mut want.samples.iter().map(|s| s.composition_timestamp));
            for (i, (got, want)) in track.samples.iter().zip(&want.samples).enumerate() {
                let got = (got.offset, u64::from(got.size), got.pts - ours, got.sync);
                let want = (want.offset, want.size, want.composition_timestamp - theirs, want.is_sync);
                assert_eq!(got, want, "{name}: sample {i}");
            }
        }
    }
}
