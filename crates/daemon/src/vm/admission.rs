//! Whether this host has the memory for a VM now.
//!
//! What is free now decides, not the sum of what VMs may take: guests rarely touch all of theirs.

use super::{VmService, service::Parts};
use crate::config;
use banger_proto::{
    failure::{Code, Failure},
    size::ByteSize,
};
use std::cmp::Reverse;

/// VMs that are named as users of memory.
const NAMED: usize = 5;

/// Refuses `wanted` when it is not free now, and says who has what. `back` is given back before it is needed.
pub(super) async fn admit(parts: &Parts, wanted: ByteSize, back: ByteSize, overcommit: bool) -> Result<(), Failure> {
    let free = config::memory_line("MemAvailable:");
    let then = free.map(|free| ByteSize(free.bytes().saturating_add(back.bytes())));
    let Err(failure) = judge(wanted, overcommit, then) else { return Ok(()) };
    let rows = parts.store.vms().await?;
    let users = rows.iter().filter_map(|row| Some((row.name.to_string(), ByteSize(VmService::resident(row)?))));
    Err(failure.cause(who_uses(config::memory_line("MemTotal:"), free, users.collect())))
}

/// Refuses `wanted` when this host could never have it.
pub(super) fn fits_at_all(wanted: ByteSize, overcommit: bool) -> Result<(), Failure> {
    let Some(total) = short_of(wanted, overcommit, config::memory_line("MemTotal:")) else { return Ok(()) };
    Err(does_not_fit(wanted, &format!("{total} in all"))
        .hint("ask for less with --memory")
        .hint("--overcommit takes it anyway"))
}

fn judge(wanted: ByteSize, overcommit: bool, free: Option<ByteSize>) -> Result<(), Failure> {
    let Some(free) = short_of(wanted, overcommit, free) else { return Ok(()) };
    Err(does_not_fit(wanted, &format!("{free} free"))
        .hint("ask for less with --memory, or stop a VM (`banger ps`)")
        .hint("--overcommit starts it anyway"))
}

/// What there is, when that is too little. A host that does not say is not a reason to refuse.
fn short_of(wanted: ByteSize, overcommit: bool, there_is: Option<ByteSize>) -> Option<ByteSize> {
    there_is.filter(|there_is| !overcommit && wanted > *there_is)
}

fn does_not_fit(wanted: ByteSize, has: &str) -> Failure {
    Failure::new(Code::Unavailable, format!("a VM with {wanted} of memory does not fit: this host has {has}"))
}

/// One sentence: the VMs that have most of it, and the rest.
fn who_uses(total: Option<ByteSize>, free: Option<ByteSize>, mut users: Vec<(String, ByteSize)>) -> String {
    users.sort_by_key(|(name, bytes)| (Reverse(*bytes), name.clone()));
    let by_vms = users.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(bytes.bytes()));
    let used = total.zip(free).map_or(0, |(total, free)| total.bytes().saturating_sub(free.bytes()));
    let mut parts: Vec<String> = users.iter().take(NAMED).map(|(name, bytes)| format!("VM {name} {bytes}")).collect();
    if users.len() > NAMED {
        let rest = users[NAMED..].iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(bytes.bytes()));
        parts.push(format!("{} more VMs {}", users.len() - NAMED, ByteSize(rest)));
    }
    if users.is_empty() {
        parts.push("no VM".to_owned());
    }
    parts.push(format!("everything else {}", ByteSize(used.saturating_sub(by_vms))));
    let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
    format!("memory in use{of}: {}", parts.join(", "))
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

    #[test]
    fn who_has_the_memory_is_said() {
        let (total, free) = (Some(ByteSize::gib(8)), Some(ByteSize::gib(1)));
        let users = vec![("a".to_owned(), ByteSize::gib(1)), ("b".to_owned(), ByteSize::gib(2))];
        assert_eq!(
            who_uses(total, free, users),
            "memory in use of 8 GiB: VM b 2 GiB, VM a 1 GiB, everything else 4 GiB"
        );
        let many = (0..7).map(|n| (format!("v{n}"), ByteSize::gib(1))).collect();
        assert!(who_uses(total, free, many).contains("VM v4 1 GiB, 2 more VMs 2 GiB, everything else 0 B"));
        assert_eq!(who_uses(None, None, vec![]), "memory in use: no VM, everything else 0 B");
    }
}
