//! OpenH264 behind a guard.

use super::annexb::Picture;
use crate::kernels::openh264::OpenH264;
use crate::media::image_file::guarded;
use crate::media::yuv::{Plane, Planes};
use crate::{Error, Result};

/// OpenH264, one picture in, at most one out, in decode order.
///
/// Damage is concealed: what is missing of a picture is taken from the one before, and the pictures that refer to it go on
/// from there. Only what comes before the first point where decoding can begin is nothing.
pub struct H264 {
    decoder: OpenH264,
}

/// What came of a coded picture.
pub struct Outcome<T> {
    /// Absent where nothing could be made of it.
    pub picture: Option<T>,
    /// It is not what was encoded; pictures that only refer to such a one are not counted.
    pub is_damaged: bool,
}

impl H264 {
    pub fn new() -> Result<H264> {
        let decoder = OpenH264::new().ok_or_else(|| Error::unsupported("the built-in H.264 decoder does not start"))?;
        Ok(H264 { decoder })
    }

    /// Decodes one picture and hands its planes to `take`. What is wrong in detail is of no use to anyone, the caller
    /// counts.
    pub fn decode<T>(&mut self, picture: &Picture, take: impl FnOnce(&Planes) -> T) -> Outcome<T> {
        guarded(|| Ok(self.decode_unguarded(picture, take))).unwrap_or(Outcome { picture: None, is_damaged: true })
    }

    fn decode_unguarded<T>(&mut self, picture: &Picture, take: impl FnOnce(&Planes) -> T) -> Outcome<T> {
        if picture.annex_b.is_empty() {
            return Outcome { picture: None, is_damaged: true };
        }
        // Without a picture to begin with, concealment would show grey.
        if picture.is_idr {
            self.decoder.set_concealment(true);
        }
        let decoded = self.decoder.decode(&picture.annex_b);
        let taken = decoded.picture.and_then(|yuv| {
            let plane = |i: usize| Plane { data: yuv.planes[i], stride: yuv.strides[i] };
            let planes = Planes {
                height: yuv.height,
                width: yuv.width,
                y: plane(0),
                chroma: Some([plane(1), plane(2)]),
                shift: (1, 1),
            };
            planes.is_complete().then(|| take(&planes))
        });
        Outcome { is_damaged: decoded.is_damaged || taken.is_none(), picture: taken }
    }
}
