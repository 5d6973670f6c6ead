//! The position layouts: their names, and what each of them is.

use super::Driver;
use super::rule::{BlockRule, Cursor, Pairs, Rule, Space, Time};
use crate::{Error, Result};

/// How a model places tokens and spends its rotary frequencies. A checkpoint is trained for exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One running index for every token, text and vision alike (vanilla RoPE).
    Rope,
    /// Running index plus time index (TAD-RoPE).
    Tad,
    /// Separate time, height and width ids in contiguous bands (M-RoPE of Qwen2-VL, and of Qwen2.5-VL, where time goes by the
    /// clock).
    Mrope,
    /// Diagonal placement, space on the high frequencies, time on the low ones (VideoRoPE).
    VideoRope,
    /// As VideoRoPE, but the low frequencies do not rotate at all and time is scaled (HoPE).
    Hope,
    /// HoPE with half of the pairs at zero frequency (the paper's ablation).
    HopeX,
    /// Interleaved bands, a block for each frame pair (Qwen3-VL and Qwen3.5; MRoPE-Interleaved, arXiv 2510.23095).
    MropeI,
    /// As MRoPE-Interleaved, but what time drives does not rotate at all: HoPE for interleaved models.
    HopeI,
    /// MRoPE-Interleaved whose rows and columns begin anew in every block (the same paper's spatial reset).
    MropeIReset,
    /// Sums and differences of rows and columns drive the pairs in turn (VRoPE, arXiv 2502.11664).
    VRope,
    /// One running index in which a block of visual tokens takes 16 steps (V2PE, arXiv 2412.09616).
    V2pe,
    /// Visual tokens on a circle that is as far from every word (Circle-RoPE, arXiv 2505.16416; its video is a stack of circles).
    CircleRope,
    /// Time, height and width in small groups over all frequencies, in steps of 4, 8 and 8 (MM-RoPE, arXiv 2507.08801).
    MmRope,
    /// HoPE as Multimodal-RoPEs (arXiv 2510.23095) has it: rows before columns, and the first pair stands still as well.
    HopeM,
    /// VideoRoPE as they have it: likewise, and the first pair goes with time.
    VideoRopeM,
}

use Layout::*;

