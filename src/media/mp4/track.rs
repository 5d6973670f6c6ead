//! Which track is shown, and all that its headers say about it.
//!
//! Of several video tracks the one that players begin with: enabled before not enabled, a film before a picture (cover art),
//! then the largest, then the first. Pictures that belong to the chapters of another track never count.

use image::metadata::Orientation;

use super::boxes::{boxes, child, path, time_scale, u16_at, u32_at};
use super::edits::{self, Edit};
use super::{display, index};
use crate::media::h264::{AvcConfig, Sps};
use crate::media::video::Merit;
use crate::media::yuv::Color;
use crate::{Error, Result};

/// Codecs of single pictures, which serve as covers and thumbnails.
const PICTURES: [&[u8; 4]; 5] = [b"jpeg", b"mjpa", b"png ", b"tiff", b"gif "];
/// Most kinds of other tracks that a message names.
const MAX_NAMED: usize = 8;

/// Everything about a track except its samples.
#[derive(Debug)]
pub(super) struct Head {
    pub id: u32,
    pub ticks_per_second: u32,
    /// The parts to be shown.
    pub edits: Vec<Edit>,
    pub configs: Vec<AvcConfig>,
    /// Size and colours from the first parameter set.
    pub sps: Sps,
    /// What to do to each picture.
    pub orientation: Orientation,
}

/// The content of the video track to show, in that of a `moov` box.
///
/// # Errors
/// `Format` when there is no video, `Unsupported` when it is not H.264.
pub(super) fn pick(moov: &[u8]) -> Result<&[u8]> {
    let traks = || boxes(moov).filter(|(name, _)| name == b"trak").map(|(_, content)| content);
    let mut chapters: Vec<[u8; 4]> = traks()
        .filter_map(|trak| path(trak, &[b"tref", b"chap"]))
        .flat_map(|ids| ids.as_chunks::<4>().0.iter().copied())
        .collect();
    chapters.sort_unstable();
    let mut best: Option<(Merit, &[u8; 4], &[u8])> = None;
    let mut others = Vec::new();
    for trak in traks() {
        let kind = path(trak, &[b"mdia", b"hdlr"]).and_then(|hdlr| hdlr.get(8..)?.first_chunk::<4>());
        if kind != Some(b"vide") {
            others.extend(kind.filter(|_| others.len() < MAX_NAMED));
            continue;
        }
        let tkhd = child(trak, b"tkhd");
        if tkhd.and_then(track_id).is_some_and(|id| chapters.binary_search(&id.to_be_bytes()).is_ok()) {
            continue;
        }
        let stsd = path(trak, &[b"mdia", b"minf", b"stbl", b"stsd"]).unwrap_or_default();
        let Some((codec, entry)) = stsd.get(8..).and_then(first_entry) else { continue };
        let side = |at: usize| u64::from(u16_at(entry, at).unwrap_or(0));
        let merit = Merit {
            is_enabled: tkhd.and_then(|tkhd| u32_at(tkhd, 0)).is_some_and(|flags| flags & 1 != 0),
            is_film: !PICTURES.contains(&codec),
            area: side(24) * side(26),
        };
        // The first of equals stays.
        if best.as_ref().is_none_or(|(least, ..)| merit > *least) {
            best = Some((merit, codec, trak));
        }
    }
    let text = |name: &[u8; 4]| format!("`{}`", String::from_utf8_lossy(name).escape_default());
    match best {
        Some((_, b"avc1" | b"avc3", trak)) => Ok(trak),
        Some((_, codec, _)) => Err(Error::unsupported(format!(
            "video codec {} is not built in; the built-in decoder does H.264 (avc1)",
            text(codec)
        ))),
        None if others.is_empty() => Err(Error::format("no video in it, the file has no track of any kind")),
        None => {
            let names: Vec<String> = others.into_iter().map(text).collect();
            Err(Error::format(format!("no video in it, its tracks are {}", names.join(", "))))
        }
    }
}

/// Name and content of the first box, as far as it is there.
fn first_entry(data: &[u8]) -> Option<(&[u8; 4], &[u8])> {
    let name = data.get(4..)?.first_chunk::<4>()?;
    Some((name, boxes(data).next()?.1))
}

fn track_id(tkhd: &[u8]) -> Option<u32> {
    u32_at(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 })
}

impl Head {
    /// Reads the content of a `trak` box; that of the movie header (`mvhd`) says how it is shown.
    ///
    /// # Errors
    /// `Format` for what is missing or damaged, `Unsupported` for what is not built in.
    pub(super) fn read(trak: &[u8], mvhd: Option<&[u8]>) -> Result<Head> {
        let cut = |what: &str| Error::format(format!("the {what} of the video track is missing or cut off"));
        let ticks = path(trak, &[b"mdia", b"mdhd"]).and_then(time_scale).ok_or_else(|| cut("time scale (mdhd)"))?;
        let movie_ticks = mvhd.and_then(time_scale).unwrap_or(index::MOVIE_TICKS);
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
        let tkhd = child(trak, b"tkhd");
        let elst = path(trak, &[b"edts", b"elst"]).unwrap_or_default();
        Ok(Head {
            id: tkhd.and_then(track_id).unwrap_or(0),
            ticks_per_second: ticks,
            edits: edits::read(elst, ticks, movie_ticks)?,
            configs,
            sps,
            orientation: display::orientation(tkhd, mvhd)?,
        })
    }
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
