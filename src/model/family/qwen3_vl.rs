//! Qwen3-VL, dense (arXiv 2511.21631): norms of queries and keys, heads of a size of their own, interleaved axes; a tower with
//! learned positions and taps (DeepStack).

use super::{Family, FfnSpec, FrameBudget, Pixels, Sampling, TextSpec, VideoForm, VideoTime, VitMlp, VitNorm, VitSpec};
use crate::position::Layout;

/// Qwen3-VL without experts.
pub static QWEN3_VL: Family = Family {
    name: "Qwen3-VL",
    architecture: "qwen3vl",
    layouts: &[(Layout::MropeI, ""), (Layout::HopeI, "hope")],
    text: TextSpec {
        qkv_bias: false,
        qk_norm: true,
        output_gate: false,
        explicit_head: true,
        partial_rotary: false,
        explicit_sections: true,
        ffn_norm: "ffn_norm",
        ffn: FfnSpec::Dense,
        n_deepstack: 3,
        full_attention_interval: None,
    },
    projector: "qwen3vl_merger",
    vit: VitSpec {
        norm: VitNorm::Layer,
        mlp: VitMlp::GeluTanh,
        patch_bias: true,
        learned_positions: true,
        windows: None,
        taps: true,
    },
    // A token covers two frames of 32 x 32 pixels: at most 12,288 of them in a video of any length.
    video: VideoForm {
        time: VideoTime::Stamps,
        sampling: Sampling::Spread,
        budget: FrameBudget::Volume { shortest: 4096, longest: 25_165_824 },
        pixels: Pixels::Processor,
        picture_tokens: (64, 16_384),
        fps: 2.0,
        min_frames: 4,
        max_frames: 768,
    },
};
