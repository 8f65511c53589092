//! Bare QEMU: the arguments of a real VM, started by hand.
//!
//! The arguments are read from a running VMM's `/proc/<pid>/cmdline`, so the floor is never a different machine. Files
//! the VM writes are copied before its first boot; descriptors it inherits are made anew: a socketpair for each socket,
//! a memory file for guest memory.

use anyhow::{Context, Result, bail, ensure};
use banger_link::HostSession;
use banger_proto::agent::link::EVENTS_PORT;
use banger_testkit::TestEnv;
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Longest a bare boot may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to start, and on which files.
pub(crate) struct Floor {
    argv: Vec<String>,
    /// The work disk as it was made, and the copy of it that is booted.
    work_disk: (PathBuf, PathBuf),
    memory: u64,
}

impl Floor {
    /// Boots a VM of this shape once and keeps what its VMM was started with.
    pub(crate) fn capture(env: &TestEnv, shape: &[&str]) -> Result<Self> {
        env.banger(["vm", "create", "--no-start", "--name", "floor"].iter().chain(shape)).run().expect(0);
        let id = env.vm("floor")["id"].as_str().context("an id")?.to_owned();
        let dir = env.layout().vm(&id.parse()?);
        let kept = env.home().join("floor");
        copy(&dir, &kept)?;
        env.banger(["vm", "start", "floor"]).run().expect(0);
        let vmm = env.vm_process("floor", "vmm_pid").pid;
        let cmdline = fs::read(format!("/proc/{vmm}/cmdline"))?;
        let mut argv: Vec<String> = cmdline
            .split(|byte| *byte == 0)
            .filter(|argument| !argument.is_empty())
            .map(|argument| String::from_utf8(argument.to_vec()))
            .collect::<Result<_, _>>()?;
        argv[0] = fs::read_link(format!("/proc/{vmm}/exe"))?.display().to_string();
        // Written for this start and not needed by a VM that is up: keep it before it goes.
        let initramfs = argument(&argv, "-initrd")?;
        let kept_initramfs = env.home().join("floor-initramfs");
        fs::copy(&initramfs, &kept_initramfs).with_context(|| initramfs.clone())?;
        let memory: u64 = argument(&argv, "-m")?.trim_end_matches('M').parse()?;
        env.banger(["vm", "delete", "-f", "floor"]).run().expect(0);

        let fresh: Vec<PathBuf> = fs::read_dir(&kept)?.flatten().map(|entry| entry.path()).collect();
        let named = |path: &&PathBuf| {
            let original = dir.join(path.file_name().unwrap_or_default());
            argv.iter().any(|argument| argument.ends_with(&*original.to_string_lossy()))
        };
        let disk = fresh.iter().find(named).context("no file of the VM in the VMM's arguments")?.clone();
        let original = dir.join(disk.file_name().context("a file")?);
        let booted = kept.join("booted");
        for argument in &mut argv {
            *argument = argument.replace(&initramfs, &kept_initramfs.display().to_string());
            *argument = argument.replace(&*original.to_string_lossy(), &booted.display().to_string());
        }
        Ok(Self { argv, work_disk: (disk, booted), memory: memory << 20 })
    }

    /// From QEMU's start to the agent's announcement; QEMU is killed then.
    pub(crate) fn boot(&self) -> Result<Duration> {
        let (fresh, booted) = &self.work_disk;
        copy(fresh, booted)?;
        let mut inherited: Vec<OwnedFd> = Vec::new();
        let mut peers = Vec::new();
        let mut channel = None;
        let mut argv = self.argv.clone();
        for argument in &mut argv {
            if argument.starts_with("socket,id=") {
                let (ours, theirs) = UnixStream::pair()?;
                let (head, _) = argument.split_once("fd=").context("a socket without a descriptor")?;
                let is_channel = argument.contains("id=channel");
                *argument = format!("{head}fd={}", theirs.as_raw_fd());
                inherited.push(theirs.into());
                if is_channel { channel = Some(ours) } else { peers.push(ours) }
            } else if let Some((head, tail)) = argument.clone().split_once("/proc/self/fd/") {
                let memory = memfd_create("floor", MemfdFlags::CLOEXEC)?;
                ftruncate(&memory, self.memory)?;
                let rest = tail.trim_start_matches(|digit: char| digit.is_ascii_digit());
                *argument = format!("{head}/proc/self/fd/{}{rest}", memory.as_raw_fd());
                inherited.push(memory);
            }
        }
        let channel = channel.context("no guest channel in the VMM's arguments")?;
        for descriptor in &inherited {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let started = Instant::now();
        let mut qemu = command.spawn()?;
        drop(inherited);
        let announced = announcement(channel);
        let elapsed = started.elapsed();
        qemu.kill()?;
        qemu.wait()?;
        announced.map(|()| elapsed)
    }
}

/// Waits for the agent's first line, as the shim does.
fn announcement(channel: UnixStream) -> Result<()> {
    channel.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let announced = async {
        let channel = tokio::net::UnixStream::from_std(channel)?;
        let HostSession { dialer: _dialer, mut incoming, driver } = HostSession::open(channel).await?;
        let line = async {
            let inbound = incoming.next().await?;
            ensure!(inbound.port() == EVENTS_PORT, "the agent dialled port {}", inbound.port());
            let mut line = String::new();
            BufReader::new(inbound.accept().await).read_line(&mut line).await?;
            ensure!(line.contains("\"ready\""), "the agent's first word was {line:?}");
            Ok(())
        };
        tokio::select! {
            line = line => line,
            ended = driver.run() => bail!("the guest channel ended: {ended}"),
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, announced).await.context("no announcement")? })
}

/// The argument after `option`.
fn argument(argv: &[String], option: &str) -> Result<String> {
    let at = argv.iter().position(|argument| argument == option).with_context(|| format!("no {option} in {argv:?}"))?;
    argv.get(at + 1).cloned().with_context(|| format!("{option} without a value"))
}

/// Copies a file or directory, keeping holes, sharing blocks where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").args(["-a", "--sparse=always", "--reflink=auto"]).args([from, to]).status()?;
    ensure!(status.success(), "cp {} {} ended with {status}", from.display(), to.display());
    Ok(())
}
