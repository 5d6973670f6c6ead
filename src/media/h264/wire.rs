//! What this program and its decoding child say to each other, over pipes: a request for each coded picture, and an answer to
//! each, in order. Numbers are 32 bits, little endian.
//!
//! | message | fields |
//! |---|---|
//! | request | bytes of the picture, number of the request, flags ([`IS_IDR`], [`IS_WANTED`]), the picture in Annex B form |
//! | answer | [`MAGIC`], number of the request, flags ([`IS_DAMAGED`], [`HAS_PICTURE`]), height, width, rows of Y, Cb, Cr without padding |
//!
//! Parameter sets travel in the pictures. Both sides check every size before they make room for what it announces.

use std::io::Read;

use byteorder::{ByteOrder, LE, ReadBytesExt};

use super::annexb::Picture;
use super::sps::MAX_MACROBLOCKS;
use crate::media::limits::{MAX_PACKET_BYTES, MAX_SIDE};
use crate::media::yuv::{Plane, Planes};
use crate::{Error, Result};

/// First field of an answer; another one for every change of the messages.
const MAGIC: u32 = u32::from_le_bytes(*b"LTH1");
const IS_IDR: u32 = 1;
const IS_WANTED: u32 = 2;
const IS_DAMAGED: u32 = 1;
const HAS_PICTURE: u32 = 2;

/// Fields before the bytes of a message.
const N_REQUEST: usize = 3;
const N_ANSWER: usize = 5;

/// A coded picture to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// Counted from one request to the next; the answer repeats it.
    pub number: u32,
    /// Whether the planes are asked for, or only what came of it.
    pub is_wanted: bool,
}

impl Request {
    /// The bytes of the message that asks for `picture`.
    ///
    /// # Errors
    /// `Limit` for a picture beyond [`MAX_PACKET_BYTES`].
    pub(super) fn write(self, picture: &Picture) -> Result<Vec<u8>> {
        let n = packet_len(picture.annex_b.len())?;
        let flags = flag(picture.is_idr, IS_IDR) | flag(self.is_wanted, IS_WANTED);
        let mut message = Vec::with_capacity(4 * N_REQUEST + picture.annex_b.len());
        put([n, self.number, flags], &mut message);
        message.extend_from_slice(&picture.annex_b);
        Ok(message)
    }

    /// The next request, whose picture goes into `picture`; nothing at the end.
    ///
    /// # Errors
    /// `Limit` for a picture beyond [`MAX_PACKET_BYTES`], `Io` when the rest of it does not come.
    pub(super) fn read(input: &mut impl Read, picture: &mut Picture) -> Result<Option<Request>> {
        let Some([n, number, flags]) = fields::<N_REQUEST>(input) else { return Ok(None) };
        let n = packet_len(n as usize)? as usize;
        // Room comes with the bytes: few requests are as long as they may be.
        picture.annex_b.clear();
        if input.take(n as u64).read_to_end(&mut picture.annex_b)? < n {
            return Err(Error::format("a request that is cut off"));
        }
        picture.is_idr = flags & IS_IDR != 0;
        Ok(Some(Request { number, is_wanted: flags & IS_WANTED != 0 }))
    }
}

fn packet_len(n: usize) -> Result<u32> {
    let too_long = || Error::limit(format!("a coded picture of `{n}` bytes, at most {MAX_PACKET_BYTES}"));
    u32::try_from(n).ok().filter(|_| n <= MAX_PACKET_BYTES).ok_or_else(too_long)
}

/// What came of a coded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub number: u32,
    pub is_damaged: bool,
    height: usize,
    width: usize,
    /// The planes, or nothing.
    data: Vec<u8>,
}

impl Answer {
    /// The next answer; nothing at the end, also in the middle of one.
    ///
    /// # Errors
    /// In words: what is no answer, or announces more than a decoder can have.
    pub(super) fn read(output: &mut impl Read) -> Option<Result<Answer, String>> {
        let [magic, number, flags, height, width] = fields::<N_ANSWER>(output)?;
        if magic != MAGIC || flags > (IS_DAMAGED | HAS_PICTURE) {
            return Some(Err("answers with something else than pictures".into()));
        }
        let (height, width) = (height as usize, width as usize);
        let mut data = Vec::new();
        if flags & HAS_PICTURE != 0 {
            let Some(n) = n_bytes(height, width) else {
                return Some(Err(format!(
                    "answers with a picture of `{width}x{height}`, at most {MAX_MACROBLOCKS} macroblocks of 16x16"
                )));
            };
            data.resize(n, 0);
            output.read_exact(&mut data).ok()?;
        }
        Some(Ok(Answer { number, is_damaged: flags & IS_DAMAGED != 0, height, width, data }))
    }

    /// The picture, if there is one.
    pub(super) fn planes(&self) -> Option<Planes<'_>> {
        let ([luma, chroma], half) = (plane_bytes(self.height, self.width)?, self.width.div_ceil(2));
        let (y, rest) = self.data.split_at_checked(luma)?;
        let (cb, cr) = rest.split_at_checked(chroma)?;
        let plane = |data, stride| Plane { data, stride };
        Some(Planes {
            height: self.height,
            width: self.width,
            y: plane(y, self.width),
            chroma: Some([plane(cb, half), plane(cr, half)]),
            shift: (1, 1),
        })
    }
}

