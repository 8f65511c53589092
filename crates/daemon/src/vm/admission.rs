//! Memory admission: whether this host has the memory for a VM now.
//!
//! The memory that is free now decides, not the sum of what all VMs may take: guests rarely touch all of theirs.

use super::{VmService, service::Parts};
use crate::config;
use banger_proto::{
    failure::{Code, Failure},
    name::VmName,
    size::ByteSize,
};
use std::cmp::Reverse;

/// Number of VMs that an error names as users of memory.
const MAX_NAMED: usize = 5;

/// Request that is checked. It decides which commands the error can suggest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attempt<'a> {
    /// A new VM, or new sizes of a VM: the sizes are options of the command itself.
    Sizes,
    /// A start of an existing VM.
    Start(&'a VmName),
    /// A restart of an existing VM.
    Restart(&'a VmName),
}

impl Attempt<'_> {
    fn hints(self) -> [String; 2] {
        let again = |name: &VmName, verb: &str| {
            [
                format!("`banger vm set {name} --memory SIZE` gives it less; or stop a VM (`banger ps`)"),
                format!("`banger vm {verb} --overcommit {name}` starts it anyway"),
            ]
        };
        match self {
            Self::Sizes => [
                "ask for less with --memory, or stop a VM (`banger ps`)".into(),
                "--overcommit starts it anyway".into(),
            ],
            Self::Start(name) => again(name, "start"),
            Self::Restart(name) => again(name, "restart"),
        }
    }
}

/// Refuses `wanted` bytes that are not free now, and says which VMs use how much. `freed` bytes become free before they
/// are needed.
pub(super) async fn admit(
    parts: &Parts,
    wanted: ByteSize,
    freed: ByteSize,
    overcommit: bool,
    attempt: Attempt<'_>,
) -> Result<(), Failure> {
    let free = config::memory_line("MemAvailable:");
    let then = free.map(|free| ByteSize(free.bytes().saturating_add(freed.bytes())));
    let Err(failure) = check(wanted, overcommit, then, attempt) else { return Ok(()) };
    let rows = parts.store.vms().await?;
    let users = rows.iter().filter_map(|row| Some((row.name.to_string(), ByteSize(VmService::resident(row)?))));
    Err(failure.cause(describe_users(config::memory_line("MemTotal:"), free, users.collect())))
}

/// Refuses `wanted` bytes that this host does not have at all.
pub(super) fn check_total(wanted: ByteSize, overcommit: bool) -> Result<(), Failure> {
    let Some(total) = shortfall(wanted, overcommit, config::memory_line("MemTotal:")) else { return Ok(()) };
    Err(does_not_fit(wanted, &format!("{total} in all"))
        .hint("ask for less with --memory")
        .hint("--overcommit takes it anyway"))
}

fn check(wanted: ByteSize, overcommit: bool, free: Option<ByteSize>, attempt: Attempt<'_>) -> Result<(), Failure> {
    let Some(free) = shortfall(wanted, overcommit, free) else { return Ok(()) };
    Err(attempt.hints().into_iter().fold(does_not_fit(wanted, &format!("{free} free")), Failure::hint))
}

/// Returns the available memory if it is less than `wanted`. A host that does not report its memory is no reason to
/// refuse.
fn shortfall(wanted: ByteSize, overcommit: bool, available: Option<ByteSize>) -> Option<ByteSize> {
    available.filter(|available| !overcommit && wanted > *available)
}

fn does_not_fit(wanted: ByteSize, has: &str) -> Failure {
    Failure::new(Code::Unavailable, format!("a VM with {wanted} of memory does not fit: this host has {has}"))
}

/// Describes in one sentence which VMs use most of the memory, and how much everything else uses.
fn describe_users(total: Option<ByteSize>, free: Option<ByteSize>, mut users: Vec<(String, ByteSize)>) -> String {
    users.sort_by_key(|(name, bytes)| (Reverse(*bytes), name.clone()));
    let by_vms = users.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(bytes.bytes()));
    let used = total.zip(free).map_or(0, |(total, free)| total.bytes().saturating_sub(free.bytes()));
    let mut parts: Vec<String> =
        users.iter().take(MAX_NAMED).map(|(name, bytes)| format!("VM {name} {bytes}")).collect();
    if users.len() > MAX_NAMED {
        let rest = users[MAX_NAMED..].iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(bytes.bytes()));
        parts.push(format!("{} more VMs {}", users.len() - MAX_NAMED, ByteSize(rest)));
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
        check(ByteSize::gib(2), false, free, Attempt::Sizes).unwrap();
        let failure = check(ByteSize::gib(3), false, free, Attempt::Sizes).unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.message.contains("2 GiB free"), "{failure}");
        check(ByteSize(u64::MAX), true, free, Attempt::Sizes).unwrap();
        check(ByteSize::gib(3), false, None, Attempt::Sizes).unwrap();
    }

    #[test]
    fn the_way_round_a_refusal_is_one_that_the_refused_command_has() {
        let name = "demo".parse().unwrap();
        let hints = |attempt| check(ByteSize::gib(3), false, Some(ByteSize::gib(2)), attempt).unwrap_err().hints;
        assert!(hints(Attempt::Sizes).iter().all(|hint| hint.contains("--") && !hint.contains("banger vm")));
        for (attempt, verb) in [(Attempt::Start(&name), "start"), (Attempt::Restart(&name), "restart")] {
            let [less, anyway] = &hints(attempt)[..] else { panic!("two") };
            assert!(less.starts_with("`banger vm set demo --memory SIZE` "), "{less}");
            assert!(anyway.starts_with(&format!("`banger vm {verb} --overcommit demo` ")), "{anyway}");
        }
    }

    #[test]
    fn who_has_the_memory_is_said() {
        let (total, free) = (Some(ByteSize::gib(8)), Some(ByteSize::gib(1)));
        let users = vec![("a".to_owned(), ByteSize::gib(1)), ("b".to_owned(), ByteSize::gib(2))];
        assert_eq!(
            describe_users(total, free, users),
            "memory in use of 8 GiB: VM b 2 GiB, VM a 1 GiB, everything else 4 GiB"
        );
        let many = (0..7).map(|n| (format!("v{n}"), ByteSize::gib(1))).collect();
        assert!(describe_users(total, free, many).contains("VM v4 1 GiB, 2 more VMs 2 GiB, everything else 0 B"));
        assert_eq!(describe_users(None, None, vec![]), "memory in use: no VM, everything else 0 B");
    }
}