/// One block a video, corner to corner: what most rules differ from in little.
const BLOCK: Rule = Rule {
    name: "mrope",
    spellings: &[],
    pairs: Pairs::Bands,
    block: BlockRule::Video,
    time: Time::Index,
    space: Space::Corner { h: 1.0, w: 1.0 },
    cursor: Cursor::AboveAll,
    numbered: false,
};

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 15] = [
        Rope,
        Tad,
        Mrope,
        VideoRope,
        Hope,
        HopeX,
        MropeI,
        HopeI,
        MropeIReset,
        VRope,
        V2pe,
        CircleRope,
        MmRope,
        HopeM,
        VideoRopeM,
    ];
    /// Those of HoPE's paper, which its training code knows.
    pub const OF_HOPE: [Layout; 6] = [Rope, Tad, Mrope, VideoRope, Hope, HopeX];

    /// What it is made of.
    pub const fn rule(self) -> &'static Rule {
        match self {
            Rope => {
                &const {
                    Rule {
                        name: "rope",
                        spellings: &["vanilla", "vanillarope"],
                        pairs: Pairs::All(Driver::T),
                        time: Time::Tokens,
                        space: Space::Raster,
                        cursor: Cursor::NextPair,
                        ..BLOCK
                    }
                }
            }
            Tad => {
                &const {
                    Rule {
                        name: "tad",
                        spellings: &["tadrope"],
                        pairs: Pairs::All(Driver::T),
                        space: Space::Point,
                        cursor: Cursor::NextPair,
                        numbered: true,
                        ..BLOCK
                    }
                }
            }
            Mrope => &BLOCK,
            VideoRope => {
                &const { Rule { name: "videorope", pairs: Pairs::SpaceFirst(Driver::T), time: Time::Scaled(2.0), ..HOPE } }
            }
            Hope => &HOPE,
            HopeX => &const { Rule { name: "hopex", ..HOPE } },
            MropeI => &const { Rule { name: "mrope-i", ..INTERLEAVED } },
            HopeI => &const { Rule { name: "hope-i", pairs: Pairs::Interleaved(Driver::ZERO), ..INTERLEAVED } },
            MropeIReset => &const { Rule { name: "mrope-i-reset", space: Space::Reset, ..INTERLEAVED } },
            VRope => {
                &const {
                    Rule {
                        name: "vrope",
                        pairs: Pairs::Repeated(&CORNERS),
                        time: Time::Sides,
                        space: Space::Corners,
                        cursor: Cursor::NextPair,
                        ..BLOCK
                    }
                }
            }
            V2pe => {
                &const {
                    Rule {
                        name: "v2pe",
                        pairs: Pairs::All(Driver::T),
                        time: Time::Step(16.0),
                        space: Space::Stretched(16.0),
                        cursor: Cursor::NextPair,
                        ..BLOCK
                    }
                }
            }
            CircleRope => {
                &const { Rule { name: "circle", space: Space::Circle { radius: 10.0, alpha: 0.5 }, ..BLOCK } }
            }
            HopeM => &const { Rule { name: "hope-m", pairs: Pairs::SpaceSecond(Driver::ZERO), ..HOPE } },
            VideoRopeM => {
                &const { Rule { name: "videorope-m", pairs: Pairs::SpaceSecond(Driver::T), time: Time::Scaled(2.0), ..HOPE } }
            }
            MmRope => {
                &const {
                    Rule {
                        name: "mm-rope",
                        pairs: Pairs::Repeated(&META),
                        time: Time::Step(4.0),
                        space: Space::Corner { h: 8.0, w: 8.0 },
                        ..BLOCK
                    }
                }
            }
        }
    }

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.rule().name
    }

    /// The layout called `name`; the spellings of the papers' code (`m_rope`, `vanilla_rope`, `tad_rope`, `hope_x`) too.
    ///
    /// # Errors
    /// `BadInput` listing the names.
    pub fn from_name(name: &str) -> Result<Layout> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
        let wanted = plain(name);
        let is_it = |layout: &Layout| {
            let rule = layout.rule();
            plain(rule.name) == wanted || rule.spellings.contains(&&*wanted)
        };
        Layout::ALL.into_iter().find(is_it).ok_or_else(|| {
            let known = Layout::ALL.map(Layout::name).join(", ");
            Error::bad_input(format!("position layout `{name}` is not known, expected one of {known}"))
        })
    }

    /// Whether a temporal scale (HoPE's gamma, VideoRoPE's delta) moves its positions.
    pub fn uses_temporal_scale(self) -> bool {
        matches!(self.rule().time, Time::Scaled(_))
    }

    /// The temporal scale when nobody chose one: 2 for VideoRoPE (trained so), 1 otherwise.
    pub fn default_temporal_scale(self) -> f64 {
        if let Time::Scaled(scale) = self.rule().time { scale } else { 1.0 }
    }

    /// How far two successive text tokens are apart.
    pub fn decode_step(self) -> f64 {
        if self.rule().numbered { 2.0 } else { 1.0 }
    }
}

const HOPE: Rule = Rule {
    name: "hope",
    pairs: Pairs::SpaceFirst(Driver::ZERO),
    time: Time::Scaled(1.0),
    space: Space::Diagonal,
    cursor: Cursor::AboveTime,
    ..BLOCK
};

const INTERLEAVED: Rule = Rule { pairs: Pairs::Interleaved(Driver::T), block: BlockRule::Pair, ..BLOCK };

/// With t the middle of a pair: y + x, y - x, x - y and -y - x from there, which for words are all their one id.
const CORNERS: [Driver; 4] =
    [Driver::sum([-1, 1, 1]), Driver::sum([1, 1, -1]), Driver::sum([1, -1, 1]), Driver::sum([3, -1, -1])];

/// MM-RoPE's group of eight pairs.
const META: [Driver; 8] = [Driver::T, Driver::T, Driver::H, Driver::W, Driver::H, Driver::W, Driver::H, Driver::W];

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
