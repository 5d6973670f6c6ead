//! The position layouts and their names.

use crate::{Error, Result};

/// How a model places tokens and spends its rotary frequencies. A checkpoint is trained for exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One running index for every token, text and vision alike (vanilla RoPE).
    Rope,
    /// Running index plus time index (TAD-RoPE).
    Tad,
    /// Separate time, height and width ids in contiguous bands (Qwen2-VL's M-RoPE).
    Mrope,
    /// Diagonal placement, space on the high frequencies, time on the low ones (VideoRoPE).
    VideoRope,
    /// As VideoRoPE, but the low frequencies do not rotate at all and time is scaled (HoPE).
    Hope,
    /// HoPE with half of the pairs at zero frequency (the paper's ablation).
    HopeX,
    /// M-RoPE with its three kinds of pairs interleaved (Qwen3-VL's MRoPE-Interleave); a frame pair is a segment of its own.
    MropeI,
    /// The same, but the pairs that time drives do not rotate.
    HopeI,
}

use Layout::*;

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 6] = [Rope, Tad, Mrope, VideoRope, Hope, HopeX];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Rope => "rope",
            Tad => "tad",
            Mrope => "mrope",
            VideoRope => "videorope",
            Hope => "hope",
            HopeX => "hopex",
            MropeI => "mrope-i",
            HopeI => "hope-i",
        }
    }

    /// The layout called `name`; the spellings of the papers' code (`m_rope`, `vanilla_rope`, `tad_rope`, `hope_x`) too.
    ///
    /// # Errors
    /// `BadInput` listing the names.
    pub fn from_name(name: &str) -> Result<Layout> {
        let plain = name.to_ascii_lowercase().replace(['-', '_'], "");
        Ok(match plain.as_str() {
            "rope" | "vanilla" | "vanillarope" => Rope,
            "tad" | "tadrope" => Tad,
            "mrope" => Mrope,
            "videorope" => VideoRope,
            "hope" => Hope,
            "hopex" => HopeX,
            "mropei" => MropeI,
            "hopei" => HopeI,
            _ => {
                let known = Layout::ALL.map(Layout::name).join(", ");
                return Err(Error::bad_input(format!(
                    "position layout `{name}` is not known, expected one of {known}"
                )));
            }
        })
    }

    /// Whether a temporal scale (HoPE's gamma, VideoRoPE's delta) moves its positions.
    pub fn uses_temporal_scale(self) -> bool {
        matches!(self, VideoRope | Hope | HopeX)
    }

    /// The temporal scale when nobody chose one: 2 for VideoRoPE (trained so), 1 otherwise.
    pub fn default_temporal_scale(self) -> f64 {
        if self == VideoRope { 2.0 } else { 1.0 }
    }

    /// How far two successive text tokens are apart.
    pub fn decode_step(self) -> f64 {
        if self == Tad { 2.0 } else { 1.0 }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_the_papers_spellings_too() {
        for layout in Layout::ALL {
            assert_eq!(Layout::from_name(layout.name()).unwrap(), layout);
        }
        assert_eq!(Layout::from_name("m_rope").unwrap(), Mrope);
        assert_eq!(Layout::from_name("vanilla_rope").unwrap(), Rope);
        assert_eq!(Layout::from_name("HoPE-X").unwrap(), HopeX);
        assert!(Layout::from_name("alibi").unwrap_err().to_string().contains("hope"));
    }
}
