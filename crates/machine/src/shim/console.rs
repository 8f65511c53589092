//! The serial console: always drained, at a bounded rate; logged up to a size limit; and scanned for the messages that
//! explain a machine's end.
//!
//! A full disk or an unwritable file must not stop the draining: a VMM that cannot write its console stops the guest. A
//! guest that floods is slowed down.

use super::{
    console_rate::{CHUNK, TokenBucket},
    control::ShimMessage,
    hub::Hub,
};
use crate::vmm::plan::Console;
use banger_artifacts::program::escaped;
use banger_proto::agent::boot::{LATE_TIMER, NO_TIMER};
use rustix::io::Errno;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::unix::pipe,
    time::{Instant, sleep, sleep_until},
};

/// Least time between two announcements of the console's size.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// Beginning of a kernel panic message.
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// Interval for polling a pipe that cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest line that is scanned, in bytes; the rest of a line is ignored.
const MAX_LINE: usize = 512;

/// A log of two files, `path` and the older `path.1`, each of at most half the limit.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    half: u64,
    file: Option<File>,
    size: u64,
}

impl Log {
    /// Opens the log, continuing an earlier one.
    pub(super) fn open(console: &Console) -> Self {
        let mut log = Self { path: console.path.clone(), half: (console.cap.bytes() / 2).max(1), file: None, size: 0 };
        log.reopen(false);
        log
    }

    fn reopen(&mut self, empty: bool) {
        let mut options = OpenOptions::new();
        options.create(true).mode(0o600);
        if empty {
            options.write(true).truncate(true)
        } else {
            options.append(true)
        };
        self.file = options.open(&self.path).ok();
        self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |file| file.len());
    }

    /// Appends bytes. Bytes that cannot be written are lost; the next ones are tried again.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.size >= self.half {
                let mut older = self.path.clone().into_os_string();
                older.push(".1");
                // If the rename fails the file is overwritten: the limit holds either way.
                let _ = fs::rename(&self.path, older);
                self.reopen(true);
            }
            if self.file.is_none() {
                self.reopen(false);
            }
            let room = usize::try_from(self.half - self.size.min(self.half)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room.max(1)));
            let Some(file) = &mut self.file else { return };
            match file.write_all(now) {
                Ok(()) => self.size += now.len() as u64,
                Err(_) => return self.file = None,
            }
            bytes = later;
        }
    }
}

/// Scans console output for known messages.
#[derive(Debug, Default)]
struct Scanner {
    line: Vec<u8>,
    findings: ConsoleFindings,
}

impl Scanner {
    fn feed(&mut self, bytes: &[u8]) {
        if self.findings.panic.is_some() {
            return;
        }
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < MAX_LINE {
                    self.line.push(*byte);
                }
                continue;
            }
            if let Some(at) = find(&self.line, PANIC) {
                self.findings.panic = Some(escaped(String::from_utf8_lossy(&self.line[at..]).trim().as_bytes()));
                return;
            }
            self.findings.bad_timer |=
                [NO_TIMER, LATE_TIMER].iter().any(|text| find(&self.line, text.as_bytes()).is_some());
            self.line.clear();
        }
    }
}

fn find(line: &[u8], text: &[u8]) -> Option<usize> {
    line.windows(text.len()).position(|window| window == text)
}

/// Finds the line of a panic on a console, as the shim does; for [`crate::fuzzing`].
pub(crate) fn panic_on(console: &[u8]) -> Option<String> {
    let mut scanner = Scanner::default();
    console.chunks(7).for_each(|piece| scanner.feed(piece));
    scanner.feed(b"\n");
    scanner.findings.panic
}

/// Messages found on the console of one boot.
#[derive(Debug, Default)]
pub(super) struct ConsoleFindings {
    /// The line of a kernel panic, escaped.
    pub(super) panic: Option<String>,
    /// The initramfs's `/init` printed [`NO_TIMER`] or [`LATE_TIMER`].
    pub(super) bad_timer: bool,
}

