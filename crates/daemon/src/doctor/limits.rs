//! Check: resource limits (ulimit) of the running daemon, or of the next one, are high enough for VMs.

use super::{Check, Host, daemon, finding, pass, warn};
use banger_proto::{
    api::host::{Finding, Verdict},
    size::ByteSize,
};
use futures_util::future::BoxFuture;
use std::fs;

const NAME: &str = "limits";
/// A shim uses about thirty descriptors, the daemon a few per VM, an exec session four.
const OPEN_FILES: u64 = 1024;
/// Threads count too: a VM has a dozen, and all other processes of the user count as well.
const PROCESSES: u64 = 512;
/// Memory a VMM maps besides its guest's: code, translated code, stacks.
const BESIDE_MEMORY: ByteSize = ByteSize::gib(2);

pub(super) struct Limits;

impl Check for Limits {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let of = |whose: &str| fs::read_to_string(host.system(&format!("/proc/{whose}/limits"))).ok();
        let daemons = daemon::running(host).and_then(|record| of(&record.pid.to_string()));
        let is_daemon = daemons.is_some();
        let text = daemons.or_else(|| of("self")).unwrap_or_default();
        Box::pin(std::future::ready(judge(host, is_daemon, &text)))
    }
}

fn judge(host: &Host, is_daemon: bool, text: &str) -> Vec<Finding> {
    if limit(text, OPEN).is_none() {
        let mut finding = warn(NAME, "/proc does not say what is allowed");
        finding.hints.push("mount -t proc proc /proc".into());
        return vec![finding];
    }
    let (disk, memory) = match &host.config {
        Ok(config) => (config.disk_size.value, config.memory.value),
        Err(_) => (ByteSize::gib(8), ByteSize::gib(2)),
    };
    let needs = [
        Need {
            limit: OPEN,
            least: OPEN_FILES,
            verdict: Verdict::Warn,
            what: "open files are allowed: with many VMs or sessions some will fail",
            mend: format!("ulimit -n {OPEN_FILES}"),
        },
        Need {
            limit: "Max processes",
            // The kernel does not apply this limit to root.
            least: if host.uid == 0 { 0 } else { PROCESSES },
            verdict: Verdict::Warn,
            what: "processes and threads are allowed to this user: with many VMs some will not start",
            mend: format!("ulimit -u {PROCESSES}"),
        },
        Need {
            limit: "Max file size",
            least: disk.bytes(),
            verdict: Verdict::Fail,
            what: "bytes are allowed in a file: a disk of the default size cannot be made",
            mend: "ulimit -f unlimited".to_owned(),
        },
        Need {
            limit: "Max address space",
            least: memory.bytes().saturating_add(BESIDE_MEMORY.bytes()),
            verdict: Verdict::Fail,
            what: "bytes of memory may be mapped: a VM of the default size does not start",
            mend: "ulimit -v unlimited".to_owned(),
        },
    ];
    let found: Vec<Finding> = needs.iter().filter_map(|need| need.lack(text, is_daemon)).collect();
    if !found.is_empty() {
        return found;
    }
    let open = limit(text, OPEN).filter(|count| *count != UNLIMITED);
    let open = open.map_or("any number of".to_owned(), |count| count.to_string());
    vec![pass(NAME, format!("{open} open files are allowed, and all else that VMs need"))]
}

/// Process that is always there.
const OPEN: &str = "Max open files";

/// Required value of one limit.
struct Need {
    /// Name of the limit in `/proc/PID/limits`.
    limit: &'static str,
    least: u64,
    /// Verdict when the limit is lower.
    verdict: Verdict,
    /// Consequence of a lower limit, appended to its value.
    what: &'static str,
    mend: String,
}

impl Need {
    fn lack(&self, text: &str, is_daemon: bool) -> Option<Finding> {
        let allowed = limit(text, self.limit)?;
        if allowed >= self.least {
            return None;
        }
        let mut finding = finding(NAME, self.verdict, format!("{allowed} {}", self.what));
        // A running daemon keeps the limits it was started with.
        let restart = if is_daemon { ", then: banger daemon stop" } else { "" };
        finding.hints.push(format!("{}{restart}", self.mend));
        Some(finding)
    }
}

/// No limit.
const UNLIMITED: u64 = u64::MAX;

/// Reads a soft limit by its name.
fn limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(UNLIMITED),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::DaemonRecord;
    use rustix::fs::{FlockOperation, flock};

    /// Parses a limit as the kernel prints it.
    fn limits(open: &str, processes: &str, file: &str, mapped: &str) -> String {
        format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max cpu time              unlimited            unlimited            seconds   \n\
             Max file size             {file:<20} unlimited            bytes     \n\
             Max processes             {processes:<20} 63000                processes \n\
             Max open files            {open:<20} 524288               files     \n\
             Max address space         {mapped:<20} unlimited            bytes     \n"
        )
    }

    #[tokio::test]
    async fn each_that_is_too_low_is_found_with_the_command_that_raises_it() {
        let mut bench = Bench::new();
        bench.host.uid = 1000;
        let whole = limits("1024", "512", "unlimited", "unlimited");
        for (text, verdict, words) in [
            (&whole[..], Verdict::Pass, "1024 open files"),
            (&limits("unlimited", "unlimited", "1099511627776", "1099511627776"), Verdict::Pass, "any number of open"),
            (&limits("256", "512", "unlimited", "unlimited"), Verdict::Warn, "ulimit -n 1024"),
            (&limits("1024", "100", "unlimited", "unlimited"), Verdict::Warn, "ulimit -u 512"),
            (&limits("1024", "512", "1048576", "unlimited"), Verdict::Fail, "ulimit -f unlimited"),
            (&limits("1024", "512", "unlimited", "1073741824"), Verdict::Fail, "ulimit -v unlimited"),
            ("", Verdict::Warn, "mount -t proc"),
        ] {
            bench.write("proc/self/limits", text);
            let found = bench.run(&Limits).await;
            assert_eq!((found.len(), found[0].0), (1, verdict), "{found:?}");
            assert!(found[0].1.contains(words) && !found[0].1.contains("daemon stop"), "{words}: {found:?}");
        }
        bench.write("proc/self/limits", &limits("1", "1", "1", "1"));
        assert_eq!(bench.run(&Limits).await.len(), 4);
        // Processes of root are not counted.
        bench.host.uid = 0;
        assert_eq!(bench.run(&Limits).await.len(), 3);
    }

    #[tokio::test]
    async fn those_of_the_daemon_that_runs_count() {
        let bench = Bench::new();
        let lock = bench.host.layout.daemon_lock();
        let record = DaemonRecord { pid: 7, socket: "/s".into(), version: "0".into() };
        fs::write(&lock, serde_json::to_vec(&record).unwrap()).unwrap();
        let held = fs::File::open(&lock).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        bench.write("proc/self/limits", &limits("1024", "512", "unlimited", "unlimited"));
        bench.write("proc/7/limits", &limits("64", "512", "unlimited", "unlimited"));
        let (verdict, text) = bench.run(&Limits).await.remove(0);
        assert!(verdict == Verdict::Warn && text.contains("64 open files") && text.contains("daemon stop"), "{text}");
    }
}
