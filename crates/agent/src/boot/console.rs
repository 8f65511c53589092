//! Messages for the person who reads the console: one line each, through the kernel's log.

use rustix::{
    fs::{Mode, OFlags, open},
    stdio,
};
use std::{fs::OpenOptions, io::Write, sync::OnceLock};

static CONSOLE: OnceLock<Console> = OnceLock::new();

/// The kernel's log, opened before the root changes.
#[derive(Debug)]
pub(crate) struct Console(Option<std::fs::File>);

impl Console {
    fn open() -> Self {
        Self(OpenOptions::new().write(true).open("/dev/kmsg").ok())
    }
}

/// Opens a console if the kernel found none in the initramfs: otherwise the next three opened files would become
/// standard input, output and error.
pub(crate) fn adopt() {
    if let Ok(console) = open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty()) {
        let _ = stdio::dup2_stdin(&console);
        let _ = stdio::dup2_stdout(&console);
        let _ = stdio::dup2_stderr(&console);
    }
    CONSOLE.get_or_init(Console::open);
}

/// Prints one line on the console.
pub(crate) fn say(message: &str) {
    let line = format!("<3>banger: {}\n", message.replace('\n', " "));
    let console = CONSOLE.get_or_init(Console::open);
    let written = console.0.as_ref().map(|mut log| log.write_all(line.as_bytes()));
    if !matches!(written, Some(Ok(()))) {
        let _ = std::io::stderr().write_all(&line.as_bytes()[3..]);
    }
}
