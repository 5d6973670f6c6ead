//! The index of an MP4 or QuickTime file: where each coded picture lies and when it is shown.
//!
//! Only the boxes that hold the index are read into memory (`moov`, and `moof` in fragmented files), never the media data.
//! The tables are expanded by our own code rather than a crate's: `re_mp4` trusts the counts it finds (a few hundred bytes
//! can ask it for 2^32 samples) and panics where tables contradict each other. It serves as a judge in the tests.

use std::io::{Read, Seek, SeekFrom};

use super::h264::{AvcConfig, Sps};
use super::limits::{MANY_SAMPLES, MAX_FRAMES, MAX_MP4_INDEX, MAX_SAMPLE_BYTES, MIN_SAMPLE_BYTES};
use super::yuv::Color;
use crate::{Error, Result};

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
    /// Which of [`Track::configs`] it needs.
    pub config: u16,
}

/// The video track that is read.
#[derive(Debug)]
pub(super) struct Track {
    /// In decoding order; all of them lie within the file.
    pub samples: Vec<Sample>,
    /// Samples that the index lists but the file does not hold.
    pub n_lost: usize,
    pub ticks_per_second: u32,
    /// How long the sample shown last stays, in ticks; 0 for unknown.
    pub last_duration: i64,
    /// The part to be shown, in ticks: first and, unless open, end.
    pub edit: Option<(i64, Option<i64>)>,
    pub configs: Vec<AvcConfig>,
    /// Size and colours from the first parameter set.
    pub sps: Sps,
    /// Clockwise quarter turns to apply to each picture.
    pub quarter_turns: u8,
}

/// Reads the index of `file`.
///
/// # Errors
/// `Format` for damaged or missing boxes and files without video, `Unsupported` for video that is not H.264 as the built-in
/// decoder takes it, `Limit` for an index beyond the caps.
pub(super) fn read_track(file: &mut (impl Read + Seek)) -> Result<Track> {
    let file_len = file.seek(SeekFrom::End(0))?;
    let (moov, moofs) = read_index_boxes(file, file_len)?;
    let moov = moov.ok_or_else(|| {
        Error::format(
            "the file has no moov box (its index); a recording that was cut off before it was finished lacks it",
        )
    })?;
    let movie_ticks = child(&moov, b"mvhd").and_then(time_scale).unwrap_or(1000);
    let trak = pick_track(&moov)?;
    let mut track = read_trak(trak, movie_ticks)?;
    let id = child(trak, b"tkhd").and_then(|tkhd| u32_at(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 }));
    let mut table =
        SampleTable { samples: Vec::new(), lost: 0, dts: 0, delta: 0, last: (i64::MIN, 0), bytes: 0, file_len };
    let stbl = path(trak, &[b"mdia", b"minf", b"stbl"]).unwrap_or_default();
    table.read_stbl(stbl)?;
    for (offset, moof) in &moofs {
        table.read_moof(moof, *offset, id.unwrap_or(0), child(&moov, b"mvex").unwrap_or_default())?;
    }
    let n_configs = track.configs.len();
    if let Some(bad) = table.samples.iter().find(|s| usize::from(s.config) >= n_configs) {
        let wanted = u32::from(bad.config) + 1;
        return Err(Error::format(format!("a sample needs description `{wanted}` of {n_configs}")));
    }
    track.samples = table.samples;
    track.n_lost = table.lost;
    track.last_duration = table.last.1;
    if track.samples.is_empty() {
        return Err(Error::format(match track.n_lost {
            0 => "the video track has no frames".to_string(),
            n => format!("none of the `{n}` frames of the index is within the file"),
        }));
    }
    Ok(track)
}

/// A `moov` box, and `moof` boxes with the place of each in the file.
type IndexBoxes = (Option<Vec<u8>>, Vec<(u64, Vec<u8>)>);

