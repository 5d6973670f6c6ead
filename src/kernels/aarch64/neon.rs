//! The NEON table, and what dotprod and i8mm replace in it.

use super::attention::plain::OPS as ATTEND;
use super::attention::{Neon, dot};
use super::matmul::plain::INT8;
use super::matmul::{dotprod, i8mm};
use crate::kernels::Kernels;
use crate::kernels::body::table;
use crate::kernels::delta::delta_ops;

delta_ops!(Neon<false>, "neon");
table!("neon", Neon<false>, "neon");

/// Dot products of bytes in attention and in products with quantized weights.
pub static DOT: Kernels = Kernels { name: "neondot", int8: dotprod::INT8, attend: dot::OPS, ..TABLE };

/// The same, and matrix products of bytes in panels.
pub static I8MM: Kernels = Kernels { name: "neoni8mm", int8: i8mm::INT8, ..DOT };
