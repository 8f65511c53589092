//! Processes of the network that outlive this daemon: the holder of the namespaces, and pasta, the uplink.
//!
//! Each is recorded by pid and start time before it may begin its work, so that none is ever unknown.

use banger_machine::{
    failpoint,
    process::{ProcessIdentity, ProvenProcess, host_boot_id, kill_proven},
    record,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::{fs, io, net::Ipv4Addr, os::unix::fs::MetadataExt, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

/// File of the record, in the state directory.
const RECORD: &str = "network.json";
/// Most bytes kept of a child's stderr.
const MAX_STDERR: usize = 2048;
/// How long a holder may take to make its namespaces.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Name of the uplink's interface.
const UPLINK: &str = "up0";
/// Address of the uplink's interface and of its router, from a block that no machine's own address is in (RFC 7335).
/// With the host's address, which pasta would take by default, that address would be the namespace's own, and no rule
/// could open what listens on the host's.
const UPLINK_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 2), Ipv4Addr::new(192, 0, 0, 1)];
const UPLINK_NETMASK: &str = "29";

/// Record of the processes that keep the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    host_boot_id: String,
    /// Process in the namespaces that keeps them alive.
    pub(super) holder: ProcessIdentity,
    /// Inode of the network namespace: identifies the processes in it when the holder is gone.
    pub(super) namespace: u64,
    /// The uplink's process.
    pub(super) pasta: Option<ProcessIdentity>,
}

impl Record {
    /// Reads an earlier daemon's record, if it is of this boot of the host.
    pub(super) fn read(state: &Path) -> io::Result<Option<Self>> {
        let boot = host_boot_id()?;
        Ok(record::read::<Self>(state, RECORD)?.filter(|record| record.host_boot_id == boot))
    }

    pub(super) fn write(&self, state: &Path) -> io::Result<()> {
        record::write(state, RECORD, self)
    }

    /// Ends both processes and removes the record. Processes that are gone are no error.
    pub(super) async fn end(self, state: &Path) -> io::Result<()> {
        // The holder comes last: as long as it lives the record is valid.
        for process in self.pasta.into_iter().chain([self.holder]) {
            let Some(process) = ProvenProcess::open(process)? else { continue };
            process.signal(Signal::KILL)?;
            let _ = timeout(TIMEOUT, process.ended()).await;
            failpoint::hit("network.ended").await;
        }
        record::remove(state, RECORD)
    }
}

/// Network namespace of a process; `None` when the process is gone.
pub(super) fn namespace_of(process: ProcessIdentity) -> Option<u64> {
    let inode = fs::metadata(format!("/proc/{}/ns/net", process.pid)).ok()?.ino();
    process.alive().then_some(inode)
}

