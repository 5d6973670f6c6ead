//! NAL units: from the form they have in a file to the one the decoder takes.

use super::sps::{Bits, Sps};
use super::{NAL_IDR, NAL_PPS, NAL_SLICE, NAL_SPS};
use crate::media::limits::MAX_PARAMETER_SETS;
use crate::{Error, Result};

/// The decoder configuration of an `avcC` box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AvcConfig {
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
    /// `Format` when lengths do not fit, `Limit` for more than [`MAX_PARAMETER_SETS`] bytes.
    pub(crate) fn parse(data: &[u8]) -> Result<AvcConfig> {
        if data.len() > MAX_PARAMETER_SETS {
            return Err(Error::limit(format!(
                "`{}` bytes of parameter sets, at most {MAX_PARAMETER_SETS}",
                data.len()
            )));
        }
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
pub(crate) struct Picture {
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
    pub(crate) fn read(&mut self, mut sample: &[u8], length_size: usize) {
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
