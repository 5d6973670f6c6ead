//! Qwen3.5, dense, and what has its architecture (Qwen3.6, Qwen3.8): three recurrent layers (Gated DeltaNet, arXiv 2412.06464) to
//! one of gated attention, of which a quarter rotates. The tower is Qwen3-VL's, published without taps.

use super::{Family, FfnSpec, QWEN3_VL, TextSpec};
use crate::position::Layout;

/// Qwen3.5 without experts.
pub static QWEN3_5: Family = Family {
    name: "Qwen3.5",
    architecture: "qwen35",
    layouts: &[(Layout::MropeI, ""), (Layout::HopeI, "hope")],
    text: TextSpec {
        qkv_bias: false,
        qk_norm: true,
        output_gate: true,
        explicit_head: true,
        partial_rotary: true,
        explicit_sections: true,
        ffn_norm: "post_attention_norm",
        ffn: FfnSpec::Dense,
        n_deepstack: 0,
        full_attention_interval: Some(4),
    },
    projector: "qwen3vl_merger",
    vit: QWEN3_VL.vit,
    video: QWEN3_VL.video,
};
