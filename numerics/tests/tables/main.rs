//! Every table of kernels that this machine can run, against definitions and plain arithmetic. Needs nothing of the package
//! `longtake`, so that it is soon built for a machine that is emulated (`.ci/aarch64`).

mod kernels;
mod kernels_attention;
mod kernels_delta;
mod kernels_experts;
mod kernels_matmul;
mod layer_of_experts;
mod random;

/// The seeds below `n`; of those a quarter where `LONGTAKE_FEW_SEEDS` is set, as on a machine that is emulated.
pub fn seeds(n: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("LONGTAKE_FEW_SEEDS").is_some() { n / 4 } else { n }
}

/// What computes where nobody wishes for another: the fastest table that can run, or, on a CPU of which `LONGTAKE_CHOICE`
/// says that it is known, the one named there.
#[test]
fn the_fastest_table_is_chosen() {
    let fastest = longtake_numerics::kernels::supported().last().expect("the scalar table runs everywhere").name;
    let expected = std::env::var("LONGTAKE_CHOICE").ok();
    assert_eq!(longtake_numerics::kernels::select().unwrap().name, expected.as_deref().unwrap_or(fastest));
}
