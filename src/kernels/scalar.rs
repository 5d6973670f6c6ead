//! The definition: the bodies as the compiler builds them for any machine.

use super::attention::SCALAR as ATTEND;
use super::body::{Isa, table};
use super::delta::SCALAR as DELTA;
use super::scalar_matmul::INT8;
use super::{Int8Ops, Kernels, Layout};

pub struct Scalar;

impl Isa for Scalar {
    const FMA: bool = false;
}

table!("scalar", Scalar);

/// The same where codes that allow it are multiplied as they are.
pub static CODES: Kernels = Kernels {
    name: "scalar with codes",
    int8: Int8Ops { layout: Layout { codes: true, ..INT8.layout }, ..INT8 },
    ..TABLE
};
