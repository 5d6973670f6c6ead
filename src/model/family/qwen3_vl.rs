//! Qwen3-VL, dense (arXiv 2511.21631): norms of queries and keys, heads of a size of their own, interleaved axes; a tower with
//! learned positions and taps (DeepStack).

use super::{Family, TextSpec, VitMlp, VitNorm, VitSpec};
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
};
