//! The definition: the bodies as the compiler builds them for any machine.

use super::attention::SCALAR as ATTEND;
use super::body::{Isa, table};
use super::scalar_matmul::INT8;

pub struct Scalar;

impl Isa for Scalar {
    const FMA: bool = false;
}

table!("scalar", Scalar);
