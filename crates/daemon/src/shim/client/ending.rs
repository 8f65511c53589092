//! Ending a machine whose guest may have things to write, through a shim that may not be listening.

use super::{Shim, ShimError};
use crate::{
    process::ProvenProcess,
    shim::{control::ExitRecord, off},
};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::{Instant, timeout};

impl Shim {
    /// Ends the machine, at once where the shim answers, and then it may take `limit`: how it ended. One that was stopped
    /// goes on for it. One that stands still for another reason takes this request like every other, and nothing comes of it:
    /// it is told to end its machine in order, as one is that cannot be reached, and the error is what there is to say about
    /// that.
    pub(crate) async fn put_down(&self, limit: Duration) -> Result<ExitRecord, String> {
        let began = Instant::now();
        self.wake();
        if !self.connection.is_silent().await {
            match self.end().await {
                Ok(()) => {
                    if let Ok(end) = timeout(limit, self.ended()).await {
                        return Ok(end);
                    }
                    let ended = power_off::end_slow(self.status().shim, limit, self.connection.state_dir()).await;
                    return ended.map_or_else(Err, |(_, words)| Err(words));
                }
                Err(ShimError::Ended(end)) => return Ok(end),
                Err(_) => {}
            }
        }
        match power_off::end_silent(self.status().shim, began.elapsed(), self.connection.state_dir()).await {
            Ok((_, words)) | Err(words) => Err(words),
        }
    }

    /// Kills the VMM over the head of a shim that does not; `false` when it has not ended within `limit`. The shim is left
    /// to be killed by who gives back what the machine held.
    pub(crate) async fn kill_vmm(&self, limit: Duration) -> bool {
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
        // The connection is there, and nobody reads from it or takes another.
        let words = shim.unwrap().put_down(Duration::from_secs(1)).await.unwrap_err();
        assert!(words.starts_with(&format!("its shim (pid {}) did not answer for ", identity.pid)), "{words}");
        assert!(words.ends_with(" s: its guest was told to power off"), "{words}");
        assert!(process.wait().unwrap().success(), "it was killed");
        drop((served, listener));
    }
}
