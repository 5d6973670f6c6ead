//! The boxes of an MP4 or QuickTime file as such: heads, nesting, numbers. Nothing here knows what a box means.
//!
//! Every function looks at the bytes it is given and at nothing else, a constant number of times: what it costs is bounded by
//! their length.

use byteorder::{BE, ByteOrder};

/// Name, bytes of the head, and bytes of the whole box; `left` is how much there is from here on.
pub(super) fn box_head(data: &[u8], left: u64) -> Option<([u8; 4], u64, u64)> {
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
pub(super) fn boxes(mut data: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (name, head, size) = box_head(data, data.len() as u64)?;
        let (this, rest) = data.split_at_checked(usize::try_from(size).ok()?)?;
        data = rest;
        Some((name, this.get(head as usize..)?))
    })
}

pub(super) fn child<'a>(data: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(data).find(|(n, _)| n == name).map(|(_, content)| content)
}

pub(super) fn path<'a>(data: &'a [u8], names: &[&[u8; 4]]) -> Option<&'a [u8]> {
    names.iter().try_fold(data, |data, name| child(data, name))
}

pub(super) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.get(..2).map(BE::read_u16)
}

pub(super) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.get(..4).map(BE::read_u32)
}

pub(super) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.get(..8).map(BE::read_u64)
}

/// Ticks per second of an `mvhd` or `mdhd` box.
pub(super) fn time_scale(data: &[u8]) -> Option<u32> {
    u32_at(data, if data.first() == Some(&1) { 20 } else { 12 }).filter(|&ticks| ticks > 0)
}

/// The entries of a full box that begins with their count: as many as are there and as are counted.
pub(super) fn entries<const N: usize>(data: Option<&[u8]>) -> &[[u8; N]] {
    let Some(data) = data else { return &[] };
    let n = u32_at(data, 4).unwrap_or(0) as usize;
    let all = data.get(8..).unwrap_or_default().as_chunks::<N>().0;
    &all[..n.min(all.len())]
}

/// Entry `i` of several 32-bit numbers.
pub(super) fn word<const N: usize>(entry: &[u8; N], i: usize) -> u32 {
    u32_at(entry, i * 4).unwrap_or(0)
}

#[cfg(test)]
mod tests {
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
}
