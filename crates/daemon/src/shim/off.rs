//! What the shim itself asks of its guest: to power off in order, when whoever looks after the shim's processes ends them.

use banger_link::Dialer;
use banger_proto::agent::{event::Power, http::Shutdown, link::AGENT_PORT};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// How long the guest may take; then the VMM is ended. A user's manager waits longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How much of it its processes get.
const GRACE: Duration = Duration::from_secs(5);

/// Asks. What comes of it shows in the guest's last word.
pub(super) async fn ask(dialer: Dialer) -> io::Result<()> {
    timeout(PATIENCE, post(dialer)).await?
}

async fn post(dialer: Dialer) -> io::Result<()> {
    let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
    let body = serde_json::to_string(&Shutdown { verb: Power::Poweroff, grace_ms })?;
    let head = "POST /shutdown HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length:";
    let mut stream = dialer.dial(AGENT_PORT).await.map_err(io::Error::other)?;
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    // It answers once its disk has everything.
    stream.read_u8().await.map(drop)
}
