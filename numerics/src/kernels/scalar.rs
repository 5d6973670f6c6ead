//! The definition: the bodies as the compiler builds them for any machine.

use super::attention::{self, AttentionOps};
use super::body::{Isa, table};
use super::delta::{self, DeltaOps};
use super::isa::Unproven;
use super::matmul::Layout;
use super::scalar_matmul::{INT8, PLAIN};
use super::{Int8Ops, Kernels};

pub(super) struct Scalar;

impl Isa for Scalar {
    const FMA: bool = false;
}

const ATTEND: Unproven<AttentionOps> = Unproven::new(attention::SCALAR);
const DELTA: Unproven<DeltaOps> = Unproven::new(delta::SCALAR);

table!("scalar", Scalar);

/// It needs nothing, so nothing must be proven.
pub(super) static TABLE: Kernels = UNPROVEN.for_any_cpu();

/// The same where codes that allow it are multiplied as they are.
pub(super) static CODES: Kernels = Kernels {
    name: "scalar with codes",
    int8: Int8Ops { layout: Layout { codes: true, ..PLAIN.layout }, ..PLAIN },
    ..TABLE
};
