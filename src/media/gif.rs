//! GIF as an animation: its blocks, and one frame of it as a GIF of its own.

use image::ImageFormat;

use super::animation::{Blend, Disposal, Format, Outline, Part, Scan};
use crate::{Error, Result};

/// Animated GIF, or one with a single frame.
pub(super) const FORMAT: Format = Format { name: "gif", still_format: ImageFormat::Gif, outline, still };

/// GIF counts time in hundredths of a second.
const TICKS_PER_SECOND: u32 = 100;

/// What a graphic control extension says of the frame after it.
#[derive(Default)]
struct Control {
    delay: u16,
    disposal: u8,
    transparent: Option<u8>,
}

/// Walks over the blocks; the end of the file, or what is no block, is as good as the trailer.
fn outline(scan: &mut Scan) -> Result<Option<Outline>> {
    let head: [u8; 13] = scan.array()?.ok_or_else(|| Error::format("the GIF is cut off in its header"))?;
    let mut outline = Outline::new((short(head[8], head[9]), short(head[6], head[7])), TICKS_PER_SECOND)?;
    outline.head = head.to_vec();
    scan.bytes(palette_len(head[10]), &mut outline.head)?;
    let mut control = Control::default();
    while let Some([kind]) = scan.array()? {
        match kind {
            0x21 => {
                let Some([label, len]) = scan.array()? else { break };
                let mut rest = u64::from(len);
                if label == 0xF9 && len >= 4 {
                    let Some([flags, low, high, index]) = scan.array()? else { break };
                    control = Control {
                        delay: u16::from_le_bytes([low, high]),
                        disposal: flags >> 2 & 7,
                        transparent: (flags & 1 != 0).then_some(index),
                    };
                    rest -= 4;
                }
                scan.skip(rest)?;
                if len > 0 {
                    skip_blocks(scan)?;
                }
            }
            0x2C => {
                let start = scan.at() - 1;
                let Some([l0, l1, t0, t1, w0, w1, h0, h1, flags]) = scan.array()? else { break };
                // One byte of code size comes before the data.
                scan.skip(palette_len(flags) + 1)?;
                skip_blocks(scan)?;
                let Control { delay, disposal, transparent } = std::mem::take(&mut control);
                outline.push(Part {
                    left: short(l0, l1),
                    top: short(t0, t1),
                    width: short(w0, w1),
                    height: short(h0, h1),
                    delay: delay.into(),
                    blend: if transparent.is_some() { Blend::Over } else { Blend::Replace },
                    disposal: match disposal {
                        2 => Disposal::Clear,
                        3 | 4 => Disposal::Restore,
                        _ => Disposal::Keep,
                    },
                    bytes: start..scan.at(),
                    transparent,
                })?;
            }
            _ => break,
        }
    }
    Ok(Some(outline))
}

/// The header with the frame's size, its transparent colour, and its image block moved to the corner.
fn still(outline: &Outline, part: &Part, bytes: &[u8]) -> Result<Vec<u8>> {
    let cut_off = || Error::format("the frame is cut off");
    let (head, palette) = outline.head.split_at_checked(13).ok_or_else(cut_off)?;
    let (descriptor, data) = bytes.split_at_checked(10).ok_or_else(cut_off)?;
    let size = &descriptor[5..9];
    let (flag, index) = part.transparent.map_or((0, 0), |index| (1, index));
    let control = [0x21, 0xF9, 4, flag, 0, 0, index, 0];
    let pieces =
        [b"GIF89a", size, &[head[10], 0, 0], palette, &control, &[0x2C, 0, 0, 0, 0], size, &descriptor[9..], data];
    let mut still = pieces.concat();
    still.push(0x3B);
    Ok(still)
}

fn short(low: u8, high: u8) -> u32 {
    u16::from_le_bytes([low, high]).into()
}

/// Bytes of the colour table that `flags` announce.
fn palette_len(flags: u8) -> u64 {
    if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 }
}

/// Leaves out data blocks up to and including the empty one that ends them.
fn skip_blocks(scan: &mut Scan) -> Result<()> {
    while let Some([len]) = scan.array()? {
        if len == 0 {
            break;
        }
        scan.skip(len.into())?;
    }
    Ok(())
}
