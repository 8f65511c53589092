//! The right to run a VM: a shim has it while it holds the lock on the VM's state directory, and only if there is a
//! plan in it.
//!
//! A shim first stages a record of its identity, then takes the lock, then looks for the plan, then publishes the
//! record. A daemon that revokes a VM ends every process with a record, staged or published, then takes the lock
//! itself, and removes the plan under it. So a shim whose daemon died early is one of two kinds: it can be found by its
//! record and ended; or it comes too late and finds no plan, or the plan of another launch, which it must not run.
//! There is no third kind, in whatever order the two proceed.

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

/// Interval between attempts to take a lock whose holder is about to end.
const TICK: Duration = Duration::from_millis(5);

/// Attempts of a shim: a daemon that only checks holds the lock for a moment.
const TRIES: u32 = 200;

/// The right to run the VM. Released on drop, and when the process dies.
#[derive(Debug)]
pub(super) struct Claim(OwnedFd);

impl Claim {
    /// Takes the lock; `None` while another process holds it. The lock is on the directory itself, so no lock file can
    /// be left over.
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
    /// Takes the lock for a shim, before it has an async runtime; waits while a daemon only checks the lock.
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
        // Closing is not enough while a child between fork and exec has a copy of the descriptor.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Whether a shim runs the VM or is about to; assumed to be so when it cannot be determined.
pub(super) fn is_taken(state_dir: &Path) -> bool {
    match Claim::take(state_dir) {
        Ok(claim) => claim.is_none(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Names the running processes of this VM, as far as they have written a record.
pub fn living(state_dir: &Path) -> Option<String> {
    let mut records: Vec<RuntimeRecord> = record::staged(state_dir, RUNTIME_FILE).unwrap_or_default();
    records.extend(record::read::<RuntimeRecord>(state_dir, RUNTIME_FILE).ok().flatten());
    let all = records.iter().flat_map(|record| [("shim", Some(record.shim)), ("VMM", record.vmm)]);
    let pids: Vec<String> = all
        .filter_map(|(what, process)| Some((what, process.filter(ProcessIdentity::alive)?.pid)))
        .map(|(what, pid)| format!("{what} {pid}"))
        .collect();
    (!pids.is_empty()).then(|| pids.join(", "))
}

/// Ends every process that runs the VM or is about to, and makes sure that no shim started before can run it later.
/// `false` when a killed process is not gone within `limit`. Idempotent.
pub async fn revoke(state_dir: &Path, limit: Duration) -> io::Result<bool> {
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

/// Kills the shim and the VMM of a runtime record, where they are still the recorded processes, and waits until they
/// have ended: `false` when one did not within `limit`. After a reboot of the host there is nothing to end.
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
