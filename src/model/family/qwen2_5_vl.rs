//! Qwen2.5-VL (arXiv 2502.13923): Qwen2-VL's language model, which llama.cpp gives the same architecture; a tower with RMSNorm,
//! SwiGLU and windows. What else differs, time by seconds, comes with the projector as well.

use super::{Family, Pixels, QWEN2_VL, Sampling, VideoForm, VideoTime, VitMlp, VitNorm, VitSpec, WindowSpec};

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
    video: VideoForm {
        // Every published model says 2 in its config.json, where the class that reads it would have 4.
        time: VideoTime::Clock { ids_per_second: 2.0 },
        sampling: Sampling::EvenStep,
        pixels: Pixels::Processor,
        ..QWEN2_VL.video
    },
};
