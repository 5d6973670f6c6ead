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

/// On a CPU whose choice is known, as `LONGTAKE_CHOICE`, the fastest table is that one.
#[test]
fn the_fastest_table_is_chosen() {
    let chosen = longtake::kernels::supported().last().expect("the scalar table runs everywhere").name;
    match std::env::var("LONGTAKE_CHOICE") {
        Ok(expected) => assert_eq!(chosen, expected),
        Err(_) => println!("{chosen}; LONGTAKE_CHOICE says nothing about it"),
    }
}