/// Walks over the top level of the file.
fn read_index_boxes(file: &mut (impl Read + Seek), file_len: u64) -> Result<IndexBoxes> {
    let (mut moov, mut moofs) = (None, Vec::new());
    let mut budget = MAX_MP4_INDEX;
    let mut at = 0u64;
    while file_len.saturating_sub(at) >= 8 {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0u8; 16];
        let n = file_len.saturating_sub(at).min(16) as usize;
        file.read_exact(&mut head[..n])?;
        let Some((name, head_len, size)) = box_head(&head[..n], file_len - at) else { break };
        let is_index = (name == *b"moov" && moov.is_none()) || name == *b"moof";
        if is_index {
            // A box that claims more than the file holds is cut off: what is there may still do.
            let len = size.min(file_len - at).saturating_sub(head_len);
            budget = budget
                .checked_sub(len)
                .ok_or_else(|| Error::limit(format!("the index of the file is larger than {MAX_MP4_INDEX} bytes")))?;
            let mut data = vec![0u8; len as usize];
            file.seek(SeekFrom::Start(at + head_len))?;
            file.read_exact(&mut data)?;
            if name == *b"moov" {
                moov = Some(data);
            } else {
                moofs.push((at, data));
            }
        }
        // At least eight bytes further each time.
        let Some(next) = at.checked_add(size) else { break };
        at = next;
    }
    Ok((moov, moofs))
}

/// Name, bytes of the head, and bytes of the whole box; `left` is how much there is from here on.
fn box_head(data: &[u8], left: u64) -> Option<([u8; 4], u64, u64)> {
    let size = u64::from(u32_at(data, 0)?);
    let name = *data.get(4..)?.first_chunk::<4>()?;
    match size {
        0 => Some((name, 8, left)),
        1 => Some((name, 16, u64_at(data, 8)?)).filter(|b| b.2 >= 16),
        2..8 => None,
        _ => Some((name, 8, size)),
    }
}

/// The boxes inside a box: name and content. Ends at the first one that does not fit.
fn boxes(mut data: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (name, head, size) = box_head(data, data.len() as u64)?;
        let (this, rest) = data.split_at_checked(usize::try_from(size).ok()?)?;
        data = rest;
        Some((name, this.get(head as usize..)?))
    })
}

fn child<'a>(data: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(data).find(|(n, _)| n == name).map(|(_, content)| content)
}

fn path<'a>(data: &'a [u8], names: &[&[u8; 4]]) -> Option<&'a [u8]> {
    names.iter().try_fold(data, |data, name| child(data, name))
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

/// Ticks per second of an `mvhd` or `mdhd` box.
fn time_scale(data: &[u8]) -> Option<u32> {
    u32_at(data, if data.first() == Some(&1) { 20 } else { 12 }).filter(|&ticks| ticks > 0)
}

/// The entries of a full box that begins with their count: as many as are there and as are counted.
fn entries<const N: usize>(data: Option<&[u8]>) -> &[[u8; N]] {
    let Some(data) = data else { return &[] };
    let n = u32_at(data, 4).unwrap_or(0) as usize;
    let all = data.get(8..).unwrap_or_default().as_chunks::<N>().0;
    &all[..n.min(all.len())]
}

/// Entry `i` of several 32-bit numbers.
fn word<const N: usize>(entry: &[u8; N], i: usize) -> u32 {
    u32_at(entry, i * 4).unwrap_or(0)
}

/// The first video track with H.264, or the reason why there is none.
fn pick_track(moov: &[u8]) -> Result<&[u8]> {
    let mut other = None;
    for (_, trak) in boxes(moov).filter(|(name, _)| name == b"trak") {
        if path(trak, &[b"mdia", b"hdlr"]).and_then(|hdlr| hdlr.get(8..12)) != Some(b"vide") {
            continue;
        }
        let stsd = path(trak, &[b"mdia", b"minf", b"stbl", b"stsd"]).unwrap_or_default();
        let codec = boxes(stsd.get(8..).unwrap_or_default()).next().map(|(name, _)| name);
        match codec {
            Some(name) if matches!(&name, b"avc1" | b"avc3") => return Ok(trak),
            Some(name) => other = other.or(Some(String::from_utf8_lossy(&name).escape_default().to_string())),
            None => {}
        }
    }
    Err(match other {
        Some(codec) => {
            Error::unsupported(format!("video codec `{codec}` is not built in; the built-in decoder does H.264 (avc1)"))
        }
        None => Error::format("the file has no video track"),
    })
}

