//! The agent's end of a pseudo-terminal.

use super::super::pollable::pollable;
use banger_proto::agent::exec::TerminalSize;
use rustix::{
    fd::OwnedFd,
    fs::{Gid, Mode, OFlags, Uid, fchmod, fchown},
    io::{Errno, read, write},
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use std::io;
use tokio::io::unix::AsyncFd;

/// Group of terminals on every distribution.
const TTY_GROUP: u32 = 5;
/// End of transmission, which a terminal's line discipline treats as the end of input.
const EOT: &[u8] = b"\x04";

/// Master of a pseudo-terminal.
#[derive(Debug)]
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Opens a terminal of this size; returns it with its slave.
    pub(super) fn open(size: TerminalSize, owner: Option<u32>) -> io::Result<(Self, OwnedFd)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let peer = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        if let Some(uid) = owner {
            fchown(&peer, Some(Uid::from_raw(uid)), Some(Gid::from_raw(TTY_GROUP)))?;
            fchmod(&peer, Mode::from_raw_mode(0o620))?;
        }
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        let terminal = Self(pollable(master)?);
        terminal.resize(size);
        Ok((terminal, peer))
    }

    /// Changes the size; the kernel signals the foreground group.
    pub(super) fn resize(&self, size: TerminalSize) {
        let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        // Fails only once the slave is closed.
        let _ = tcsetwinsize(self.0.get_ref(), size);
    }

    /// Sends a signal to the foreground group, as the terminal's keys do.
    pub(super) fn signal(&self, signal: Signal, session: Pid) {
        let group = tcgetpgrp(self.0.get_ref()).unwrap_or(session);
        let _ = kill_process_group(group, signal);
    }

    /// Reads output; 0 means that no process has the slave open any more (EIO of the kernel).
    pub(super) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            match read(guard.get_inner(), &mut *into) {
                Ok(count) => return Ok(count),
                Err(Errno::IO) => return Ok(0),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            match write(guard.get_inner(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Signals the end of input to the reader.
    pub(super) async fn end_input(&self) -> io::Result<()> {
        self.write_all(EOT).await
    }
}
