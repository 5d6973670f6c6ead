//! Everything above the unit tests: one binary, a module per room.

mod api;
mod common;

mod caps;
mod cli;

mod convert;
mod deviations;
#[cfg(feature = "cuda-emulation")]
mod cuda;
#[cfg(all(feature = "cuda", not(feature = "cuda-emulation")))]
compile_error!("the tests of the feature `cuda` need `cuda-emulation`, on a real GPU as well");
mod endless;
mod endless_program;
#[cfg(feature = "ggml")]
mod ggml;
#[cfg(not(feature = "ggml"))]
mod ggml_absent;
mod eval;
mod families_run;
mod forms;
mod gguf;
mod golden_families;
mod large_picture;
mod looks;
mod manners;
mod media;
mod model;
mod model_files;
mod model_keys;
mod old_take;
mod outliers;
mod plan;
mod plan_pictures;
mod position;
mod position_families;
#[cfg(feature = "cuda-emulation")]
#[path = "../../numerics/tests/tables/layer_of_experts.rs"]
mod layer_of_experts;
#[cfg(feature = "cuda-emulation")]
#[path = "../../numerics/tests/tables/random.rs"]
mod random;
mod recurrent;
mod shape;
mod skips;
mod spec_switches;
mod reliability;
mod repeats;
mod stamped_streams;
mod stamps;
mod stream;
mod take;
mod tensor;
mod text;
mod thinned_streams;
mod together;
mod unchanged;
mod ways_out;
