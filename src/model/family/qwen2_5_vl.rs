//! Qwen2.5-VL (arXiv 2502.13923): Qwen2-VL's language model, which llama.cpp gives the same architecture; a tower with RMSNorm,
//! SwiGLU and windows. What else differs, time by seconds, comes with the projector as well.

use super::{Family, QWEN2_VL, VitMlp, VitNorm, VitSpec, WindowSpec};

/// Qwen2.5-VL.
pub static QWEN2_5_VL: Family = Family {
    name: "Qwen2.5-VL",
    architecture: "qwen2vl",
    layouts: QWEN2_VL.layouts,
    text: QWEN2_VL.text,
    projector: "qwen2.5vl_merger",
    vit: VitSpec {
        norm: VitNorm::Rms,
        mlp: VitMlp::SwiGlu,
        patch_bias: false,
        learned_positions: false,
        windows: Some(WindowSpec { size: 112, pattern: 8 }),
        taps: false,
    },
};