/// Everything about a track except its samples.
fn read_trak(trak: &[u8], movie_ticks: u32) -> Result<Track> {
    let cut = |what: &str| Error::format(format!("the {what} of the video track is missing or cut off"));
    let ticks = path(trak, &[b"mdia", b"mdhd"]).and_then(time_scale).ok_or_else(|| cut("time scale (mdhd)"))?;
    let stsd = path(trak, &[b"mdia", b"minf", b"stbl", b"stsd"]).ok_or_else(|| cut("description (stsd)"))?;
    let mut configs = Vec::new();
    let mut label = None;
    for (name, entry) in boxes(stsd.get(8..).unwrap_or_default()) {
        // A visual sample entry has 78 bytes before its boxes.
        let inner = entry.get(78..).filter(|_| matches!(&name, b"avc1" | b"avc3"));
        let Some(inner) = inner else {
            let codec = String::from_utf8_lossy(&name).escape_default().to_string();
            return Err(Error::unsupported(format!(
                "video codec `{codec}` in the same track as H.264 is not built in"
            )));
        };
        configs.push(AvcConfig::parse(child(inner, b"avcC").ok_or_else(|| cut("decoder configuration (avcC)"))?)?);
        label = label.or_else(|| child(inner, b"colr").and_then(color_label));
    }
    let first = configs.iter().find_map(|config| config.sps.as_deref());
    let mut sps = Sps::parse(first.ok_or_else(|| {
        Error::unsupported("H.264 without parameter sets in its description (avc3) is not built in")
    })?)?;
    if let (false, Some(color)) = (sps.labelled, label) {
        sps.color = color;
    }
    Ok(Track {
        samples: Vec::new(),
        n_lost: 0,
        ticks_per_second: ticks,
        last_duration: 0,
        edit: path(trak, &[b"edts", b"elst"]).and_then(|elst| single_edit(elst, ticks, movie_ticks)),
        configs,
        sps,
        quarter_turns: child(trak, b"tkhd").map_or(0, quarter_turns),
    })
}

/// Colours of a `colr` box, for streams that do not say themselves.
fn color_label(colr: &[u8]) -> Option<Color> {
    let kind = colr.first_chunk::<4>()?;
    if !matches!(kind, b"nclx" | b"nclc") {
        return None;
    }
    let full_range = kind == b"nclx" && colr.get(10).is_some_and(|b| b & 0x80 != 0);
    Some(Color { matrix: u16_at(colr, 8)?.try_into().unwrap_or(2), full_range })
}

/// The turn in a track header's matrix. Mirrors and odd angles are left alone.
fn quarter_turns(tkhd: &[u8]) -> u8 {
    let at = if tkhd.first() == Some(&1) { 52 } else { 40 };
    let Some(matrix) = tkhd.get(at..at + 36) else { return 0 };
    let sign = |i: usize| (u32_at(matrix, i * 4).unwrap_or(0) as i32).signum();
    match [sign(0), sign(1), sign(3), sign(4)] {
        [0, 1, -1, 0] => 1,
        [-1, 0, 0, -1] => 2,
        [0, -1, 1, 0] => 3,
        _ => 0,
    }
}

