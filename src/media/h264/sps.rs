//! Sequence parameter sets: how large the pictures are, which colours they have, whether they can be decoded here.

use super::annexb::unescape;
use crate::media::image_file::check_size;
use crate::media::yuv::Color;
use crate::{Error, Result};

/// Most macroblocks of a picture that OpenH264 takes (level 5.2).
pub(super) const MAX_MACROBLOCKS: u64 = 36_864;

/// What a sequence parameter set says about the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sps {
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
    pub(crate) fn parse(nal: &[u8]) -> Result<Sps> {
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

/// Profiles whose parameter set says the chroma format and the bit depths.
fn has_high_fields(profile: u32) -> bool {
    matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135)
}

/// The fields every parameter set begins with.
pub(super) struct Head {
    pub profile: u32,
}

/// Reads bits; past the end is an error.
pub(super) struct Bits<'a> {
    pub data: &'a [u8],
    pub at: usize,
}

impl Bits<'_> {
    pub(super) fn new(data: &[u8]) -> Bits<'_> {
        Bits { data, at: 0 }
    }

    pub(super) fn bit_at(&self, i: usize) -> Option<bool> {
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
    pub(super) fn head(&mut self) -> Result<Head> {
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
    fn exp_golomb_codes() {
        let bytes = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = Bits::new(&bytes);
        assert_eq!([bits.ue(), bits.ue(), bits.ue(), bits.ue(), bits.ue()].map(|r| r.unwrap()), [0, 1, 2, 3, 4]);
        assert!(Bits::new(&[0; 8]).ue().is_err());
        assert!(Bits::new(&[]).ue().is_err());
    }
}
