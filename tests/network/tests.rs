//! The tests of `tests/it` in which a whole network runs on a table of kernels, for machines that are emulated.

#[path = "../it/common.rs"]
mod common;
#[path = "../it/model.rs"]
mod model;
#[path = "../it/outliers.rs"]
mod outliers;
#[path = "../it/position.rs"]
mod position;