/// The part of the track to be shown, when the edit list names exactly one. Anything more complicated is ignored: all frames
/// are then used, in order.
fn single_edit(elst: &[u8], ticks: u32, movie_ticks: u32) -> Option<(i64, Option<i64>)> {
    let long = elst.first() == Some(&1);
    let edits: Vec<(u64, i64)> = if long {
        let edit = |e: &[u8; 20]| (u64_at(e, 0).unwrap_or(0), u64_at(e, 8).unwrap_or(0) as i64);
        entries::<20>(Some(elst)).iter().take(16).map(edit).collect()
    } else {
        let edit = |e: &[u8; 12]| (u64::from(word(e, 0)), i64::from(word(e, 1) as i32));
        entries::<12>(Some(elst)).iter().take(16).map(edit).collect()
    };
    // A time of -1 is a pause before the film begins.
    let mut films = edits.into_iter().filter(|&(_, start)| start >= 0);
    let (duration, start) = films.next().filter(|_| films.next().is_none())?;
    let length = u128::from(duration) * u128::from(ticks) / u128::from(movie_ticks);
    let end = i64::try_from(length).ok().filter(|&length| length > 0).and_then(|length| start.checked_add(length));
    Some((start, end))
}

/// Samples as they are collected.
struct SampleTable {
    samples: Vec<Sample>,
    lost: usize,
    /// Decoding time of the next sample.
    dts: i64,
    /// Duration of the sample before it.
    delta: i64,
    /// Time and duration of the sample that is shown last.
    last: (i64, i64),
    /// Of all samples so far; they do not overlap, so the file bounds them, and with them this table.
    bytes: u64,
    file_len: u64,
}

impl SampleTable {
    /// Adds one sample if the file holds it.
    fn push(&mut self, offset: u64, size: u32, delta: u32, shift: i64, sync: bool, config: u32) -> Result<()> {
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
        let n = self.samples.len() as u64 + 1;
        if n > MANY_SAMPLES && self.bytes / n < MIN_SAMPLE_BYTES {
            return Err(Error::limit(format!("the index lists `{n}` frames in {} bytes", self.bytes)));
        }
        if pts > self.last.0 {
            self.last = (pts, self.delta);
        }
        let config = u16::try_from(config.saturating_sub(1)).unwrap_or(u16::MAX - 1);
        self.samples.push(Sample { offset, size, pts, sync, config });
        Ok(())
    }

