//! Instructions that have no stable name in Rust. Each needs the CPU feature that its comment names; the assembler refuses
//! one that ends up in a function which is not compiled for it.

use std::arch::aarch64::*;
use std::arch::asm;

/// Half precision to f32 (any aarch64).
#[inline(always)]
pub(crate) fn fcvtl(x: uint16x4_t) -> float32x4_t {
    let to;
    // SAFETY: registers only.
    unsafe {
        asm!("fcvtl {to:v}.4s, {x:v}.4h", to = lateout(vreg) to, x = in(vreg) x, options(pure, nomem, nostack, preserves_flags));
    }
    to
}

/// f32 to half precision, to nearest, ties to even (any aarch64).
#[inline(always)]
pub(crate) fn fcvtn(x: float32x4_t) -> uint16x4_t {
    let to;
    // SAFETY: registers only.
    unsafe {
        asm!("fcvtn {to:v}.4h, {x:v}.4s", to = lateout(vreg) to, x = in(vreg) x, options(pure, nomem, nostack, preserves_flags));
    }
    to
}

/// Each lane of `acc` plus the sum of the four products of its signed bytes (dotprod).
///
/// # Safety
/// The CPU has dotprod.
#[inline(always)]
pub(crate) unsafe fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the caller's promise.
    unsafe {
        asm!("sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// acc(2, 2) + a(2, 8) · b(2, 8)ᵀ of signed bytes (i8mm).
///
/// # Safety
/// The CPU has i8mm.
#[inline(always)]
pub(crate) unsafe fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the caller's promise.
    unsafe {
        asm!("smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}
