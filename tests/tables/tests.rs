//! The tests of `tests/it` that depend on the instruction set: kernels against their definitions, and the network.

#[path = "../it/common.rs"]
mod common;
#[path = "../it/kernels.rs"]
mod kernels;
#[path = "../it/kernels_attention.rs"]
mod kernels_attention;
#[path = "../it/kernels_delta.rs"]
mod kernels_delta;
#[path = "../it/kernels_experts.rs"]
mod kernels_experts;
#[path = "../it/kernels_matmul.rs"]
mod kernels_matmul;
#[path = "../it/model.rs"]
mod model;
#[path = "../it/outliers.rs"]
mod outliers;
#[path = "../it/position.rs"]
mod position;
#[path = "../it/random.rs"]
mod random;

/// What computes where nobody wishes for another: the fastest table that can run, or, on a CPU of which `LONGTAKE_CHOICE`
/// says that it is known, the one named there.
#[test]
fn the_fastest_table_is_chosen() {
    common::choose_kernels();
    let fastest = longtake::kernels::supported().last().expect("the scalar table runs everywhere").name;
    let expected = ["LONGTAKE_KERNELS", "LONGTAKE_CHOICE"].into_iter().find_map(|name| std::env::var(name).ok());
    assert_eq!(longtake::kernels::select().unwrap().name, expected.as_deref().unwrap_or(fastest));
}