    /// The sample tables of a whole file.
    fn read_stbl(&mut self, stbl: &[u8]) -> Result<()> {
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

    /// One fragment.
    fn read_moof(&mut self, moof: &[u8], moof_at: u64, id: u32, mvex: &[u8]) -> Result<()> {
        let trex = boxes(mvex).find(|(name, data)| name == b"trex" && u32_at(data, 4) == Some(id));
        let trex = |i: usize| trex.and_then(|(_, data)| u32_at(data, 4 + i * 4)).unwrap_or(0);
        for (_, traf) in boxes(moof).filter(|(name, _)| name == b"traf") {
            let Some(tfhd) = child(traf, b"tfhd").filter(|tfhd| u32_at(tfhd, 4) == Some(id)) else { continue };
            let flags = u32_at(tfhd, 0).unwrap_or(0) & 0xFF_FFFF;
            let mut at = 8;
            let mut field = |bit: u32, len: usize| {
                let here = (flags & bit != 0).then_some(at);
                at += if flags & bit != 0 { len } else { 0 };
                here
            };
            let base = field(0x1, 8).and_then(|at| u64_at(tfhd, at)).unwrap_or(moof_at);
            let mut default = |bit: u32, i: usize| field(bit, 4).and_then(|at| u32_at(tfhd, at)).unwrap_or(trex(i));
            let config = default(0x2, 1);
            let defaults = [default(0x8, 2), default(0x10, 3), default(0x20, 4)];
            if let Some(tfdt) = child(traf, b"tfdt") {
                let time = if tfdt.first() == Some(&1) { u64_at(tfdt, 4) } else { u32_at(tfdt, 4).map(u64::from) };
                self.dts = time.and_then(|t| i64::try_from(t).ok()).unwrap_or(self.dts);
            }
            let mut offset = base;
            for (_, trun) in boxes(traf).filter(|(name, _)| name == b"trun") {
                offset = self.read_trun(trun, base, offset, config, defaults)?;
            }
        }
        Ok(())
    }

    /// One run of samples of a fragment; returns where the next run begins unless it says so itself.
    fn read_trun(&mut self, trun: &[u8], base: u64, next: u64, config: u32, defaults: [u32; 3]) -> Result<u64> {
        let flags = u32_at(trun, 0).unwrap_or(0) & 0xFF_FFFF;
        let count = u32_at(trun, 4).unwrap_or(0);
        let mut at = 8;
        let mut take = |bit: u32| {
            let value = (flags & bit != 0).then(|| u32_at(trun, at));
            at += if flags & bit != 0 { 4 } else { 0 };
            value
        };
        let mut offset = match take(0x1).flatten() {
            Some(shift) => base.saturating_add_signed(i64::from(shift as i32)),
            None => next,
        };
        let first_flags = take(0x4).flatten();
        for i in 0..count {
            let mut field = |bit: u32, default: u32| match take(bit) {
                Some(value) => value.ok_or(()),
                None => Ok(default),
            };
            let fields = (|| {
                Ok::<_, ()>((
                    field(0x100, defaults[0])?,
                    field(0x200, defaults[1])?,
                    field(0x400, defaults[2])?,
                    field(0x800, 0)?,
                ))
            })();
            // The rest of a run that is cut off is lost.
            let Ok((delta, size, sample_flags, shift)) = fields else {
                self.lost = self.lost.saturating_add((count - i) as usize);
                return Ok(offset);
            };
            let sample_flags = first_flags.filter(|_| i == 0).unwrap_or(sample_flags);
            let sync = sample_flags & 0x1_0000 == 0;
            self.push(offset, size, delta, i64::from(shift as i32), sync, config)?;
            offset = offset.saturating_add(u64::from(size));
        }
        Ok(offset)
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn box_heads_come_in_three_sizes() {
        assert_eq!(box_head(b"\0\0\0\x10free", 100), Some((*b"free", 8, 16)));
        assert_eq!(box_head(b"\0\0\0\0mdat", 100), Some((*b"mdat", 8, 100)), "to the end of the file");
        let long = b"\0\0\0\x01mdat\0\0\0\x02\0\0\0\0";
        assert_eq!(box_head(long, 100), Some((*b"mdat", 16, 1 << 33)));
        for bad in [&b"\0\0\0\x07free"[..], b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x0F", b"\0\0\0\x01mdat", b"\0\0\0"] {
            assert_eq!(box_head(bad, 100), None, "{bad:?}");
        }
    }

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
            assert_eq!(u64::from(track.ticks_per_second), want.timescale, "{name}");
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

    #[test]
    fn rotation_is_read_from_the_matrix() {
        let turns = |name: &str| {
            let path = format!("{}/tests/golden/media/{name}", env!("CARGO_MANIFEST_DIR"));
            read_track(&mut File::open(path).unwrap()).unwrap().quarter_turns
        };
        assert_eq!(turns("baseline.mp4"), 0);
        let all = ["rotated_90.mp4", "rotated_180.mp4", "rotated_270.mp4"].map(turns);
        assert_eq!(all[1], 2);
        assert!(all == [1, 2, 3] || all == [3, 2, 1], "{all:?}");
    }

    #[test]
    fn edit_lists_with_one_film_are_used() {
        let elst = |edits: &[(u32, i32)]| -> Vec<u8> {
            let head = [0u32, edits.len() as u32];
            let rest = edits.iter().flat_map(|&(duration, start)| [duration, start as u32, 0x1_0000]);
            head.into_iter().chain(rest).flat_map(u32::to_be_bytes).collect()
        };
        assert_eq!(single_edit(&elst(&[(500, 1024)]), 12800, 1000), Some((1024, Some(1024 + 6400))));
        assert_eq!(single_edit(&elst(&[(40, -1), (0, 512)]), 12800, 1000), Some((512, None)));
        assert_eq!(single_edit(&elst(&[(100, 0), (100, 5000)]), 12800, 1000), None, "more complicated: all is shown");
        assert_eq!(single_edit(&elst(&[]), 12800, 1000), None);
        assert_eq!(single_edit(&[], 12800, 1000), None);
    }
}
