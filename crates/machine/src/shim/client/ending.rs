//! Ends a machine whose guest may have unwritten data, through a shim that may not respond.

use super::{Shim, ShimError};
use crate::{
    process::ProvenProcess,
    shim::{control::ExitRecord, power_off},
};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::{Instant, timeout};

impl Shim {
    /// Ends the machine: at once where the shim answers, and it then has `limit` to end. A stopped shim is continued
    /// first. A shim that hangs for another reason accepts the request like any other without acting on it. It is then
    /// told by signal to power off its guest, like one that cannot be reached, and the returned error describes the
    /// outcome.
    pub async fn end_and_wait(&self, limit: Duration) -> Result<ExitRecord, String> {
        let began = Instant::now();
        self.wake();
        if !self.connection.is_silent().await {
            match self.end().await {
                Ok(()) => {
                    if let Ok(end) = timeout(limit, self.ended()).await {
                        return Ok(end);
                    }
                    let ended = power_off::end_slow(self.status().shim, limit, self.connection.state_dir()).await;
                    return ended.map_or_else(Err, |(_, remark)| Err(remark));
                }
                Err(ShimError::Ended(end)) => return Ok(end),
                Err(_) => {}
            }
        }
        match power_off::end_silent(self.status().shim, began.elapsed(), self.connection.state_dir()).await {
            Ok((_, remark)) | Err(remark) => Err(remark),
        }
    }

    /// Kills the VMM directly, when the shim does not; `false` when it has not ended within `limit`. The shim itself is
    /// killed later, when the machine's resources are released.
    pub async fn kill_vmm(&self, limit: Duration) -> bool {
        let Some(vmm) = self.status().vmm else { return true };
        match ProvenProcess::open(vmm) {
            Ok(Some(process)) => process.signal(Signal::KILL).is_ok() && timeout(limit, process.ended()).await.is_ok(),
            Ok(None) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record,
        shim::{
            client::connection::tests::greet,
            control::{EXIT_FILE, ExitCause, SOCKET},
        },
    };
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_shim_that_stands_still_on_its_connection_is_told_to_end_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let end = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
        record::write(dir.path(), "prepared", &end).unwrap();
        let (mut process, identity) = power_off::tests::shim(dir.path(), &format!("mv prepared {EXIT_FILE}; exit 0"));
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let (shim, served) = tokio::join!(Shim::connect(dir.path(), dir.path()), greet(&listener, identity));
        // The connection exists, and nobody reads from it or accepts another.
        let remark = shim.unwrap().end_and_wait(Duration::from_secs(1)).await.unwrap_err();
        assert!(remark.starts_with(&format!("its shim (pid {}) did not answer for ", identity.pid)), "{remark}");
        assert!(remark.ends_with(" s: its guest was told to power off"), "{remark}");
        assert!(process.wait().unwrap().success(), "it was killed");
        drop((served, listener));
    }
}
