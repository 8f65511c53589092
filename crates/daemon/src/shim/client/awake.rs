//! Machines whose shim or monitor somebody stopped (`SIGSTOP`): what is asked of them nobody hears, and what becomes of them
//! nobody sees.
//!
//! Who wants such a machine to end has both go on first; a daemon that looks for a shim wakes that alone. A monitor that is held
//! still is otherwise its user's affair.

use super::Shim;
use crate::process::{ProcessIdentity, wake_proven};
use std::{convert::Infallible, time::Duration};

/// How often they are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Has one process go on if it was stopped; what there is to say about that.
pub(super) fn wake(who: &str, process: ProcessIdentity) -> Option<String> {
    let pid = process.pid;
    match wake_proven(process) {
        Ok(false) => None,
        Ok(true) => {
            tracing::warn!(pid, "a {who} was stopped: it is woken");
            Some(format!("its {who} (pid {pid}) was stopped: it is woken"))
        }
        Err(error) => {
            tracing::warn!(pid, %error, "a {who} was stopped and cannot be woken");
            None
        }
    }
}

impl Shim {
    /// Has those of the two go on that were stopped; what there is to say about it.
    pub(crate) fn wake(&self) -> Vec<String> {
        let status = self.status();
        let shim = wake("shim", status.shim);
        shim.into_iter().chain(status.vmm.and_then(|vmm| wake("VMM", vmm))).collect()
    }

    /// The same for as long as it is waited for: they may be stopped at any moment.
    pub(crate) async fn keep_awake(&self, say: impl Fn(String)) -> Infallible {
        loop {
            self.wake().into_iter().for_each(&say);
            tokio::time::sleep(TICK).await;
        }
    }
}
