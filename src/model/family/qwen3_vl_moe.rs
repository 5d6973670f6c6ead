//! Qwen3-VL with experts (30B-A3B, 235B-A22B): the dense model with a router and experts in place of each MLP.

use super::{Family, FfnSpec, QWEN3_VL, TextSpec};

/// Qwen3-VL with experts.
pub static QWEN3_VL_MOE: Family = Family {
    name: "Qwen3-VL-MoE",
    architecture: "qwen3vlmoe",
    text: TextSpec { ffn: FfnSpec::Experts { shared: false }, ..QWEN3_VL.text },
    ..QWEN3_VL
};
