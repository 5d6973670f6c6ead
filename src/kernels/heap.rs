//! The heap of the process, for programs: a library leaves it to its host.

/// Heaps that all threads share.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const N_HEAPS: i32 = 2;

/// Has all threads share two heaps. glibc gives threads as many as eight for each core, and a heap keeps what was freed in its
/// middle: a server whose threads free what others have allocated then holds many times what it uses, and more by the hour.
/// Other C libraries are left as they are.
pub fn share_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number of the allocator, under the allocator's own lock. Where it cannot, all stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, N_HEAPS);
    }
}
