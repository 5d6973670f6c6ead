//! Large pages for large memory. Products and attention walk over matrices and caches of many megabytes, in strides: with
//! pages of 4 KiB every few cache lines cost a walk of the page tables besides. Linux gives pages of 2 MiB to who asks.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which asks for large pages where an allocation holds several. For a program's
/// `#[global_allocator]`.
pub struct LargePages;

/// The size of a large page.
const PAGE: usize = 2 << 20;

// SAFETY: the memory is the system's, under its own promises; asking for pages changes neither its content nor its owner.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        asked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        asked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises.
        asked(unsafe { System.realloc(p, layout, size) }, size)
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(p, layout) }
    }
}

/// `p`, after asking for large pages for the whole ones among the `size` bytes there.
fn asked(p: *mut u8, size: usize) -> *mut u8 {
    if size >= 2 * PAGE && !p.is_null() {
        let skip = p.align_offset(PAGE);
        let len = size.saturating_sub(skip) / PAGE * PAGE;
        ask(p.wrapping_add(skip), len);
    }
    p
}

#[cfg(target_os = "linux")]
fn ask(p: *mut u8, len: usize) {
    use std::ffi::{c_int, c_void};
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(p: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    if len > 0 {
        // SAFETY: whole pages of an allocation that the caller owns; the advice does not change what they hold. Refusal
        // leaves small pages, which work as well.
        unsafe { madvise(p.cast(), len, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every size around whole pages: the memory is there, zeroed where it should be, and keeps what it holds when it grows.
    #[test]
    fn memory_behaves_as_the_system_says() {
        for size in [1, PAGE, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE + 5] {
            let layout = Layout::from_size_align(size, 16).unwrap();
            // SAFETY: sizes are not zero, writes stay inside, and layouts are those of the allocations.
            unsafe {
                let p = LargePages.alloc_zeroed(layout);
                let bytes = std::slice::from_raw_parts_mut(p, size);
                assert!(bytes.iter().all(|b| *b == 0));
                bytes.fill(7);
                let p = LargePages.realloc(p, layout, 2 * size);
                assert!(std::slice::from_raw_parts(p, size).iter().all(|b| *b == 7), "{size}");
                LargePages.dealloc(p, Layout::from_size_align(2 * size, 16).unwrap());
                let p = LargePages.alloc(layout);
                p.write_bytes(1, size);
                LargePages.dealloc(p, layout);
            }
        }
    }
}
