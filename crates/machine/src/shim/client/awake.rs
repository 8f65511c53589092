//! Continues a shim or a VMM that was stopped (`SIGSTOP`): while stopped it serves no request and its end goes
//! unnoticed.
//!
//! Before a machine is ended, both are continued; a daemon that looks for a shim continues only the shim. Otherwise a
//! stopped VMM is left alone: the user may have stopped it on purpose.

use super::Shim;
use crate::process::{ProcessIdentity, wake_proven};
use std::{convert::Infallible, time::Duration};

/// Interval between checks.
const TICK: Duration = Duration::from_millis(100);

/// Continues a process if it is stopped; returns a remark about it.
pub(super) fn wake(role: &str, process: ProcessIdentity) -> Option<String> {
    let pid = process.pid;
    match wake_proven(process) {
        Ok(false) => None,
        Ok(true) => {
            tracing::warn!(pid, "a {role} was stopped: it is woken");
            Some(format!("its {role} (pid {pid}) was stopped: it is woken"))
        }
        Err(error) => {
            tracing::warn!(pid, %error, "a {role} was stopped and cannot be woken");
            None
        }
    }
}

impl Shim {
    /// Continues the shim and the VMM where they are stopped; returns remarks about it.
    pub fn wake(&self) -> Vec<String> {
        let status = self.status();
        let shim = wake("shim", status.shim);
        shim.into_iter().chain(status.vmm.and_then(|vmm| wake("VMM", vmm))).collect()
    }

    /// Does the same repeatedly until cancelled: they may be stopped at any moment.
    pub async fn keep_awake(&self, on_remark: impl Fn(String)) -> Infallible {
        loop {
            self.wake().into_iter().for_each(&on_remark);
            tokio::time::sleep(TICK).await;
        }
    }
}
