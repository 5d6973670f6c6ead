//! Qwen3.5 with experts (35B-A3B and larger), and what has its architecture: the dense model with a router, experts and a shared
//! expert in place of each MLP.

use super::{Family, FfnSpec, QWEN3_5, TextSpec};

/// Qwen3.5 with experts.
pub static QWEN3_5_MOE: Family = Family {
    name: "Qwen3.5-MoE",
    architecture: "qwen35moe",
    text: TextSpec { ffn: FfnSpec::Experts { shared: true }, ..QWEN3_5.text },
    ..QWEN3_5
};
