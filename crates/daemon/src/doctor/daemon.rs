//! Check: a running daemon has this version.

use super::{Check, Host, pass, warn};
use banger_proto::api::host::{DaemonRecord, Finding};
use futures_util::future::BoxFuture;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;

const NAME: &str = "daemon";

pub(super) struct Daemon;

impl Check for Daemon {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(std::future::ready(vec![judge(running(host))]))
    }
}

fn judge(running: Option<DaemonRecord>) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    match running {
        None => pass(NAME, "none runs; the first command that needs one starts it"),
        Some(record) if record.version == ours => pass(NAME, format!("runs as process {}, version {ours}", record.pid)),
        Some(record) => {
            let mut finding = warn(NAME, format!("the one that runs is version {}, this is {ours}", record.version));
            finding.hints.push("banger daemon stop; the next command starts this version, VMs keep running".into());
            finding
        }
    }
}

/// Record of the daemon that holds the lock. When nobody does, the check takes the lock for a moment, shared, and
/// releases it with the file; a daemon that starts just then is tried again by its client.
pub(super) fn running(host: &Host) -> Option<DaemonRecord> {
    let file = File::open(host.layout.daemon_lock()).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    serde_json::from_str(&std::fs::read_to_string(host.layout.daemon_lock()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn an_older_daemon_is_found_and_a_dead_one_is_none() {
        let bench = Bench::new();
        let lock = bench.host.layout.daemon_lock();
        let record = DaemonRecord { pid: 7, socket: "/s".into(), version: "0.0.0-old".into() };
        std::fs::write(&lock, serde_json::to_vec(&record).unwrap()).unwrap();
        let (verdict, text) = bench.run(&Daemon).await.remove(0);
        assert!(verdict == Verdict::Pass && text.contains("none runs"), "{text}");
        let held = File::open(&lock).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let (verdict, text) = bench.run(&Daemon).await.remove(0);
        assert!(verdict == Verdict::Warn && text.contains("0.0.0-old"), "{text}");
    }
}
