//! How memory is got from the kernel and given back.

/// From this size on a block comes from the kernel by itself, and goes back to it when it is freed: segments do, frames do
/// not, which come and go all the time.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES_MIN: nix::libc::c_int = 4 << 20;

/// Keeps what was freed from staying with us. glibc raises its limit for blocks of their own to that of the largest that was
/// freed, and gives every thread a heap: an agent that has stored compressed segments would keep some for each thread.
pub fn give_back_what_is_freed() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: the call takes numbers only, and there is no other thread yet. A limit that is refused stays as it was.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES_MIN);
    }
}
