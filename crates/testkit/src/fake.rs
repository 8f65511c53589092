//! Guest of the fake VMMs: a console, and the real agent run on the host. It misbehaves on request.
//!
//! A request is a word on the kernel's command line (`fake.NAME=VALUE`) or a variable of the process that started the
//! VMM (`FAKE_QEMU_NAME=VALUE`):
//!
//! | name | value | what happens |
//! |---|---|---|
//! | `ready` | `never` | the guest boots and no agent announces itself |
//! | `fail` | any text | it goes to stderr, and the exit status is 1 |
//! | `panic` | any text | the console shows a kernel panic for that reason, and the guest resets |
//! | `timerless` | a number | so many boots of the machine find no timer, and say so |
//! | `late` | `yes` | boots of the machine find a late timer, and say so, as long as they are granted another |
//! | `reset` | `yes` | the guest resets without a message |
//! | `off` | `yes` | the guest powers off without a message |
//! | `flood` | a number | so many MiB of console come before the agent |
//! | `channel` | `garbage` | the guest writes garbage to its channel until the VMM is ended |
//! | `deaf` | `yes` | SIGTERM is ignored |
//! | `spin` | `yes` | the guest computes without a pause |
//!
//! A VM called `hostile-KIND` gets `hostile-agent` instead of the real one.
//!
//! Processes of the "guest" are in a pid namespace if this host allows one, so that they end with it as a guest's do.

#![expect(unsafe_code, reason = "processes are tied to each other, and signals ignored")]

use banger_proto::agent::boot::{CONFIG_PATH, LATE_TIMER, MOMENT_PATH, Moment, NO_TIMER};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::FdFlags,
    io::fcntl_setfd,
    process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command},
};

/// Sub-command of the guest's first process.
pub const GUEST: &str = "--guest";
/// `PATH` of the guest's processes.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// One line of a flood.
const FLOOD_LINE: &[u8] = b"[    0.100000] flood flood flood flood flood flood flood flood\r\n";
/// Layout of a cpio archive ("newc"): magic, length of the header, and offsets of the sizes of file and name.
const CPIO: (&[u8], usize, usize, usize) = (b"070701", 110, 54, 94);

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It reset.
    Reset,
    /// It powered off.
    Off,
}

/// A guest that has not booted.
#[derive(Debug)]
pub struct Guest<W> {
    /// Its serial console.
    pub console: W,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub append: String,
}

