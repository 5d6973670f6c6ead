//! Asking for memory before it is needed. A prefetch neither reads nor writes, so any address will do.

/// Asks for the `n` bytes at `p`, to be read soon, as part of a longer stretch: the end of the last line is left to whoever asks
/// for what follows.
#[inline(always)]
pub(super) fn read(p: *const u8, n: usize) {
    // Steps of a line meet every line, wherever in one `p` lies.
    for at in (0..n).step_by(LINE) {
        line::<true>(p.wrapping_add(at));
    }
}

/// Asks for the `n` bytes at `p`, to be read when much else has been: into the second-level cache.
#[inline(always)]
pub(super) fn later(p: *const u8, n: usize) {
    // From the start of a line, or the last line would be left out where `p` lies inside one.
    let inside = p.addr() % LINE;
    for at in (0..n + inside).step_by(LINE) {
        line::<false>(p.wrapping_sub(inside).wrapping_add(at));
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
