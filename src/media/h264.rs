//! H.264: what the headers say, and coded pictures to planes through OpenH264.
//!
//! Display order is the container's business: it knows the time of every picture. OpenH264 would reorder by its own
//! guesses, which go wrong for some encoders, and would lose finished pictures when a damaged one follows. It keeps decode
//! order for the Scalable Baseline profile, whose parameter set has the same syntax as High, so that is what it is told
//! ([`decode_order_sps`]); the profile changes nothing else in how it decodes.

use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use super::image_file::{check_size, guarded};
use super::yuv::{Color, Plane, Planes};
use crate::{Error, Result};

/// Types of NAL units (H.264 table 7-1).
const NAL_SLICE: u8 = 1;
const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

/// Most macroblocks of a picture that OpenH264 takes (level 5.2).
const MAX_MACROBLOCKS: u64 = 36_864;

/// What a sequence parameter set says about the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sps {
    /// After cropping.
    pub height: usize,
    pub width: usize,
    pub color: Color,
    /// Whether the set labels its matrix or its range; otherwise the container may know.
    pub labelled: bool,
}

impl Sps {
    /// Reads a sequence parameter set (a whole NAL unit).
    ///
    /// # Errors
    /// `Unsupported` for what the decoder cannot do (more than 8 bits, other than 4:2:0, interlaced, beyond level 5.2),
    /// `Format` for a damaged set.
    pub fn parse(nal: &[u8]) -> Result<Sps> {
        let rbsp = unescape(nal.get(1..).unwrap_or_default());
        let mut bits = Bits::new(&rbsp);
        let head = bits.head()?;
        let mut chroma_format = 1;
        let mut depths = [8, 8];
        if has_high_fields(head.profile) {
            chroma_format = bits.ue()?;
            if chroma_format == 3 {
                bits.flag()?; // separate_colour_plane_flag
            }
            depths = [bits.ue()?.saturating_add(8), bits.ue()?.saturating_add(8)];
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                let n_lists = if chroma_format == 3 { 12 } else { 8 };
                for i in 0..n_lists {
                    if bits.flag()? {
                        bits.skip_scaling_list(if i < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.ue()?; // log2_max_frame_num_minus4
        match bits.ue()? {
            0 => drop(bits.ue()?), // log2_max_pic_order_cnt_lsb_minus4
            1 => {
                bits.flag()?;
                bits.ue()?;
                bits.ue()?;
                for _ in 0..bits.ue()?.min(255) {
                    bits.ue()?;
                }
            }
            _ => {}
        }
        bits.ue()?; // max_num_ref_frames
        bits.flag()?; // gaps_in_frame_num_value_allowed_flag
        let (columns, rows) = (u64::from(bits.ue()?) + 1, u64::from(bits.ue()?) + 1);
        let frame_mbs_only = bits.flag()?;
        if !frame_mbs_only {
            bits.flag()?; // mb_adaptive_frame_field_flag
        }
        bits.flag()?; // direct_8x8_inference_flag
        let mut crop = [0u64; 4];
        if bits.flag()? {
            for side in &mut crop {
                *side = u64::from(bits.ue()?);
            }
        }
        let (color, labelled) = bits.color().unwrap_or_default();

        if depths != [8, 8] || chroma_format != 1 || !frame_mbs_only {
            let chroma = ["4:0:0", "4:2:0", "4:2:2", "4:4:4"].get(chroma_format as usize).unwrap_or(&"unknown chroma");
            let scan = if frame_mbs_only { "progressive" } else { "interlaced" };
            return Err(Error::unsupported(format!(
                "H.264 video of `{}` bits, `{chroma}`, `{scan}`; the built-in decoder does 8 bits, 4:2:0, progressive",
                depths[0].max(depths[1])
            )));
        }
        if !matches!(head.profile, 66 | 77 | 88 | 100) {
            return Err(Error::unsupported(format!("H.264 profile `{}` is not built in", head.profile)));
        }
        if columns.saturating_mul(rows) > MAX_MACROBLOCKS {
            return Err(Error::unsupported(format!(
                "H.264 video of `{}x{}` is larger than level 5.2, the most the built-in decoder does",
                columns * 16,
                rows * 16
            )));
        }
        // Crop units are two luma samples for progressive 4:2:0.
        let [left, right, top, bottom] = crop;
        let width = (columns * 16).saturating_sub((left.saturating_add(right)).saturating_mul(2));
        let height = (rows * 16).saturating_sub((top.saturating_add(bottom)).saturating_mul(2));
        check_size(height, width)?;
        Ok(Sps { height: height as usize, width: width as usize, color, labelled })
    }
}

/// The decoder configuration of an `avcC` box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AvcConfig {
    /// Bytes of the length before each NAL unit: 1 to 4.
    pub length_size: usize,
    /// Parameter sets in Annex B form, ready for the decoder.
    pub headers: Vec<u8>,
    /// The first sequence parameter set; absent where the sets travel with the pictures (`avc3`).
    pub sps: Option<Vec<u8>>,
}

impl AvcConfig {
    /// Reads the content of an `avcC` box.
    ///
    /// # Errors
    /// `Format` when lengths do not fit.
    pub fn parse(data: &[u8]) -> Result<AvcConfig> {
        let mut config = AvcConfig { length_size: 0, headers: Vec::new(), sps: None };
        AvcConfig::fill(data, &mut config).ok_or_else(|| Error::format("the avcC box is damaged or cut off"))?;
        Ok(config)
    }

    fn fill(data: &[u8], config: &mut AvcConfig) -> Option<()> {
        let (head, mut rest) = data.split_at_checked(5)?;
        if head[0] != 1 {
            return None;
        }
        config.length_size = usize::from(head[4] & 3) + 1;
        for mask in [0x1F, 0xFF] {
            let (&count, after) = rest.split_first()?;
            rest = after;
            for _ in 0..count & mask {
                let (len, after) = rest.split_first_chunk::<2>()?;
                let (nal, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
                rest = after;
                if config.sps.is_none() && nal.first().map(|b| b & 0x1F) == Some(NAL_SPS) {
                    config.sps = Some(nal.to_vec());
                }
                push_nal(nal, &mut config.headers);
            }
        }
        Some(())
    }
}

/// One coded picture in the form the decoder takes, and what its NAL units tell about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    /// Slices and parameter sets with start codes.
    pub annex_b: Vec<u8>,
    /// Starts anew: nothing before it is needed.
    pub is_idr: bool,
    /// Other pictures may refer to it.
    pub is_reference: bool,
    /// It carries parameter sets, which later pictures may need.
    pub has_headers: bool,
    /// NAL units whose length leads out of the sample, which were left out.
    pub n_cut: usize,
    /// Size and colours from a parameter set inside the sample, if there is one.
    pub sps: Option<Sps>,
}

impl Picture {
    /// Turns a sample of length-prefixed NAL units into start codes, into the buffers of `self`.
    pub fn read(&mut self, mut sample: &[u8], length_size: usize) {
        self.annex_b.clear();
        *self = Picture { annex_b: std::mem::take(&mut self.annex_b), ..Picture::default() };
        while let Some((len, rest)) = sample.split_at_checked(length_size.max(1)) {
            let len = len.iter().fold(0usize, |n, &b| n << 8 | usize::from(b));
            let Some((nal, rest)) = rest.split_at_checked(len) else {
                self.n_cut += 1;
                return;
            };
            sample = rest;
            let Some(&first) = nal.first() else { continue };
            match first & 0x1F {
                kind @ NAL_SLICE..=NAL_IDR => {
                    self.is_idr |= kind == NAL_IDR;
                    self.is_reference |= first & 0x60 != 0;
                }
                NAL_SPS => {
                    self.has_headers = true;
                    self.sps = Sps::parse(nal).ok().or(self.sps);
                }
                NAL_PPS => self.has_headers = true,
                // Delimiters, messages, filler and the layers of scalable or stereo video.
                _ => continue,
            }
            push_nal(nal, &mut self.annex_b);
        }
        self.n_cut += usize::from(!sample.is_empty());
    }
}

/// OpenH264, one picture in, at most one out, in decode order.
pub(super) struct H264 {
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

/// Appends a NAL unit with its start code; a sequence parameter set is changed to keep decode order.
fn push_nal(nal: &[u8], out: &mut Vec<u8>) {
    let changed;
    let is_sps = nal.first().is_some_and(|b| b & 0x1F == NAL_SPS);
    let nal = match is_sps.then(|| decode_order_sps(nal)).flatten() {
        Some(sps) => {
            changed = sps;
            &changed
        }
        None => nal,
    };
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(nal);
}

/// The same parameter set under the Scalable Baseline profile (83), for which OpenH264 hands out pictures in decode order.
/// High (100) has the same fields; Main (77) and Extended (88) lack those that say 4:2:0 and 8 bits, which are put in.
/// `None` where nothing needs to change or nothing can.
pub(super) fn decode_order_sps(nal: &[u8]) -> Option<Vec<u8>> {
    let (&first, body) = nal.split_first()?;
    let rbsp = unescape(body);
    let mut bits = Bits::new(&rbsp);
    let head = bits.head().ok()?;
    let mut out = rbsp.clone();
    match head.profile {
        100 => {}
        77 | 88 => {
            // chroma_format_idc 1, both bit depths 8, no bypass, no scaling matrices.
            const FIELDS: [bool; 7] = [false, true, false, true, true, false, false];
            let at = bits.at;
            let tail = (at..rbsp.len() * 8).map(|i| bits.bit_at(i).unwrap_or(false));
            let spliced = (0..at).map(|i| bits.bit_at(i).unwrap_or(false)).chain(FIELDS).chain(tail);
            out = pack(spliced);
        }
        _ => return None,
    }
    *out.first_mut()? = 83;
    let mut sps = vec![first];
    escape(&out, &mut sps);
    Some(sps)
}

/// Profiles whose parameter set says the chroma format and the bit depths.
fn has_high_fields(profile: u32) -> bool {
    matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135)
}

/// Takes out the bytes that keep start codes from appearing inside a NAL unit.
pub(super) fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    for (i, &byte) in nal.iter().enumerate() {
        if !(byte == 3 && i >= 2 && nal[i - 1] == 0 && nal[i - 2] == 0) {
            out.push(byte);
        }
    }
    out
}

/// Puts them in again. Zeros at the end mean nothing and are left out.
pub(super) fn escape(rbsp: &[u8], out: &mut Vec<u8>) {
    let end = rbsp.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
    let mut zeros = 0;
    for &byte in &rbsp[..end] {
        if zeros == 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
}

/// Bits to bytes, most significant first, the last byte filled up with zeros.
fn pack(bits: impl Iterator<Item = bool>) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, bit) in bits.enumerate() {
        if i % 8 == 0 {
            out.push(0);
        }
        if let Some(last) = out.last_mut() {
            *last |= u8::from(bit) << (7 - i % 8);
        }
    }
    out
}

/// The fields every parameter set begins with.
struct Head {
    profile: u32,
}

/// Reads bits; past the end is an error.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn new(data: &[u8]) -> Bits<'_> {
        Bits { data, at: 0 }
    }

    fn bit_at(&self, i: usize) -> Option<bool> {
        self.data.get(i / 8).map(|byte| byte >> (7 - i % 8) & 1 == 1)
    }

    fn flag(&mut self) -> Result<bool> {
        let bit = self.bit_at(self.at).ok_or_else(|| Error::format("an H.264 parameter set is cut off"))?;
        self.at += 1;
        Ok(bit)
    }

    fn bits(&mut self, n: usize) -> Result<u32> {
        (0..n).try_fold(0u32, |value, _| Ok(value << 1 | u32::from(self.flag()?)))
    }

    /// An unsigned Exp-Golomb code.
    fn ue(&mut self) -> Result<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return Err(Error::format("a number in an H.264 parameter set is too long"));
            }
        }
        Ok(((1u64 << zeros) - 1) as u32 + self.bits(zeros)?)
    }

    /// A signed one.
    fn se(&mut self) -> Result<i32> {
        let code = i64::from(self.ue()?);
        Ok((if code % 2 == 0 { -(code / 2) } else { code / 2 + 1 }) as i32)
    }

    /// profile_idc, constraint flags, level_idc, seq_parameter_set_id.
    fn head(&mut self) -> Result<Head> {
        let profile = self.bits(8)?;
        self.bits(16)?;
        self.ue()?;
        Ok(Head { profile })
    }

    fn skip_scaling_list(&mut self, n: usize) -> Result<()> {
        let (mut last, mut next) = (8i32, 8i32);
        for _ in 0..n {
            if next != 0 {
                next = last.wrapping_add(self.se()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Ok(())
    }

    /// Range and matrix from the usability information, and whether there are any.
    fn color(&mut self) -> Result<(Color, bool)> {
        let mut color = Color::default();
        if !self.flag()? {
            return Ok((color, false)); // no usability information
        }
        if self.flag()? && self.bits(8)? == 255 {
            self.bits(32)?; // an explicit sample aspect ratio
        }
        if self.flag()? {
            self.flag()?; // overscan_appropriate_flag
        }
        if !self.flag()? {
            return Ok((color, false)); // no video_signal_type
        }
        self.bits(3)?; // video_format
        color.full_range = self.flag()?;
        if self.flag()? {
            self.bits(16)?; // primaries and transfer curve
            color.matrix = self.bits(8)? as u8;
        }
        Ok((color, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_round_trips() {
        let rows: [&[u8]; 4] = [&[1, 0, 0, 0, 0, 1, 5], &[0, 0, 1], &[0, 0, 3, 7], &[9, 0, 0, 2, 0, 0, 0, 0, 0, 3]];
        for row in rows {
            let mut escaped = Vec::new();
            escape(row, &mut escaped);
            assert!(!escaped.windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3), "{row:?}: {escaped:?}");
            assert_eq!(unescape(&escaped), row);
        }
    }

    #[test]
    fn exp_golomb_codes() {
        let bytes = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = Bits::new(&bytes);
        assert_eq!([bits.ue(), bits.ue(), bits.ue(), bits.ue(), bits.ue()].map(|r| r.unwrap()), [0, 1, 2, 3, 4]);
        assert!(Bits::new(&[0; 8]).ue().is_err());
        assert!(Bits::new(&[]).ue().is_err());
    }

    #[test]
    fn lengths_that_lead_outside_are_counted() {
        let mut picture = Picture::default();
        picture.read(&[0, 0, 0, 2, 0x65, 1, 0, 0, 0, 9, 0x41], 4);
        assert_eq!((picture.annex_b.as_slice(), picture.n_cut), (&[0u8, 0, 0, 1, 0x65, 1][..], 1));
        assert!(picture.is_idr && picture.is_reference);
        picture.read(&[1, 0x01, 7], 1);
        assert_eq!((picture.annex_b.len(), picture.n_cut, picture.is_reference), (5, 1, false));
        picture.read(&[], 4);
        assert_eq!((picture.annex_b.len(), picture.n_cut), (0, 0));
        picture.read(&[0xFF; 9], 4);
        assert_eq!((picture.annex_b.len(), picture.n_cut), (0, 1));
    }
}
