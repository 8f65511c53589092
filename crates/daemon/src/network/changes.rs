//! Notifications of changes to this host's own network: an address, a link or a route was added or removed.

#![expect(unsafe_code, reason = "the runtime wants a promise that a watched descriptor stays open")]

use banger_netlink::Socket;
use std::io;
use tokio::io::{Interest, unix::AsyncFd};

/// Subscription to the notifications.
#[derive(Debug)]
pub(super) struct Changes(AsyncFd<Socket>);

impl Changes {
    pub(super) fn subscribe() -> io::Result<Self> {
        // SAFETY: the descriptor belongs to the socket, which the value owns and never gives away.
        Ok(Self(unsafe { AsyncFd::register_with_interest(Socket::changes()?, Interest::READABLE) }?))
    }

    /// Waits for the next change; several changes may be reported as one. Safe to cancel: no change is lost.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let any = ready.get_inner_mut().drain()?;
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}
