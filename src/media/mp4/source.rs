//! H.264 in MP4 and QuickTime files, decoded without anything installed.
//!
//! The index is read when the file is opened; media data are read one sample at a time. Frames are asked for in increasing
//! order, so pictures decoded ahead of their time (those that B-frames refer to) wait in a small buffer, and everything
//! between two wanted frames that nothing refers to is not decoded at all. Where the index lists a later point at which
//! decoding can begin, decoding jumps there.
//!
//! Decisions: turns and mirrors stored in the file are applied; pictures that change size in mid-stream are resized to the first
//! size; a damaged picture is counted ([`FrameSource::skipped`]) and shown as far as it can be decoded, with what is missing
//! taken from the one before it. One of which nothing can be made is replaced by the one shown before it (at the beginning:
//! after it). Pixels need not be square; nobody downstream asks.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::edits::display_order;
use super::index::{Sample, Track, read_track};
use crate::error::Context;
use crate::files::input::open_regular;
use crate::media::Rgb;
use crate::media::h264::{H264, Picture, SafeDecoder, Sps};
use crate::media::image_file;
use crate::media::resize::bicubic;
use crate::media::timeline::Timeline;
use crate::media::video::{FrameSource, Shown, VideoInfo};
use crate::media::yuv::{Color, Plane, Planes, to_rgb};
use crate::{Error, Result};

/// Most pictures that wait for their time; H.264 allows 16.
const MAX_WAITING: usize = 17;
/// Pictures just before the wanted one that are kept to stand in for it should it be damaged.
const N_STAND_INS: u32 = 3;
/// How many samples may fail at the very beginning before the decoder is taken to be unable.
const MAX_PROBE: usize = 300;

/// An MP4 file being decoded.
pub struct Mp4Source {
    info: VideoInfo,
    name: String,
    file: File,
    track: Track,
    timeline: Timeline,
    /// Samples to be shown, in display order, as indices of `track.samples`.
    shown: Vec<u32>,
    /// The place of each sample in `shown`; `u32::MAX` for those outside the edit.
    rank: Vec<u32>,
    decoder: H264,
    /// The description whose parameter sets the decoder has.
    config: Option<u16>,
    /// The parameter set of the current pictures.
    sps: Sps,
    /// Next sample to decode.
    next: usize,
    waiting: Vec<(u32, Kept)>,
    /// The frame handed out last.
    last: Option<(u32, Rgb)>,
    sample: Vec<u8>,
    picture: Picture,
    skipped: usize,
}

impl Mp4Source {
    /// Opens a file and decodes its first picture, to be sure that the decoder can: in `child`, or else in this process.
    ///
    /// # Errors
    /// `Unsupported` when something else must decode it, `Format` and `Limit` for files nothing should decode; `Io` for a
    /// child that fails.
    pub fn open(path: &Path, child: Option<&SafeDecoder>) -> Result<Mp4Source> {
        Mp4Source::open_unnamed(path, child).at(|| path.display().to_string())
    }

    fn open_unnamed(path: &Path, child: Option<&SafeDecoder>) -> Result<Mp4Source> {
        let (mut file, _) = open_regular(path)?;
        let track = read_track(&mut file)?;
        let (shown, times) = display_order(&track.samples, &track.head.edits);
        let mut rank = vec![u32::MAX; track.samples.len()];
        for (r, &i) in shown.iter().enumerate() {
            rank[i as usize] = r as u32;
        }
        let timeline = Timeline::new(times, track.last_duration, f64::from(track.head.ticks_per_second))
            .ok_or_else(|| Error::format("the video track has no frames"))?;
        let sps = track.head.sps;
        let (height, width) = image_file::shown((sps.height, sps.width), track.head.orientation);
        let info = VideoInfo {
            n_frames: timeline.n_frames(),
            fps: timeline.fps(),
            duration: timeline.duration(),
            height,
            width,
            decoder: if child.is_some() { "mp4/h264 (built-in, in a child process)" } else { "mp4/h264 (built-in)" }
                .into(),
        };
        let mut source = Mp4Source {
            info,
            name: path.display().to_string(),
            file,
            timeline,
            shown,
            rank,
            decoder: H264::new(child)?,
            config: None,
            sps,
            next: 0,
            waiting: Vec::new(),
            last: None,
            sample: Vec::new(),
            picture: Picture::default(),
            skipped: track.n_lost,
            track,
        };
        source.probe()?;
        Ok(source)
    }

