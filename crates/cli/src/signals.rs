//! Termination signals as a stream, so that banger can clean up before it ends.
//!
//! A signal that was ignored when banger started (nohup, a background job of a script) stays ignored.

use crate::exit::{Error, Result, internal};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) const SIGHUP: u8 = 1;
pub(crate) const SIGINT: u8 = 2;
pub(crate) const SIGQUIT: u8 = 3;
pub(crate) const SIGTERM: u8 = 15;

/// Stream of HUP, INT, QUIT and TERM, from its creation until the process ends.
#[derive(Debug)]
pub(crate) struct Signals {
    hup: Option<Signal>,
    int: Option<Signal>,
    quit: Option<Signal>,
    term: Option<Signal>,
}

impl Signals {
    /// Replaces the default action of the signals, which would end the process.
    pub(crate) fn install() -> Result<Self> {
        let ignored = ignored_signals();
        let one = |number: u8| {
            if ignored & (1 << (number - 1)) != 0 {
                return Ok(None);
            }
            signal(SignalKind::from_raw(i32::from(number)))
                .map(Some)
                .map_err(|error| internal("cannot catch signals", &error))
        };
        Ok(Self { hup: one(SIGHUP)?, int: one(SIGINT)?, quit: one(SIGQUIT)?, term: one(SIGTERM)? })
    }

    /// Returns the number of the next signal.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            () = one(&mut self.hup) => SIGHUP,
            () = one(&mut self.int) => SIGINT,
            () = one(&mut self.quit) => SIGQUIT,
            () = one(&mut self.term) => SIGTERM,
        }
    }

    /// Runs `work` unless a signal comes first; the error then has the message `on_interrupt`.
    pub(crate) async fn guard<T>(&mut self, on_interrupt: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            signal = self.next() => Err(Error::Interrupted { signal, on_interrupt: on_interrupt.to_owned() }),
            result = work => result,
        }
    }
}

async fn one(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Mask of ignored signals, bit n-1 for signal n, as in proc(5); 0 if it cannot be read.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_ignores_broken_pipes() {
        assert_ne!(ignored_signals() & (1 << 12), 0, "SIGPIPE is 13");
    }

    #[test]
    fn a_signal_comes_out_of_the_stream() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let signal = runtime.block_on(async {
            let mut signals = Signals::install().unwrap();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
            signals.next().await
        });
        assert_eq!(signal, SIGTERM);
    }
}
