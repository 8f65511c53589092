//! The terminal of this process: its size, and raw mode, which is undone on every way out.

use crate::exit::{Result, internal};
use banger_proto::agent::exec::TerminalSize;
use rustix::{
    stdio::{stderr, stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};
use std::sync::{Mutex, Once, PoisonError};

/// Size of a terminal that reports none.
const DEFAULT_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// The mode to restore, while the terminal is raw.
static COOKED: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Whether stdin is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Whether both stdin and stdout are terminals.
pub(crate) fn is_interactive() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// Returns the size of the terminal on any of the standard streams.
pub(crate) fn size() -> TerminalSize {
    [stdout(), stdin(), stderr()]
        .into_iter()
        .filter_map(|fd| tcgetwinsize(fd).ok())
        .find(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(DEFAULT_SIZE, |size| TerminalSize { cols: size.ws_col, rows: size.ws_row })
}

/// Raw mode of the terminal while this value lives. Dropping it restores the terminal; so does the panic hook, because
/// a panic in a release build drops nothing.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches the terminal on stdin to raw mode.
    pub(crate) fn enter() -> Result<Self> {
        let failed = |error: rustix::io::Errno| internal("cannot set the terminal up", &error);
        let cooked = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = cooked.clone();
        raw.make_raw();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(cooked);
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // A panic while the lock is held must not deadlock the panic hook.
    let cooked = match COOKED.try_lock() {
        Ok(mut cooked) => cooked.take(),
        Err(_) => None,
    };
    if let Some(cooked) = cooked {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &cooked);
    }
}