    /// Decodes until an undamaged picture comes out: a stream that the decoder cannot do looks damaged from end to end.
    fn probe(&mut self) -> Result<()> {
        while self.next < self.track.samples.len().min(MAX_PROBE) {
            if self.decode_next(0)? {
                return Ok(());
            }
        }
        Err(Error::unsupported(format!(
            "the built-in H.264 decoder cannot decode any of the first `{}` frames",
            self.next
        )))
    }

    /// The frame of `rank` in display order.
    fn frame_of_rank(&mut self, rank: u32) -> Result<Rgb> {
        if let Some((_, rgb)) = self.last.as_ref().filter(|(last, _)| *last == rank) {
            return Ok(rgb.clone());
        }
        let wanted = self.shown[rank as usize] as usize;
        if !self.waiting.iter().any(|(r, _)| *r == rank) {
            self.jump(wanted)?;
            while self.next <= wanted {
                self.decode_next(rank)?;
            }
        }
        // Earlier pictures will not be asked for again; but should the wanted one be damaged, the latest of them stands in.
        self.waiting.sort_unstable_by_key(|(r, _)| *r);
        let n_past = self.waiting.partition_point(|(r, _)| *r <= rank);
        let latest = self.waiting.drain(..n_past).next_back();
        if let Some((got, kept)) = latest {
            self.last = Some((got, self.finish(&kept)));
        }
        if let Some((_, rgb)) = &self.last {
            return Ok(rgb.clone());
        }
        // Nothing was ever decoded up to here: the first picture after it.
        while self.waiting.is_empty() && self.next < self.track.samples.len() {
            self.decode_next(rank)?;
        }
        let nothing = || Error::format("no frame of the video can be decoded");
        self.waiting.first().map(|(_, kept)| self.finish(kept)).ok_or_else(nothing)
    }

    /// Skips to the latest point before `wanted` where decoding can begin, if that is ahead.
    fn jump(&mut self, wanted: usize) -> Result<()> {
        let pts = self.track.samples[wanted].pts;
        let ahead = self.next + 1..wanted + 1;
        let Some(start) = ahead.rev().find(|&i| self.track.samples[i].sync && self.track.samples[i].pts <= pts) else {
            return Ok(());
        };
        // Lists of such points also hold pictures that only a forgiving decoder can begin with.
        let sample = self.track.samples[start];
        if self.read(sample).is_err() || !self.picture.is_idr {
            return Ok(());
        }
        self.next = start;
        self.waiting.clear();
        Ok(())
    }

    /// Reads a sample into `self.picture`.
    fn read(&mut self, sample: Sample) -> Result<()> {
        self.sample.resize(sample.size as usize, 0);
        self.file.seek(SeekFrom::Start(sample.offset))?;
        self.file.read_exact(&mut self.sample)?;
        self.picture.read(&self.sample, self.track.head.configs[usize::from(sample.config)].length_size);
        Ok(())
    }

    /// Decodes the next sample, unless no frame from `rank` on needs it. True when an undamaged picture came out.
    fn decode_next(&mut self, rank: u32) -> Result<bool> {
        let (sample, its_rank) = (self.track.samples[self.next], self.rank[self.next]);
        self.next += 1;
        self.read(sample)?;
        let is_past = its_rank < rank || its_rank == u32::MAX;
        if is_past && !self.picture.is_reference && !self.picture.has_headers && !self.picture.annex_b.is_empty() {
            return Ok(false);
        }
        if self.config != Some(sample.config) {
            self.config = Some(sample.config);
            let headers = &self.track.head.configs[usize::from(sample.config)].headers;
            let nal = self.track.head.configs[usize::from(sample.config)].sps.as_deref();
            if let Some(sps) = nal.and_then(|nal| Sps::parse(nal).ok()) {
                self.sps = Sps { color: if sps.labelled { sps.color } else { self.track.head.sps.color }, ..sps };
            }
            self.picture.annex_b.splice(0..0, headers.iter().copied());
        }
        if let Some(sps) = self.picture.sps {
            self.sps = Sps { color: if sps.labelled { sps.color } else { self.track.head.sps.color }, ..sps };
        }
        let color = self.sps.color;
        let keep = its_rank != u32::MAX && its_rank.saturating_add(N_STAND_INS) >= rank;
        let outcome = self.decoder.decode(&self.picture, keep, |planes| Kept::of(planes, color))?;
        let is_damaged = outcome.is_damaged || self.picture.n_cut > 0;
        self.skipped += usize::from(is_damaged);
        if let Some(kept) = outcome.picture {
            // Timestamps that contradict the stream must not make pictures pile up.
            if self.waiting.len() == MAX_WAITING {
                self.waiting.sort_unstable_by_key(|(r, _)| *r);
                self.waiting.remove(0);
            }
            self.waiting.push((its_rank, kept));
        }
        Ok(!is_damaged)
    }