/// The fields of an answer; what [`push_planes`] has made of a picture of that size follows them.
pub(super) fn head(number: u32, is_damaged: bool, size: Option<(usize, usize)>) -> Vec<u8> {
    let (height, width) = size.unwrap_or((0, 0));
    let flags = flag(is_damaged, IS_DAMAGED) | flag(size.is_some(), HAS_PICTURE);
    let mut message = Vec::new();
    // Sizes are those of `push_planes`, far below 32 bits.
    put([MAGIC, number, flags, height as u32, width as u32], &mut message);
    message
}

/// Appends the rows of a complete 4:2:0 picture without their padding; `None`, and nothing appended, for one beyond what can
/// be answered.
pub(super) fn push_planes(planes: &Planes, out: &mut Vec<u8>) -> Option<(usize, usize)> {
    let n = n_bytes(planes.height, planes.width)?;
    let [cb, cr] = planes.chroma?;
    out.reserve(n);
    let half = (planes.height.div_ceil(2), planes.width.div_ceil(2));
    for (plane, (height, width)) in [(planes.y, (planes.height, planes.width)), (cb, half), (cr, half)] {
        for row in plane.data.chunks(plane.stride).take(height) {
            out.extend_from_slice(&row[..width]);
        }
    }
    Some((planes.height, planes.width))
}

/// Bytes of the planes of a picture that the decoder can have made.
fn n_bytes(height: usize, width: usize) -> Option<usize> {
    let n_blocks = height.div_ceil(16).checked_mul(width.div_ceil(16))?;
    if n_blocks == 0 || n_blocks as u64 > MAX_MACROBLOCKS || height.max(width) > MAX_SIDE {
        return None;
    }
    let [luma, chroma] = plane_bytes(height, width)?;
    chroma.checked_mul(2)?.checked_add(luma)
}

/// Bytes of luma and of each chroma plane.
fn plane_bytes(height: usize, width: usize) -> Option<[usize; 2]> {
    Some([height.checked_mul(width)?, height.div_ceil(2).checked_mul(width.div_ceil(2))?])
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

fn put<const N: usize>(fields: [u32; N], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + size_of_val(&fields), 0);
    LE::write_u32_into(&fields, &mut out[start..]);
}

/// The fields of a message; nothing at the end.
fn fields<const N: usize>(from: &mut impl Read) -> Option<[u32; N]> {
    let mut fields = [0; N];
    from.read_u32_into::<LE>(&mut fields).ok()?;
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let picture = Picture { annex_b: vec![0, 0, 0, 1, 0x65, 9], is_idr: true, ..Picture::default() };
        let request = Request { number: 7, is_wanted: true };
        let mut read = Picture::default();
        let message = request.write(&picture).unwrap();
        assert_eq!(Request::read(&mut &message[..], &mut read).unwrap(), Some(request));
        assert_eq!((read.annex_b, read.is_idr), (picture.annex_b, true));
        assert_eq!(Request::read(&mut &message[..3], &mut Picture::default()).unwrap(), None);
        assert!(Request::read(&mut &message[..14], &mut Picture::default()).is_err());

        // 3x5 with rows of 8 and 4 bytes.
        let rows: Vec<u8> = (0..24).collect();
        let plane = |stride: usize, n: usize| Plane { data: &rows[..n], stride };
        let chroma = Some([plane(4, 7), plane(4, 7)]);
        let planes = Planes { height: 3, width: 5, y: plane(8, 21), chroma, shift: (1, 1) };
        assert!(planes.is_complete());
        let mut body = Vec::new();
        let size = push_planes(&planes, &mut body);
        assert_eq!((size, body.len()), (Some((3, 5)), 15 + 2 * 6));
        let message = [head(7, true, size), body].concat();
        let answer = Answer::read(&mut &message[..]).unwrap().unwrap();
        let planes = answer.planes().unwrap();
        assert!(planes.is_complete() && answer.is_damaged && answer.number == 7);
        assert_eq!(planes.y.data, [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20]);
        assert_eq!(planes.chroma.unwrap()[1].data, [0, 1, 2, 4, 5, 6]);
        assert!((0..message.len()).all(|n| Answer::read(&mut &message[..n]).is_none()));
        let answer = Answer::read(&mut &head(1, false, None)[..]).unwrap().unwrap();
        assert!(answer.planes().is_none_or(|planes| !planes.is_complete()));
    }

    #[test]
    fn nothing_is_made_room_for_unchecked() {
        let long = [u32::MAX, 0, 0].map(u32::to_le_bytes).concat();
        assert!(Request::read(&mut &long[..], &mut Picture::default()).unwrap_err().to_string().contains("at most"));
        for (height, width) in [(0, 5), (u32::MAX, u32::MAX), (1 << 17, 16), (4096, 4096), (1, u32::MAX)] {
            let message = [MAGIC, 0, HAS_PICTURE, height, width].map(u32::to_le_bytes).concat();
            let words = Answer::read(&mut &message[..]).unwrap().unwrap_err();
            assert!(words.contains(&format!("`{width}x{height}`")), "{words}");
        }
        for fields in [[0, 0, 0, 0, 0], [MAGIC, 0, 4, 0, 0]] {
            assert!(Answer::read(&mut &fields.map(u32::to_le_bytes).concat()[..]).unwrap().is_err());
        }
        assert_eq!(n_bytes(2304, 4096), Some(2304 * 4096 * 3 / 2));
    }
}
