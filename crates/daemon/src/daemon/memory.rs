//! Settings of the C library's allocator.
#![expect(unsafe_code, reason = "the allocator's settings are a C function")]

/// Free bytes kept at the end of the heap.
const TRIM: libc::c_int = 1 << 20;

/// Lets the daemon shrink after heavy work. Each pull starts and ends threads; if each had a heap of its own, memory
/// freed by one would stay and be useless to the others.
pub(super) fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers; a refused setting changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM);
    }
}
