//! Bare QEMU: starts QEMU by hand with the arguments of a real VM.
//!
//! The arguments are read from a running VMM's `/proc/<pid>/cmdline`, so both sides run the same machine; file names of
//! the confined VMM are replaced by those of its launch plan. Files the VM writes are copied before its first boot;
//! inherited descriptors are created anew: a socketpair for each socket, a memory file for guest memory.

use anyhow::{Context, Result, bail, ensure};
use banger_link::HostSession;
use banger_proto::agent::link::EVENTS_PORT;
use banger_testkit::TestEnv;
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use serde_json::Value;
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

/// Timeout of a bare boot.
const PATIENCE: Duration = Duration::from_secs(120);

/// Program, arguments and files of the machine.
pub(crate) struct Floor {
    argv: Vec<String>,
    /// The original work disk, and the copy of it that is booted.
    work_disk: (PathBuf, PathBuf),
    memory: u64,
}

impl Floor {
    /// Boots a VM of this shape once and records how its VMM was started.
    pub(crate) fn capture(env: &TestEnv, shape: &[&str]) -> Result<Self> {
        env.banger(["vm", "create", "--no-start", "--name", "floor"].iter().chain(shape)).run().expect(0);
        let id = env.vm("floor")["id"].as_str().context("an id")?.to_owned();
        let dir = env.layout().vm(&id.parse()?);
        let kept = env.home().join("floor");
        copy(&dir, &kept)?;
        env.banger(["vm", "start", "floor"]).run().expect(0);
        let vmm = env.vm_process("floor", "vmm_pid").pid;
        let cmdline = fs::read(format!("/proc/{vmm}/cmdline"))?;
        let argv = cmdline.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
        let mut argv: Vec<String> =
            argv.map(|argument| String::from_utf8(argument.to_vec())).collect::<Result<_, _>>()?;
        let plan: Value = serde_json::from_slice(&fs::read(dir.join("launch.json"))?)?;
        // A file only used at the start, kept before it is removed.
        let kept_initramfs = env.home().join("floor-initramfs");
        fs::copy(path(&plan["initramfs"])?, &kept_initramfs).context("the initramfs")?;
        env.banger(["vm", "delete", "-f", "floor"]).run().expect(0);

        // A confined VMM uses its own names of files; the host's are needed here.
        argv[0] = path(&plan["program"])?.display().to_string();
        *value(&mut argv, "-kernel")? = path(&plan["kernel"]["path"])?.display().to_string();
        *value(&mut argv, "-initrd")? = kept_initramfs.display().to_string();
        let booted = kept.join("booted");
        let mut fresh = None;
        for (index, disk) in plan["disks"].as_array().context("disks in the plan")?.iter().enumerate() {
            let mut file = path(&disk["path"])?.to_owned();
            if disk["read_only"] == false {
                ensure!(fresh.is_none(), "more than one disk the VM writes: {plan:#}");
                fresh = Some(kept.join(file.file_name().context("a file")?));
                file.clone_from(&booted);
            }
            let node = format!("node-name=disk{index},");
            let argument = argv.iter_mut().find(|argument| argument.contains(&node)).context(node)?;
            let (head, _) = argument.split_once("file.filename=").context("a disk without a file")?;
            *argument = format!("{head}file.filename={}", file.display());
        }
        let memory = plan["memory"].as_u64().context("memory in the plan")?;
        Ok(Self { argv, work_disk: (fresh.context("no disk the VM writes")?, booted), memory })
    }

    /// Measures from QEMU's start to the agent's announcement, and kills QEMU.
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
            } else if argument.starts_with("memory-backend-file,") {
                let memory = memfd_create("floor", MemfdFlags::CLOEXEC)?;
                ftruncate(&memory, self.memory)?;
                let options = argument.split(',').map(|option| match option.strip_prefix("mem-path=") {
                    Some(_) => format!("mem-path=/proc/self/fd/{}", memory.as_raw_fd()),
                    None => option.to_owned(),
                });
                *argument = options.collect::<Vec<_>>().join(",");
                inherited.push(memory);
            } else if argument.starts_with("tap,") {
                // The guest's NIC is the same; nothing answers on its other end.
                let (ours, theirs) = UnixStream::pair()?;
                let id =
                    argument.split(',').find(|option| option.starts_with("id=")).context("a card without an id")?;
                *argument = format!("socket,{id},fd={}", theirs.as_raw_fd());
                inherited.push(theirs.into());
                peers.push(ours);
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

/// Returns the argument after `option`.
fn value<'a>(argv: &'a mut [String], option: &str) -> Result<&'a mut String> {
    let at = argv.iter().position(|argument| argument == option).with_context(|| format!("no {option} in {argv:?}"))?;
    argv.get_mut(at + 1).with_context(|| format!("{option} without a value"))
}

fn path(value: &Value) -> Result<&Path> {
    Ok(Path::new(value.as_str().with_context(|| format!("no path: {value}"))?))
}

/// Copies a file or directory, keeping holes, sharing blocks where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").args(["-a", "--sparse=always", "--reflink=auto"]).args([from, to]).status()?;
    ensure!(status.success(), "cp {} {} ended with {status}", from.display(), to.display());
    Ok(())
}