impl<W: Write> Guest<W> {
    /// Boots the guest with this end of its channel, and returns when it ends. `serves` is called right before its
    /// agent starts to serve.
    pub fn run(mut self, mut channel: UnixStream, serves: impl FnOnce()) -> io::Result<End> {
        if let Some(words) = self.request("fail") {
            return Err(io::Error::other(words));
        }
        if self.request("deaf").is_some() {
            // SAFETY: a disposition, no handler.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        }
        if self.request("spin").as_deref() == Some("yes") {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        self.console.write_all(b"[    0.000000] Linux version 6.1.0-fake\r\n")?;
        if let Some(mib) = self.request("flood").and_then(|mib| mib.parse::<usize>().ok()) {
            for _ in 0..(mib << 20) / FLOOD_LINE.len() {
                self.console.write_all(FLOOD_LINE)?;
            }
        }
        if let Some(reason) = self.request("panic") {
            write!(self.console, "[    0.200000] Kernel panic - not syncing: {reason}\r\n")?;
            return Ok(End::Reset);
        }
        if let Some(boots) = self.request("timerless").and_then(|boots| boots.parse::<usize>().ok()) {
            // The history of a machine is only kept beside its initramfs.
            let before = self.initrd.with_extension("timerless");
            let count = std::fs::read(&before).map_or(0, |marks| marks.len());
            if count < boots {
                std::fs::write(&before, vec![b'.'; count + 1])?;
                write!(self.console, "[    0.400000] banger: {NO_TIMER}\r\n")?;
                return Ok(End::Reset);
            }
        }
        if self.request("late").is_some() {
            let moment: Moment = serde_json::from_slice(&find(&std::fs::read(&self.initrd)?, MOMENT_PATH)?)?;
            if moment.timer_tries > 0 {
                write!(self.console, "[    0.400000] banger: {LATE_TIMER}\r\n")?;
                return Ok(End::Reset);
            }
        }
        if self.request("reset").is_some() {
            return Ok(End::Reset);
        }
        if self.request("off").is_some() {
            return Ok(End::Off);
        }
        if self.request("channel").as_deref() == Some("garbage") {
            serves();
            // Ends with the reader, or the process.
            while channel.write_all(b"\x00\x00\xff\xffno frame at all").is_ok() {}
            return Ok(End::Reset);
        }
        if self.request("ready").as_deref() == Some("never") {
            loop {
                std::thread::park();
            }
        }
        let mut agent = self.start(&channel)?;
        drop(channel);
        serves();
        self.console.write_all(b"[    0.300000] Run /init as init process\r\n")?;
        let status = agent.wait()?;
        if !status.success() {
            write!(self.console, "[    9.000000] Kernel panic - not syncing: the agent ended with {status}\r\n")?;
        }
        Ok(End::Reset)
    }

    /// Returns the value of a request, if it was made. VMMs get no environment, so that of the process that started
    /// this one is read.
    fn request(&self, name: &str) -> Option<String> {
        let word = format!("fake.{name}=");
        let from_words = || self.append.split(' ').find_map(|text| text.strip_prefix(&word)).map(str::to_owned);
        let variable = format!("FAKE_QEMU_{}=", name.to_ascii_uppercase());
        let environment = std::fs::read(format!("/proc/{}/environ", std::os::unix::process::parent_id()));
        let from_starter = || {
            let environment = environment.ok()?;
            let found =
                environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(variable.as_bytes()))?;
            String::from_utf8(found.to_vec()).ok()
        };
        from_words().or_else(from_starter)
    }

    /// Starts the guest's first process, which starts the agent on the channel.
    fn start(&self, channel: &UnixStream) -> io::Result<Child> {
        let config = memfd_create("config.json", MemfdFlags::empty())?;
        let words = find(&std::fs::read(&self.initrd)?, CONFIG_PATH)?;
        File::from(config.try_clone()?).write_all(&words)?;
        fcntl_setfd(channel, FdFlags::empty())?;
        let itself = std::env::current_exe()?;
        let (program, verb) = agent_of(&words);
        let agent = itself.with_file_name(program);
        // SAFETY: no descriptor table is shared or left; only children are in the new namespace.
        // Where it is not allowed, processes that the agent does not end outlive it: a poorer fake, not a wrong one.
        let _ = unsafe { unshare_unsafe(UnshareFlags::NEWPID) };
        let mut guest = Command::new(itself);
        guest.arg(GUEST).arg(agent).arg(verb).arg(channel.as_raw_fd().to_string()).arg(config.as_raw_fd().to_string());
        // Tests recognize the machine of a process by this path.
        guest.env_clear().env("PATH", PATH).env("FAKE_QEMU_INITRD", &self.initrd);
        die_with_parent(&mut guest);
        guest.spawn()
    }
}

/// Chooses the real agent, or the hostile one in a VM called `hostile-KIND`, and the agent's first argument.
fn agent_of(config: &[u8]) -> (&'static str, String) {
    let config: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
    match config["hostname"].as_str().and_then(|name| name.strip_prefix("hostile-")) {
        Some(kind) => ("hostile-agent", kind.to_owned()),
        None => ("banger-vsock-agent", "hosted".to_owned()),
    }
}

fn die_with_parent(command: &mut Command) {
    // SAFETY: one system call, no allocation.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
}

/// Runs as the guest's first process: starts the agent (which must not be the first itself: it would act as `/init`),
/// reaps orphans, and ends with the agent. The namespace ends with it.
pub fn first_process(args: &[String]) -> io::Result<()> {
    let [agent, verb, channel, config] = args else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(agent);
    command.args([verb, "--fd", channel, "--config", &format!("/proc/self/fd/{config}")]).current_dir("/");
    die_with_parent(&mut command);
    let agent = Pid::from_child(&command.spawn()?);
    loop {
        match wait(WaitOptions::empty())? {
            Some((pid, status)) if pid == agent => {
                let ended_well = status.exit_status() == Some(0);
                return if ended_well { Ok(()) } else { Err(io::Error::other(format!("the agent: {status:?}"))) };
            }
            _ => {}
        }
    }
}

/// Finds a file in an initramfs: of several archives the last one with that name counts, as for the kernel.
fn find(initrd: &[u8], path: &str) -> io::Result<Vec<u8>> {
    let (magic, header_length, file_size_at, name_size_at) = CPIO;
    let name = [path.trim_start_matches('/').as_bytes(), b"\0"].concat();
    let look = || {
        let at = initrd.windows(name.len()).rposition(|window| window == name)?;
        let header = initrd.get(at.checked_sub(header_length)?..at)?;
        let number = |at: usize| {
            let digits = std::str::from_utf8(header.get(at..at + 8)?).ok()?;
            usize::try_from(u32::from_str_radix(digits, 16).ok()?).ok()
        };
        if !header.starts_with(magic) || number(name_size_at)? != name.len() {
            return None;
        }
        let content = (at + name.len()).next_multiple_of(4);
        // Alignment is relative to the archive's start, and archives begin at multiples of four.
        Some(initrd.get(content..content.checked_add(number(file_size_at)?)?)?.to_vec())
    };
    look().ok_or_else(|| io::Error::other(format!("the initramfs has no {path}")))
}
