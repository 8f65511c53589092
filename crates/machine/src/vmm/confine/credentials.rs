//! Drops all capabilities, from every set, so that no program executed later can gain one.

#![expect(unsafe_code, reason = "the system calls have no wrapper that can run between fork and exec")]

use std::io;

/// ABI version of capset(2) with 64 bits (`_LINUX_CAPABILITY_VERSION_3`).
const VERSION_3: u32 = 0x2008_0522;

/// Empties the bounding, ambient, inheritable, permitted and effective sets. Does not allocate.
///
/// An ordinary user outside a user namespace may not change the bounding set; no-new-privileges makes up for it, and
/// the other sets are empty in any case.
pub(in crate::vmm) fn give_up_all() -> io::Result<()> {
    for capability in 0..64_u64 {
        // SAFETY: prctl with numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == 0 {
            continue;
        }
        match io::Error::last_os_error() {
            // Either the first number that this kernel does not know as a capability, or no permission to drop any.
            error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => break,
            error => return Err(error),
        }
    }
    // SAFETY: as above. Fails on kernels without an ambient set.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let header: [u32; 2] = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: capset(2) reads a header of two words and two records of three words, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
