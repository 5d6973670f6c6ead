//! The definition: the bodies as the compiler builds them for any machine.

use super::attention::SCALAR as ATTEND;
use super::body::{Isa, dot_tile_lanes, table};
use super::scalar_matmul::INT8;

pub struct Scalar;

impl Isa for Scalar {
    const FMA: bool = false;

    #[inline(always)]
    fn dot_tile<const MR: usize, const NR: usize>(x: [&[f32]; MR], w: [&[f32]; NR], k: usize) -> [[f32; NR]; MR] {
        dot_tile_lanes::<Scalar, 4, MR, NR>(x, w, k)
    }
}

table!("scalar", Scalar);
