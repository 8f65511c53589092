//! Who may run a VM: the shim that holds the lock on the VM's state directory, as long as there is a plan in it.
//!
//! A shim writes aside who it is, then takes the lock, then looks for the plan, then publishes its runtime record. A
//! daemon that takes a VM down ends everybody who has written who he is, takes the lock itself, and takes the plan away
//! under it. So of a shim that a daemon started and did not live to follow there are two kinds: one that can be found and
//! ended, and one that comes too late and finds no plan, or the plan of another launch, which is not its to run. There is no
//! third, however the two meet.

use super::control::{PLAN_FILE, RUNTIME_FILE, RuntimeRecord};
use crate::{
    failpoint,
    process::{ProcessIdentity, ProvenProcess, host_boot_id},
    record,
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    process::Signal,
};
use std::{io, os::fd::OwnedFd, path::Path, time::Duration};
use tokio::time::Instant;

/// How often a lock is tried whose holder is on its way out.
const TICK: Duration = Duration::from_millis(5);

/// How long a shim tries: a daemon that looks has the lock for a moment.
const TRIES: u32 = 200;

/// The right to run the VM. Given up when it is dropped; a killed process gives it up too.
#[derive(Debug)]
pub(super) struct Claim(OwnedFd);

impl Claim {
    /// `None` while another has it. The lock is on the directory itself, so there is no file to be left over.
    pub(super) fn take(state_dir: &Path) -> io::Result<Option<Self>> {
        let dir = open(state_dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(dir))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Claim {
    /// The same for a shim, which has no runtime yet: whoever only looks is waited for.
    pub(super) fn take_soon(state_dir: &Path) -> io::Result<Option<Self>> {
        for _ in 0..TRIES {
            if let Some(claim) = Self::take(state_dir)? {
                return Ok(Some(claim));
            }
            std::thread::sleep(TICK);
        }
        Ok(None)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing is not enough where a child between fork and exec has a copy.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Whether a shim runs the VM or is about to. Where that cannot be told it may.
pub(super) fn is_taken(state_dir: &Path) -> bool {
    match Claim::take(state_dir) {
        Ok(claim) => claim.is_none(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Who still runs of the VM whose directory this is, of those who have written who they are.
pub(crate) fn living(state_dir: &Path) -> Option<String> {
    let mut records: Vec<RuntimeRecord> = record::staged(state_dir, RUNTIME_FILE).unwrap_or_default();
    records.extend(record::read::<RuntimeRecord>(state_dir, RUNTIME_FILE).ok().flatten());
    let all = records.iter().flat_map(|record| [("shim", Some(record.shim)), ("VMM", record.vmm)]);
    let pids: Vec<String> = all
        .filter_map(|(what, who)| Some((what, who.filter(ProcessIdentity::alive)?.pid)))
        .map(|(what, pid)| format!("{what} {pid}"))
        .collect();
    (!pids.is_empty()).then(|| pids.join(", "))
}

/// Ends whoever runs the VM or is about to, and sees to it that nobody does any more who was told to before. `false` when
/// somebody was killed and is not gone within `limit`. Doing it again changes nothing.
pub(crate) async fn revoke(state_dir: &Path, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let mut records: Vec<RuntimeRecord> = match record::staged(state_dir, RUNTIME_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            records => records?,
        };
        records.extend(record::read::<RuntimeRecord>(state_dir, RUNTIME_FILE)?);
        for record in &records {
            if !end_proven(record, deadline.saturating_duration_since(Instant::now())).await? {
                return Ok(false);
            }
        }
        failpoint::hit("revoke.ended").await;
        if let Some(_claim) = Claim::take(state_dir)? {
            record::remove(state_dir, PLAN_FILE)?;
            failpoint::hit("revoke.unplanned").await;
            record::remove(state_dir, RUNTIME_FILE)?;
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Kills the shim and the VMM of a runtime record, where they are still the recorded processes, and waits until they have
/// ended: `false` when one did not within `limit`. After a reboot of the host there is nothing to end.
pub async fn end_proven(record: &RuntimeRecord, limit: Duration) -> io::Result<bool> {
    if host_boot_id()? != record.host_boot_id {
        return Ok(true);
    }
    let mut ended = true;
    for identity in [Some(record.shim), record.vmm].into_iter().flatten() {
        let Some(process) = ProvenProcess::open(identity)? else { continue };
        process.signal(Signal::KILL)?;
        ended &= tokio::time::timeout(limit, process.ended()).await.is_ok();
        failpoint::hit("revoke.killed").await;
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        process::{Command, Stdio},
    };

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn what_is_revoked_has_no_plan_and_whoever_said_who_it_is_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(PLAN_FILE), "{}").unwrap();
        let mut children = [0, 1].map(|_| Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap());
        let record = |child: &std::process::Child| RuntimeRecord {
            host_boot_id: host_boot_id().unwrap(),
            shim: ProcessIdentity::of(child.id()).unwrap(),
            vmm: None,
        };
        record::write_volatile(dir.path(), RUNTIME_FILE, &record(&children[0])).unwrap();
        let staged = record::Staged::new(dir.path(), RUNTIME_FILE, &record(&children[1])).unwrap();
        assert!(revoke(dir.path(), SOON).await.unwrap());
        for child in &mut children {
            assert!(!child.wait().unwrap().success());
        }
        drop(staged);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(revoke(dir.path(), SOON).await.unwrap(), "twice");
        assert!(revoke(&dir.path().join("gone"), SOON).await.unwrap());
    }

    #[tokio::test]
    async fn while_somebody_has_the_claim_the_plan_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(PLAN_FILE), "{}").unwrap();
        let claim = Claim::take(dir.path()).unwrap().unwrap();
        assert!(is_taken(dir.path()));
        assert!(!revoke(dir.path(), Duration::ZERO).await.unwrap());
        assert!(dir.path().join(PLAN_FILE).exists());
        drop(claim);
        assert!(!is_taken(dir.path()) && !is_taken(&dir.path().join("gone")));
        assert!(revoke(dir.path(), SOON).await.unwrap());
        assert!(!dir.path().join(PLAN_FILE).exists());
    }

    #[tokio::test]
    async fn the_rest_of_another_boot_is_left_alone() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let record = RuntimeRecord { host_boot_id: "another".into(), shim: identity, vmm: None };
        assert!(end_proven(&record, Duration::from_secs(5)).await.unwrap());
        assert!(identity.alive());
        let record = RuntimeRecord { host_boot_id: host_boot_id().unwrap(), ..record };
        assert!(end_proven(&record, Duration::from_secs(5)).await.unwrap());
        assert!(!identity.alive());
        child.wait().unwrap();
    }
}
