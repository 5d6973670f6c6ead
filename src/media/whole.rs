//! Whether an image file ends where its format says. Some decoders fill what is missing with grey and say nothing.

use image::ImageFormat;

/// What is cut off of a file that a decoder took all the same, for people.
pub(super) fn cut_off(bytes: &[u8], format: ImageFormat) -> Option<String> {
    let (whole, name) = match format {
        ImageFormat::Jpeg => (jpeg_ends(bytes), "jpeg"),
        ImageFormat::WebP => (riff_ends(bytes), "webp"),
        _ => (true, ""),
    };
    let n = bytes.len();
    (!whole).then(|| format!("the {name} file is cut off after {n} bytes: a part of the picture is missing"))
}

/// Whether a JPEG has its end marker. Segments are left by their length, so that a thumbnail's marker does not count;
/// compressed data is searched, where 0xFF never stands alone before anything but a marker.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const SOI: u8 = 0xD8;
    const EOI: u8 = 0xD9;
    const TEM: u8 = 0x01;
    let is_restart = |marker: u8| (0xD0..=0xD7).contains(&marker);
    let mut at = 0;
    loop {
        // The next marker: after any number of fill bytes, and in a scan after all data.
        let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0xFF)) else {
            return false;
        };
        at += found + 1;
        let Some(&marker) = bytes.get(at) else { return false };
        match marker {
            0xFF => {}
            EOI => return true,
            0x00 | SOI | TEM => at += 1,
            _ if is_restart(marker) => at += 1,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

/// Whether a RIFF file is as long as it says.
fn riff_ends(bytes: &[u8]) -> bool {
    let Some(size) = bytes.get(4..8).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes) else {
        return false;
    };
    bytes.len() as u64 >= u64::from(size) + 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_marker_ends_and_a_thumbnails_does_not() {
        let ends = |bytes: &[u8]| jpeg_ends(bytes);
        let head = [0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD9, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0, 3, 1, 7, 0xFF, 0x00, 9, 0xFF, 0xD0, 3];
        assert!(!ends(&head) && !ends(&[&head[..], &scan].concat()));
        assert!(ends(&[&head[..], &scan, &[0xFF, 0xD9]].concat()));
        assert!(ends(&[&head[..], &scan, &[0xFF, 0xFF, 0xD9, 1, 2, 3]].concat()), "fill bytes, and a trailer");
        assert!(!ends(&[&head[..], &scan, &[0xFF]].concat()) && !ends(&[]) && !ends(&[0xFF, 0xE0, 0xFF]));
    }
}