    /// Colours, turn and size.
    fn finish(&self, kept: &Kept) -> Rgb {
        let rgb = oriented(to_rgb(&kept.planes(), kept.color), self.track.head.orientation);
        match (rgb.height, rgb.width) == (self.info.height, self.info.width) {
            true => rgb,
            false => bicubic(&rgb, self.info.height, self.info.width),
        }
    }
}

impl FrameSource for Mp4Source {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        if index >= self.info.n_frames {
            return Err(Error::bad_input(format!("frame `{index}` of a video of {}", self.info.n_frames)));
        }
        let rank = self.timeline.shown_at(index) as u32;
        self.frame_of_rank(rank).at(|| format!("frame {index}")).at(|| self.name.clone())
    }

    fn shown(&self, index: usize) -> Shown {
        self.timeline.shown(index)
    }

    fn skipped(&self) -> usize {
        self.skipped
    }

    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        self.decoder.stopper()
    }
}

/// A decoded picture that waits, still in 4:2:0: half the size of RGB, and most are never asked for.
struct Kept {
    height: usize,
    width: usize,
    /// Luma, Cb, Cr without padding.
    data: [Vec<u8>; 3],
    color: Color,
}

impl Kept {
    fn of(planes: &Planes, color: Color) -> Kept {
        let (half_height, half_width) = (planes.height.div_ceil(2), planes.width.div_ceil(2));
        let copy = |plane: Plane<'_>, height: usize, width: usize| -> Vec<u8> {
            plane.data.chunks(plane.stride).take(height).flat_map(|row| &row[..width]).copied().collect()
        };
        let chroma = |i: usize| planes.chroma.map(|c| copy(c[i], half_height, half_width)).unwrap_or_default();
        let data = [copy(planes.y, planes.height, planes.width), chroma(0), chroma(1)];
        Kept { height: planes.height, width: planes.width, data, color }
    }

    fn planes(&self) -> Planes<'_> {
        let plane = |i: usize, stride: usize| Plane { data: &self.data[i], stride };
        let half = self.width.div_ceil(2);
        Planes {
            height: self.height,
            width: self.width,
            y: plane(0, self.width),
            chroma: Some([plane(1, half), plane(2, half)]),
            shift: (1, 1),
        }
    }
}

/// The picture as it is shown.
fn oriented(rgb: Rgb, orientation: Orientation) -> Rgb {
    if orientation == Orientation::NoTransforms {
        return rgb;
    }
    // Below the caps on sides, and the buffer is that of the picture.
    let Some(image) = RgbImage::from_raw(rgb.width as u32, rgb.height as u32, rgb.data) else {
        unreachable!("a picture holds its pixels")
    };
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    Rgb { height: image.height() as usize, width: image.width() as usize, data: image.into_raw() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientations_move_pixels() {
        // 0 1 2
        // 3 4 5
        let rgb = Rgb { height: 2, width: 3, data: (0..6u8).flat_map(|i| [i; 3]).collect() };
        let levels = |orientation: Orientation| -> (usize, Vec<u8>) {
            let out = oriented(rgb.clone(), orientation);
            (out.height, out.data.chunks(3).map(|p| p[0]).collect())
        };
        assert_eq!(levels(Orientation::NoTransforms), (2, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(levels(Orientation::Rotate90), (3, vec![3, 0, 4, 1, 5, 2]));
        assert_eq!(levels(Orientation::Rotate180), (2, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(levels(Orientation::Rotate270), (3, vec![2, 5, 1, 4, 0, 3]));
        assert_eq!(levels(Orientation::FlipHorizontal), (2, vec![2, 1, 0, 5, 4, 3]));
        assert_eq!(levels(Orientation::FlipVertical), (2, vec![3, 4, 5, 0, 1, 2]));
        assert_eq!(levels(Orientation::Rotate90FlipH), (3, vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(levels(Orientation::Rotate270FlipH), (3, vec![5, 2, 4, 1, 3, 0]));
    }
}
