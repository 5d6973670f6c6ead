//! OpenH264 through its own interface: pictures come out even where the data are damaged.
//!
//! The safe wrapper of the crate `openh264` throws a picture away as soon as the library reports anything, cannot switch
//! concealment on, and the library itself then decodes nothing before the next point where decoding can begin. With
//! concealment, what is missing of a picture is copied from the one before, and decoding goes on.

use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};

/// `DECODER_OPTION_ERROR_CON_IDC`, and its values for none and for copying what is missing, key frames included.
const CONCEALMENT: i32 = 8;
const CONCEAL_NOTHING: i32 = 0;
const CONCEAL_BY_COPYING: i32 = 4;
/// `dsDataErrorConcealed` and `dsRefLost`: set for every picture that refers to a concealed or a lost one.
const FOLLOWS_DAMAGE: u32 = 0x20 | 0x02;
/// An access unit delimiter: a picture that is incomplete is finished when the next one begins.
const DELIMITER: [u8; 6] = [0, 0, 0, 1, 9, 0xF0];

/// A decoder, one picture in, at most one out.
pub struct OpenH264 {
    decoder: Decoder,
    conceals: bool,
}

/// What came of a picture.
pub struct DecodedFrame<'a> {
    /// The picture, where one is complete.
    pub picture: Option<PlanesI420<'a>>,
    /// The data were damaged, and the picture, if any, is partly a guess.
    pub is_damaged: bool,
}

/// An 8-bit picture in 4:2:0 that lives until the next one is decoded.
#[derive(Clone, Copy)]
pub struct PlanesI420<'a> {
    /// Rows of luma.
    pub height: usize,
    /// Columns of luma.
    pub width: usize,
    /// Luma, Cb, Cr, from the first row to the last pixel of the last row.
    pub planes: [&'a [u8]; 3],
    /// Bytes from one row to the next, of each plane.
    pub strides: [usize; 3],
}

impl OpenH264 {
    /// `None` when the library does not start.
    pub fn new() -> Option<OpenH264> {
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let decoder = Decoder::with_api_config(OpenH264API::from_source(), config).ok()?;
        Some(OpenH264 { decoder, conceals: false })
    }

    /// Whether to conceal damage from now on; otherwise a damaged picture is none, and so are those that need it.
    pub fn set_concealment(&mut self, conceals: bool) {
        if self.conceals == conceals {
            return;
        }
        self.conceals = conceals;
        let mut value = if conceals { CONCEAL_BY_COPYING } else { CONCEAL_NOTHING };
        // SAFETY: this option takes a pointer to an int, which lives beyond the call.
        let raw = unsafe { self.decoder.raw_api() };
        // SAFETY: as above; a value in range is all it can refuse.
        unsafe { raw.set_option(CONCEALMENT, (&raw mut value).cast()) };
    }

    /// Decodes one picture: NAL units with start codes.
    pub fn decode(&mut self, annex_b: &[u8]) -> DecodedFrame<'_> {
        let Ok(len) = i32::try_from(annex_b.len()) else { return DecodedFrame { picture: None, is_damaged: true } };
        let mut planes = [std::ptr::null_mut::<u8>(); 3];
        let mut info = Default::default();
        // SAFETY: the raw interface is used for decoding only, nothing that the wrapper relies on is set.
        let raw = unsafe { self.decoder.raw_api() };
        // SAFETY: `len` bytes are readable, the other two pointers are to what the library fills in, both of this frame.
        let state =
            unsafe { raw.decode_frame_no_delay(annex_b.as_ptr(), len, (&raw mut planes).cast(), &raw mut info) };
        let is_damaged = state as u32 & !FOLLOWS_DAMAGE != 0;
        if info.iBufferStatus != 1 && is_damaged && self.conceals {
            info = Default::default();
            // SAFETY: as above, with the six bytes of a constant.
            unsafe { raw.decode_frame2(DELIMITER.as_ptr(), 6, (&raw mut planes).cast(), &raw mut info) };
        }
        if info.iBufferStatus != 1 {
            return DecodedFrame { picture: None, is_damaged };
        }
        // SAFETY: the union has this one field, and it was zeroed before the library wrote to it.
        let buffer = unsafe { info.UsrData.sSystemBuffer };
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let (height, width) = (size(buffer.iHeight), size(buffer.iWidth));
        let strides = [buffer.iStride[0], buffer.iStride[1], buffer.iStride[1]].map(size);
        let plane = |i: usize| -> Option<&[u8]> {
            let half = |n: usize| if i == 0 { n } else { n.div_ceil(2) };
            let (rows, columns) = (half(height), half(width));
            if planes[i].is_null() || rows == 0 || columns == 0 || columns > strides[i] {
                return None;
            }
            let len = (rows - 1).checked_mul(strides[i])?.checked_add(columns)?;
            // SAFETY: the library says that a picture is ready: each plane has its rows, `stride` bytes apart, and stays
            // until the next call, which needs the borrow of `self` to end.
            Some(unsafe { std::slice::from_raw_parts(planes[i], len) })
        };
        let picture = match (plane(0), plane(1), plane(2)) {
            (Some(y), Some(u), Some(v)) => Some(PlanesI420 { height, width, planes: [y, u, v], strides }),
            _ => None,
        };
        DecodedFrame { picture, is_damaged }
    }
}
