//! Qwen2-VL (arXiv 2409.12191): biases of q, k, v; positions in three contiguous bands of pairs; a plain tower.

use super::{Family, FfnSpec, FrameBudget, Pixels, Sampling, TextSpec, VideoForm, VideoTime, VitMlp, VitNorm, VitSpec};
use crate::position::Layout;

/// Qwen2-VL, and what was trained from it with other positions.
pub static QWEN2_VL: Family = Family {
    name: "Qwen2-VL",
    architecture: "qwen2vl",
    layouts: &[
        (Layout::Mrope, ""),
        (Layout::Rope, "rope"),
        (Layout::Tad, "tad"),
        (Layout::VideoRope, "videorope"),
        (Layout::Hope, "hope"),
        (Layout::HopeX, "hopex"),
    ],
    text: TextSpec {
        qkv_bias: true,
        qk_norm: false,
        output_gate: false,
        explicit_head: false,
        partial_rotary: false,
        explicit_sections: false,
        ffn_norm: "ffn_norm",
        ffn: FfnSpec::Dense,
        n_deepstack: 0,
        full_attention_interval: None,
    },
    projector: "qwen2vl_merger",
    vit: VitSpec {
        norm: VitNorm::Layer,
        mlp: VitMlp::QuickGelu,
        patch_bias: false,
        learned_positions: false,
        windows: None,
        taps: false,
    },
    video: VideoForm {
        time: VideoTime::Index,
        sampling: Sampling::EvenSpread,
        budget: FrameBudget::Frame { min_tokens: 128, max_tokens: 768 },
        pixels: Pixels::Utils,
        picture_tokens: (4, 16_384),
        fps: 2.0,
        min_frames: 4,
        max_frames: 768,
    },
};
