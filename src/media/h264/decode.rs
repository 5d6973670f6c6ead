//! OpenH264 behind a guard.

use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::media::image_file::guarded;
use crate::media::yuv::{Plane, Planes};
use crate::{Error, Result};

/// OpenH264, one picture in, at most one out, in decode order.
pub struct H264 {
    decoder: Decoder,
}

impl H264 {
    pub fn new() -> Result<H264> {
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let decoder = Decoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|_| Error::unsupported("the built-in H.264 decoder does not start"))?;
        Ok(H264 { decoder })
    }

    /// Decodes one picture and hands its planes to `take`; `None` for a damaged one. What is wrong in detail is of no use to
    /// anyone, the caller counts.
    pub fn decode<T>(&mut self, annex_b: &[u8], take: impl FnOnce(&Planes) -> T) -> Option<T> {
        guarded(|| Ok(self.decode_unguarded(annex_b, take))).ok().flatten()
    }

    fn decode_unguarded<T>(&mut self, annex_b: &[u8], take: impl FnOnce(&Planes) -> T) -> Option<T> {
        if annex_b.is_empty() || i32::try_from(annex_b.len()).is_err() {
            return None;
        }
        let yuv = self.decoder.decode(annex_b).ok()??;
        let ((width, height), strides) = (yuv.dimensions(), yuv.strides());
        let planes = Planes {
            height,
            width,
            y: Plane { data: yuv.y(), stride: strides.0 },
            chroma: Some([Plane { data: yuv.u(), stride: strides.1 }, Plane { data: yuv.v(), stride: strides.2 }]),
            shift: (1, 1),
        };
        planes.is_complete().then(|| take(&planes))
    }
}
