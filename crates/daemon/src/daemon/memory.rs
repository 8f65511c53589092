//! What the C library's allocator may keep.
#![expect(unsafe_code, reason = "the allocator's settings are a C function")]

/// Bytes at the end of the heap that are kept when they are free.
const TRIM: libc::c_int = 1 << 20;

/// Keeps the daemon small after it was large. Threads come and go with every pull; with a heap each, what one of them has
/// freed is of no use to the others and stays.
pub(super) fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two numbers; what is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM);
    }
}