/// Reads available bytes, or waits for some. Cancel safe.
///
/// The runtime watches the pipe only while it is empty: watching it permanently would wake the thread for every byte
/// written, whether or not anybody waits for it.
async fn read_some(console: &OwnedFd, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(console, &mut *chunk) {
            // Clients of the published ports may have used up all descriptors; but an undrained pipe would stop the
            // guest.
            Err(Errno::AGAIN) if filled(console).await.is_err() => sleep(POLL_INTERVAL).await,
            Err(Errno::AGAIN) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Waits until there is something to read, or the last writer is gone.
async fn filled(console: &OwnedFd) -> io::Result<()> {
    pipe::Receiver::from_owned_fd(console.try_clone()?)?.readable().await
}

/// Drains the console of one boot to its end.
pub(super) async fn pump(console: OwnedFd, mut log: Log, hub: Arc<Hub>) -> (Log, ConsoleFindings) {
    let mut scanner = Scanner::default();
    let mut chunk = vec![0; CHUNK];
    let mut bucket = TokenBucket::new(Instant::now());
    let (mut total, mut announced) = (0_u64, 0_u64);
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        let ready = bucket.ready_at(CHUNK, now);
        let read = async {
            if ready > now {
                sleep_until(ready).await;
            }
            read_some(&console, &mut chunk).await
        };
        let read = tokio::select! {
            read = read => read,
            () = sleep_until(next), if total != announced => {
                announced = total;
                next = Instant::now() + ANNOUNCE_INTERVAL;
                hub.publish(&ShimMessage::Console { bytes: total });
                continue;
            }
        };
        match read {
            Ok(count @ 1..) => {
                total += count as u64;
                scanner.feed(&chunk[..count]);
                log.write(&chunk[..count]);
                // Only after the write, so that a slow disk leaves the shim time for its other work.
                bucket.take(count, Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    scanner.feed(b"\n");
    if total != announced {
        hub.publish(&ShimMessage::Console { bytes: total });
    }
    (log, scanner.findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::size::ByteSize;

    fn size(path: &std::path::Path) -> u64 {
        fs::metadata(path).map_or(0, |file| file.len())
    }

    #[test]
    fn two_files_hold_the_newest_bytes_and_never_more_than_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (path, older) = (dir.path().join("console.log"), dir.path().join("console.log.1"));
        let console = Console { path: path.clone(), cap: ByteSize(1000) };
        let mut written = Vec::new();
        for round in 0..40_u8 {
            // Reopening the log continues it, as for a restarted machine.
            let mut log = Log::open(&console);
            let bytes = vec![b'a' + round % 26; 7 + usize::from(round) * 31];
            log.write(&bytes);
            written.extend(bytes);
            assert!(size(&path) + size(&older) <= 1000, "{} + {}", size(&path), size(&older));
        }
        let kept = [fs::read(&older).unwrap(), fs::read(&path).unwrap()].concat();
        assert!(kept.len() >= 500 && written.ends_with(&kept), "{} bytes kept", kept.len());
    }

    #[test]
    fn an_unwritable_log_loses_bytes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("console.log");
        let mut log = Log::open(&Console { path: path.clone(), cap: ByteSize(100) });
        log.write(b"lost");
        fs::create_dir(dir.path().join("sub")).unwrap();
        log.write(b"kept");
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }

    #[tokio::test]
    async fn what_comes_with_pauses_and_byte_by_byte_is_kept_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let log = Log::open(&Console { path: path.clone(), cap: ByteSize::mib(1) });
        let status = serde_json::from_value(serde_json::json!({
            "version": "0", "shim": { "pid": 1, "start_time": 1 }, "vmm": null, "ready": null, "booted": null,
            "console_bytes": 0
        }));
        let hub = Arc::new(Hub::new(std::time::Instant::now(), status.unwrap()));
        let (ours, mut theirs) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        let pump = tokio::spawn(pump(ours.into(), log, hub));
        let kept = path.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let mut written = Vec::new();
            for round in 0..5_u8 {
                for number in 0..1000_u16 {
                    let byte = number.to_le_bytes()[0] ^ round;
                    theirs.write_all(&[byte]).unwrap();
                    written.push(byte);
                }
                // The pipe is now empty, and its reader waits.
                while fs::metadata(&kept).map_or(0, |file| file.len()) < written.len() as u64 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            theirs.write_all(b"Kernel panic - not syncing: last").unwrap();
            written.extend(b"Kernel panic - not syncing: last");
            written
        });
        let written = writer.await.unwrap();
        let (_, findings) = pump.await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), written);
        assert_eq!(findings.panic.as_deref(), Some("Kernel panic - not syncing: last"));
    }

    #[test]
    fn last_words_are_found_however_they_are_cut() {
        let text = b"[ 1.0] ok\r\n[    1.2] Kernel panic - not syncing: \x1b[31mVFS\r\nmore\n";
        for size in 1..text.len() {
            let mut scanner = Scanner::default();
            text.chunks(size).for_each(|chunk| scanner.feed(chunk));
            assert_eq!(scanner.findings.panic.as_deref(), Some("Kernel panic - not syncing: \\u{1b}[31mVFS"));
        }
        for words in [NO_TIMER, LATE_TIMER] {
            let text = format!("[    0.5] banger: {words}\r\n");
            for size in 1..text.len() {
                let mut scanner = Scanner::default();
                assert!(!scanner.findings.bad_timer);
                text.as_bytes().chunks(size).for_each(|chunk| scanner.feed(chunk));
                assert!(scanner.findings.bad_timer && scanner.findings.panic.is_none());
            }
        }
        let mut scanner = Scanner::default();
        scanner.feed(&vec![b'x'; 1 << 20]);
        assert!(scanner.line.len() <= MAX_LINE);
    }
}