/// Starts a holder: of new namespaces, or of those that `member` is in and `pasta` is the uplink of. It is recorded
/// before it is released.
pub(super) async fn hold(
    program: &Path,
    state: &Path,
    member: Option<ProcessIdentity>,
    pasta: Option<ProcessIdentity>,
) -> io::Result<Record> {
    let mut command = Command::new(program);
    command.arg("hold");
    if let Some(member) = member {
        command.args([member.pid.to_string(), member.start_time.to_string()]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/").process_group(0);
    // Not killed when this value is dropped with the daemon: a holder that was not released ends by itself.
    let mut child = command.spawn()?;
    failpoint::hit("network.spawned").await;
    let mut stdout = child.stdout.take().expect("stdout was asked for");
    let mut word = [0; 6];
    let said = timeout(TIMEOUT, stdout.read_exact(&mut word)).await;
    if !matches!(said, Ok(Ok(_))) || word != *b"ready\n" {
        return Err(io::Error::other(stderr_tail(&mut child).await));
    }
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    let holder = ProcessIdentity::of(pid).ok_or(io::ErrorKind::NotFound)?;
    let namespace = namespace_of(holder).ok_or(io::ErrorKind::NotFound)?;
    let record = Record { host_boot_id: host_boot_id()?, holder, namespace, pasta };
    record.write(state)?;
    failpoint::hit("network.recorded").await;
    child.stdin.take().expect("stdin was asked for").write_all(b"go").await?;
    failpoint::hit("network.held").await;
    reap(child);
    Ok(record)
}

/// Starts pasta for the holder, recorded before it begins. No port of the host is forwarded into the namespace, and no
/// address in it leads to the host's loopback.
pub(super) async fn uplink(program: &Path, record: &mut Record, state: &Path) -> io::Result<Child> {
    // The shell becomes pasta when it reads a line, and ends when the daemon does before that.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read -r go && exec \"$0\" \"$@\" < /dev/null"]).arg(program);
    command.args(["--foreground", "--quiet", "-4", "--config-net", "--ns-ifname", UPLINK, "--no-map-gw"]);
    let [address, gateway] = UPLINK_ADDRESSES.map(|address| address.to_string());
    command.args(["--address", &address, "--netmask", UPLINK_NETMASK, "--gateway", &gateway]);
    command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    if rustix::process::geteuid().is_root() {
        // pasta would otherwise switch to nobody, who may not join the namespace.
        command.args(["--runas", "0"]);
    }
    command.arg(record.holder.pid.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/").process_group(0);
    let mut child = command.spawn()?;
    let process = child.id().and_then(ProcessIdentity::of).ok_or(io::ErrorKind::NotFound)?;
    failpoint::hit("uplink.spawned").await;
    let recorded = Record { pasta: Some(process), ..record.clone() };
    recorded.write(state)?;
    *record = recorded;
    failpoint::hit("uplink.recorded").await;
    child.stdin.take().expect("stdin was asked for").write_all(b"go\n").await?;
    failpoint::hit("uplink.begun").await;
    Ok(child)
}

/// Ends a child and returns what it said on stderr.
pub(super) async fn stderr_tail(child: &mut Child) -> String {
    let _ = child.start_kill();
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = timeout(TIMEOUT, stderr.take(MAX_STDERR as u64).read_to_end(&mut words)).await;
    }
    as_message(&words)
}

/// Reads a child's stderr until it closes, and returns the tail. A child whose stderr nobody reads blocks once the pipe
/// is full, and a guest can make pasta write.
pub(super) async fn drain_stderr(mut child: Child) -> String {
    let mut words = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        while matches!(stderr.read_buf(&mut words).await, Ok(1..)) {
            words.drain(..words.len().saturating_sub(MAX_STDERR));
        }
    }
    let _ = child.wait().await;
    as_message(&words)
}

fn as_message(bytes: &[u8]) -> String {
    let words = String::from_utf8_lossy(bytes);
    let words = words.trim().trim_start_matches("bangerd-root: ");
    if words.is_empty() { "it ended without a word".to_owned() } else { words.to_owned() }
}

/// Waits for a child in the background, so that it does not stay a zombie. The child runs on when the task is dropped.
pub(super) fn reap(mut child: Child) {
    tokio::spawn(async move { child.wait().await });
}

/// Kills one of the network's processes; no error if it is gone.
pub(super) fn end(process: ProcessIdentity) {
    if let Err(error) = kill_proven(process, Signal::KILL) {
        tracing::warn!(pid = process.pid, %error, "cannot end a process of the network");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, path::PathBuf};

    /// A record with this process as holder.
    pub(in crate::network) fn record() -> Record {
        let holder = ProcessIdentity::of(std::process::id()).unwrap();
        Record { host_boot_id: host_boot_id().unwrap(), holder, namespace: 0, pasta: None }
    }

    /// A state directory, a record with this process, and a program in pasta's place that runs `does` there and stays.
    pub(in crate::network) fn fake_pasta(does: &str) -> (tempfile::TempDir, Record, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("pasta");
        let line = format!("#!/bin/sh\ncd '{}' && {does} && exec sleep 1000\n", temp.path().display());
        fs::write(&program, line).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (temp, record(), program)
    }

    /// Copies the record as it is when the program begins.
    const KEEPS: &str = "cp network.json begun";

    #[tokio::test]
    async fn a_way_out_is_on_record_before_it_begins() {
        let (temp, mut record, program) = fake_pasta(KEEPS);
        let mut child = uplink(&program, &mut record, temp.path()).await.unwrap();
        let begun = temp.path().join("begun");
        let read = || fs::read(&begun).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        let seen = timeout(TIMEOUT, async {
            loop {
                match read() {
                    Some(seen) => break seen,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        assert_eq!(seen.await.unwrap(), record);
        let pasta = record.pasta.unwrap();
        assert_eq!((Some(pasta.pid), Record::read(temp.path()).unwrap().unwrap()), (child.id(), record.clone()));
        end(pasta);
        child.wait().await.unwrap();
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_down_does_not_begin() {
        let (temp, mut record, program) = fake_pasta(KEEPS);
        let nowhere = temp.path().join("gone");
        uplink(&program, &mut record, &nowhere).await.unwrap_err();
        assert_eq!(record.pasta, None);
        assert!(!temp.path().join("begun").exists());
    }

    #[tokio::test]
    async fn of_what_is_said_the_end_is_kept() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "head -c 200000 /dev/zero | tr '\\0' x >&2; echo the end >&2"]);
        let words = drain_stderr(command.stderr(Stdio::piped()).spawn().unwrap()).await;
        assert!(words.ends_with("xthe end") && words.len() < MAX_STDERR, "{}: {words}", words.len());
        assert_eq!(drain_stderr(Command::new("true").stderr(Stdio::piped()).spawn().unwrap()).await, as_message(b""));
    }
}
