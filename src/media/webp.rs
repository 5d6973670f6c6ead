//! Animated WebP: its chunks, and one frame of it as a WebP of its own.

use image::ImageFormat;

use super::animation::{Blend, Disposal, Format, Outline, Part, Scan};
use crate::{Error, Result};

/// WebP with frames.
pub(super) const FORMAT: Format = Format { name: "webp", still_format: ImageFormat::WebP, outline, still };

const TICKS_PER_SECOND: u32 = 1000;
/// In the flags of the extended header.
const HAS_ANIMATION: u8 = 0x02;
const HAS_ALPHA: u8 = 0x10;

/// Walks over the chunks; the end of the file is as good as the end that the header declares.
fn outline(scan: &mut Scan) -> Result<Option<Outline>> {
    let cut_off = || Error::format("the WebP is cut off in its header");
    let [_, _, _, _, s0, s1, s2, s3, ..]: [u8; 12] = scan.array()?.ok_or_else(cut_off)?;
    let end = u64::from(u32::from_le_bytes([s0, s1, s2, s3])) + 8;
    let (name, len) = chunk_header(scan)?.ok_or_else(cut_off)?;
    if name != *b"VP8X" {
        return Ok(None);
    }
    let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = scan.array()?.ok_or_else(cut_off)?;
    if flags & HAS_ANIMATION == 0 {
        return Ok(None);
    }
    scan.skip(padded(len).saturating_sub(10))?;
    let mut outline = Outline::new((1 + triple(h0, h1, h2), 1 + triple(w0, w1, w2)), TICKS_PER_SECOND)?;
    while scan.at() < end
        && let Some((name, len)) = chunk_header(scan)?
    {
        if name != *b"ANMF" || len < 16 {
            scan.skip(padded(len))?;
            continue;
        }
        let Some([x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2, d0, d1, d2, flags]) = scan.array()? else { break };
        let start = scan.at();
        outline.push(Part {
            left: 2 * triple(x0, x1, x2),
            top: 2 * triple(y0, y1, y2),
            width: 1 + triple(w0, w1, w2),
            height: 1 + triple(h0, h1, h2),
            delay: triple(d0, d1, d2),
            blend: if flags & 2 == 0 { Blend::Over } else { Blend::Replace },
            disposal: if flags & 1 == 0 { Disposal::Keep } else { Disposal::Clear },
            bytes: start..start + len - 16,
            transparent: None,
        })?;
        scan.skip(padded(len) - 16)?;
    }
    Ok(Some(outline))
}

/// The frame's picture chunk, with the one of its opacity where there is one.
fn still(_: &Outline, part: &Part, bytes: &[u8]) -> Result<Vec<u8>> {
    let (mut alpha, mut rest) = (None, bytes);
    let (picture, is_lossy) = loop {
        let missing = || Error::format("the frame has no whole picture");
        let (head, after) = rest.split_first_chunk::<8>().ok_or_else(missing)?;
        let [n0, n1, n2, n3, s0, s1, s2, s3] = *head;
        let len = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let data = after.get(..len).ok_or_else(missing)?;
        match &[n0, n1, n2, n3] {
            b"ALPH" => alpha = Some(data),
            b"VP8 " => break (data, true),
            b"VP8L" => break (data, false),
            _ => {}
        }
        rest = after.get(len + len % 2..).unwrap_or_default();
    };
    let mut still = b"RIFF\0\0\0\0WEBP".to_vec();
    let mut chunk = |name: &[u8; 4], data: &[u8]| {
        still.extend_from_slice(name);
        still.extend_from_slice(&(data.len() as u32).to_le_bytes());
        still.extend_from_slice(data);
        still.extend_from_slice(&[0][..data.len() % 2]);
    };
    if let Some(alpha) = alpha.filter(|_| is_lossy) {
        let [w0, w1, w2, _] = (part.width - 1).to_le_bytes();
        let [h0, h1, h2, _] = (part.height - 1).to_le_bytes();
        chunk(b"VP8X", &[HAS_ALPHA, 0, 0, 0, w0, w1, w2, h0, h1, h2]);
        chunk(b"ALPH", alpha);
    }
    chunk(if is_lossy { b"VP8 " } else { b"VP8L" }, picture);
    let len = (still.len() - 8) as u32;
    still[4..8].copy_from_slice(&len.to_le_bytes());
    Ok(still)
}

/// Name and bytes of the next chunk; nothing at the end of the file.
fn chunk_header(scan: &mut Scan) -> Result<Option<([u8; 4], u64)>> {
    let header = scan.array()?;
    Ok(header.map(|[a, b, c, d, s0, s1, s2, s3]| ([a, b, c, d], u32::from_le_bytes([s0, s1, s2, s3]).into())))
}

/// Chunks end at an even byte.
fn padded(len: u64) -> u64 {
    len + len % 2
}

fn triple(low: u8, middle: u8, high: u8) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}
