//! Asking for memory before it is needed. A prefetch neither reads nor writes, so any address will do.

/// Asks for the `n` bytes at `p`, to be read soon, as part of a longer stretch: the end of the last line is left to whoever asks
/// for what follows.
#[inline(always)]
pub(super) fn read(p: *const u8, n: usize) {
    // Steps of a line meet every line, wherever in one `p` lies.
    lines::<true>(p, n.div_ceil(LINE));
}

/// Asks for the `n` bytes at `p`, to be read when much else has been: into the second-level cache.
#[inline(always)]
pub(super) fn later(p: *const u8, n: usize) {
    // From the start of a line, or the last line would be left out where `p` lies inside one.
    let inside = p.addr() % LINE;
    lines::<false>(p.wrapping_sub(inside), (n + inside).div_ceil(LINE));
}

#[inline(always)]
fn lines<const SOON: bool>(mut p: *const u8, mut n: usize) {
    while n >= 4 {
        four::<SOON>(p);
        (p, n) = (p.wrapping_add(4 * LINE), n - 4);
    }
    for i in 0..n {
        line::<SOON>(p.wrapping_add(i * LINE));
    }
}

/// Bytes per cache line.
const LINE: usize = 64;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line<const SOON: bool>(p: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
    // SAFETY: every x86-64 CPU has the instruction, which accesses nothing.
    unsafe { if SOON { _mm_prefetch::<_MM_HINT_T0>(p.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(p.cast()) } };
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn line<const SOON: bool>(p: *const u8) {
    use std::arch::asm;
    // SAFETY: every ARMv8 CPU has the instruction, which accesses nothing.
    unsafe {
        if SOON {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        } else {
            asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        }
    };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn line<const SOON: bool>(_: *const u8) {}

#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
fn four<const SOON: bool>(p: *const u8) {
    for i in 0..4 {
        line::<SOON>(p.wrapping_add(i * LINE));
    }
}

/// Four lines from one address, which the compiler would compute for each.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn four<const SOON: bool>(p: *const u8) {
    use std::arch::asm;
    macro_rules! ask {
        ($how:literal) => {
            asm!(concat!("prfm ", $how, ", [{p}]"), concat!("prfm ", $how, ", [{p}, #64]"),
                concat!("prfm ", $how, ", [{p}, #128]"), concat!("prfm ", $how, ", [{p}, #192]"),
                p = in(reg) p, options(nostack, preserves_flags, readonly))
        };
    }
    // SAFETY: every ARMv8 CPU has the instruction, which accesses nothing.
    unsafe { if SOON { ask!("pldl1keep") } else { ask!("pldl2keep") } };
}
