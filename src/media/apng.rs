//! APNG: its chunks, and one frame of it as a PNG of its own.

use image::ImageFormat;

use super::animation::{Blend, Disposal, Format, Outline, Part, Scan};
use crate::{Error, Result};

/// PNG with frames.
pub(super) const FORMAT: Format = Format { name: "apng", still_format: ImageFormat::Png, outline, still };

const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
/// Delays are fractions; every usual frame rate divides this.
const TICKS_PER_SECOND: u32 = 90_000;
/// Bytes of an image header.
const IHDR_LEN: usize = 13;
/// Where it has the type of colours, and the bit of that which says that opacity is among them.
const COLOR_TYPE: usize = 9;
const HAS_ALPHA: u8 = 4;
/// Most bytes of a palette.
const MAX_PALETTE: u32 = 768;
/// Most bytes kept for all frames: the header, the palette and its opacity.
const MAX_HEAD: usize = 2048;

/// Walks over the chunks; the end of the file is as good as the end chunk. A default picture before the first frame is not
/// part of the animation.
fn outline(scan: &mut Scan) -> Result<Option<Outline>> {
    let cut_off = || Error::format("the PNG is cut off in its header");
    let _: [u8; 8] = scan.array()?.ok_or_else(cut_off)?;
    let _: [u8; 8] = scan.array()?.ok_or_else(cut_off)?;
    let header: [u8; IHDR_LEN] = scan.array()?.ok_or_else(cut_off)?;
    scan.skip(4)?;
    let mut outline = Outline::new((long(&header, 4), long(&header, 0)), TICKS_PER_SECOND)?;
    outline.head = header.to_vec();
    if header[COLOR_TYPE] & HAS_ALPHA == 0 {
        outline.backdrop = 0;
    }
    let (mut is_animated, mut part) = (false, None);
    loop {
        let start = scan.at();
        let chunk = scan.array()?;
        let (len, name) = chunk.map_or((0, *b"IEND"), |[l0, l1, l2, l3, a, b, c, d]: [u8; 8]| {
            (u32::from_be_bytes([l0, l1, l2, l3]), [a, b, c, d])
        });
        let mut rest = u64::from(len) + 4;
        match &name {
            b"PLTE" | b"tRNS" if len <= MAX_PALETTE && outline.head.len() < MAX_HEAD => {
                if name == *b"tRNS" {
                    outline.backdrop = 255;
                }
                outline.head.extend_from_slice(&chunk.unwrap_or_default());
                scan.bytes(rest, &mut outline.head)?;
                rest = 0;
            }
            b"acTL" => is_animated = true,
            b"IDAT" if !is_animated => return Ok(None),
            b"fcTL" if len == 26 => {
                let Some(control) = scan.array()? else { continue };
                rest = 4;
                finish(&mut outline, part.replace(frame(&control, scan.at() + rest)), start)?;
            }
            b"IEND" => {
                finish(&mut outline, part, start)?;
                return Ok(is_animated.then_some(outline));
            }
            _ => {}
        }
        scan.skip(rest)?;
    }
}

/// What a frame control says of the frame whose data begin at `start`.
fn frame(control: &[u8; 26], start: u64) -> Part {
    let short = |at: usize| u32::from(u16::from_be_bytes([control[at], control[at + 1]]));
    let per_second = if short(22) == 0 { 100 } else { short(22) };
    Part {
        width: long(control, 4),
        height: long(control, 8),
        left: long(control, 12),
        top: long(control, 16),
        delay: (f64::from(short(20)) * f64::from(TICKS_PER_SECOND) / f64::from(per_second)).round() as u32,
        disposal: match control[24] {
            1 => Disposal::Clear,
            2 => Disposal::Restore,
            _ => Disposal::Keep,
        },
        blend: if control[25] == 1 { Blend::Over } else { Blend::Replace },
        bytes: start..start,
        transparent: None,
    }
}

/// Adds the frame whose data end at `end`.
fn finish(outline: &mut Outline, part: Option<Part>, end: u64) -> Result<()> {
    match part {
        Some(part) => outline.push(Part { bytes: part.bytes.start..end, ..part }),
        None => Ok(()),
    }
}

/// The header with the frame's size, the colours, and the frame's data as those of a still picture.
fn still(outline: &Outline, part: &Part, bytes: &[u8]) -> Result<Vec<u8>> {
    let damaged = || Error::format("the frame is damaged or cut off");
    let (header, colours) = outline.head.split_at_checked(IHDR_LEN).ok_or_else(damaged)?;
    let (mut data, mut rest) = (Vec::new(), bytes);
    while let Some((&[l0, l1, l2, l3], after)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let (chunk, after) = after.split_at_checked(len.saturating_add(4)).ok_or_else(damaged)?;
        let (sum, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
        rest = after;
        let content = match chunk.split_first_chunk::<4>().ok_or_else(damaged)? {
            (b"IDAT", content) => content,
            // A running number comes first.
            (b"fdAT", content) => content.get(4..).ok_or_else(damaged)?,
            _ => continue,
        };
        if crc32fast::hash(chunk) != u32::from_be_bytes(*sum) {
            return Err(damaged());
        }
        data.extend_from_slice(content);
    }
    let size = [part.width.to_be_bytes(), part.height.to_be_bytes()].concat();
    let mut still = SIGNATURE.to_vec();
    chunk(&mut still, b"IHDR", &[&size, &header[8..]].concat());
    still.extend_from_slice(colours);
    chunk(&mut still, b"IDAT", &data);
    chunk(&mut still, b"IEND", b"");
    Ok(still)
}

fn chunk(to: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    to.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = to.len();
    to.extend_from_slice(name);
    to.extend_from_slice(data);
    let sum = crc32fast::hash(&to[start..]);
    to.extend_from_slice(&sum.to_be_bytes());
}

/// The 32-bit number at `at`.
fn long(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}
