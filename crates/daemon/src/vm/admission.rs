//! Whether this host has the memory for a VM now.
//!
//! What is free now decides, not the sum of what VMs may take: guests rarely touch all of theirs.

use crate::config;
use banger_proto::{
    failure::{Code, Failure},
    size::ByteSize,
};

/// Refuses `wanted` when it is not free now.
pub(super) fn admit(wanted: ByteSize, overcommit: bool) -> Result<(), Failure> {
    judge(wanted, overcommit, config::memory_line("MemAvailable:"))
}

/// Refuses `wanted` when this host could never have it.
pub(super) fn fits_at_all(wanted: ByteSize, overcommit: bool) -> Result<(), Failure> {
    judge(wanted, overcommit, config::memory_line("MemTotal:"))
}

fn judge(wanted: ByteSize, overcommit: bool, free: Option<ByteSize>) -> Result<(), Failure> {
    // A host that does not say is not a reason to refuse.
    let Some(free) = free.filter(|free| !overcommit && wanted > *free) else { return Ok(()) };
    Err(Failure::new(
        Code::Unavailable,
        format!("a VM with {wanted} of memory does not fit: this host has {free} free"),
    )
    .hint("ask for less with --memory, or stop a VM (`banger ps`)")
    .hint("--overcommit starts it anyway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_decides_unless_it_is_overruled() {
        let free = Some(ByteSize::gib(2));
        judge(ByteSize::gib(2), false, free).unwrap();
        let failure = judge(ByteSize::gib(3), false, free).unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.message.contains("2 GiB free"), "{failure}");
        judge(ByteSize(u64::MAX), true, free).unwrap();
        judge(ByteSize::gib(3), false, None).unwrap();
    }
}
