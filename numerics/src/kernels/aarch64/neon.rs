//! The NEON table, and what dotprod and i8mm replace in it.

use super::attention::plain::OPS as ATTEND;
use super::attention::{Neon, dot};
use super::matmul::plain::INT8;
use super::matmul::{dotprod, i8mm};
use crate::kernels::Kernels;
use crate::kernels::body::table;
use crate::kernels::delta::delta_ops;
use crate::kernels::isa::Unproven;

delta_ops!(Neon<false>, "neon");
table!("neon", Neon<false>, "neon");

/// Dot products of bytes in attention and in products with quantized weights.
pub(crate) const DOT: Unproven<Kernels> = UNPROVEN.named("neondot").with_int8(dotprod::INT8).with_attention(dot::OPS);

/// The same, and matrix products of bytes in panels.
pub(crate) const I8MM: Unproven<Kernels> = DOT.named("neoni8mm").with_int8(i8mm::INT8);
