//! Return of freed memory to the kernel.

/// Blocks of this size or larger get a mapping of their own, which returns to the kernel when freed. Segments are
/// larger; frames, which are allocated and freed all the time, are smaller.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES_MIN: nix::libc::c_int = 4 << 20;

/// Makes glibc return freed memory to the kernel. By default, glibc raises the threshold for separate mappings to the
/// largest freed block and gives every thread a heap, so an agent that has stored compressed segments would keep some
/// in each thread.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: the call takes numbers only, and there is no other thread yet. A rejected threshold remains unchanged.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES_MIN);
    }
}
