//! OpenH264 behind a guard.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::annexb::Picture;
use super::child::{Remote, SafeDecoder};
use crate::kernels::openh264::OpenH264;
use crate::media::image_file::guarded;
use crate::media::limits::MAX_PACKET_BYTES;
use crate::media::yuv::{Plane, Planes};
use crate::{Error, Result};

/// OpenH264, one picture in, at most one out, in decode order.
///
/// Damage is concealed: what is missing of a picture is taken from the one before, and the pictures that refer to it go on
/// from there. Only what comes before the first point where decoding can begin is nothing.
pub(crate) struct H264 {
    decoder: Decoder,
}

/// Where it runs.
enum Decoder {
    Here(OpenH264),
    Child(Remote),
}

/// What came of a coded picture.
pub(crate) struct Outcome<T> {
    /// Absent where nothing could be made of it, or where it was not wanted.
    pub picture: Option<T>,
    /// It is not what was encoded; pictures that only refer to such a one are not counted.
    pub is_damaged: bool,
}

impl H264 {
    /// A decoder in a child, or else in this process.
    ///
    /// # Errors
    /// `Unsupported` when the library does not start, `Io` when the child does not.
    pub(crate) fn new(child: Option<&SafeDecoder>) -> Result<H264> {
        match child {
            None => H264::here(),
            Some(by) => Ok(H264 { decoder: Decoder::Child(Remote::start(by)?) }),
        }
    }

    /// A decoder in this process.
    pub(crate) fn here() -> Result<H264> {
        let decoder = OpenH264::new().ok_or_else(|| Error::unsupported("the built-in H.264 decoder does not start"))?;
        Ok(H264 { decoder: Decoder::Here(decoder) })
    }

    /// A flag that makes [`H264::decode`] give up soon, where it waits for a child.
    pub(crate) fn stopper(&self) -> Option<Arc<AtomicBool>> {
        match &self.decoder {
            Decoder::Here(_) => None,
            Decoder::Child(remote) => Some(remote.stopper()),
        }
    }

    /// Decodes one picture and hands its planes to `take` if they are wanted. What is wrong in detail is of no use to anyone,
    /// the caller counts.
    ///
    /// # Errors
    /// None in this process; those of a child that cannot go on ([`SafeDecoder`]), not of the picture.
    pub(crate) fn decode<T>(
        &mut self,
        picture: &Picture,
        is_wanted: bool,
        take: impl FnOnce(&Planes) -> T,
    ) -> Result<Outcome<T>> {
        if picture.annex_b.is_empty() || picture.annex_b.len() > MAX_PACKET_BYTES {
            return Ok(Outcome { picture: None, is_damaged: true });
        }
        match &mut self.decoder {
            Decoder::Here(decoder) => Ok(guarded(|| Ok(decode_here(decoder, picture, is_wanted, take)))
                .unwrap_or(Outcome { picture: None, is_damaged: true })),
            Decoder::Child(remote) => {
                let answer = remote.decode(picture, is_wanted)?;
                let planes = answer.planes().filter(|planes| is_wanted && planes.is_complete());
                Ok(Outcome { picture: planes.as_ref().map(take), is_damaged: answer.is_damaged })
            }
        }
    }
}

fn decode_here<T>(
    decoder: &mut OpenH264,
    picture: &Picture,
    is_wanted: bool,
    take: impl FnOnce(&Planes) -> T,
) -> Outcome<T> {
    // Without a picture to begin with, concealment would show grey.
    if picture.is_idr {
        decoder.set_concealment(true);
    }
    let decoded = decoder.decode(&picture.annex_b);
    let complete = decoded.picture.map(|yuv| {
        let plane = |i: usize| Plane { data: yuv.planes[i], stride: yuv.strides[i] };
        let chroma = Some([plane(1), plane(2)]);
        Planes { height: yuv.height, width: yuv.width, y: plane(0), chroma, shift: (1, 1) }
    });
    let complete = complete.filter(Planes::is_complete);
    let is_damaged = decoded.is_damaged || complete.is_none();
    Outcome { is_damaged, picture: complete.filter(|_| is_wanted).as_ref().map(take) }
}
