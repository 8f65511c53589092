//! Opens streams to the other end.

use super::{Ended, Shared, mux::OpenError, stream::Stream};
use banger_proto::agent::link::{ACCEPTED, REFUSED};
use tokio::io::AsyncReadExt;

/// Opens streams to the other end. Cheap to clone; it outlives the session and then reports how it ended.
#[derive(Debug, Clone)]
pub struct Dialer {
    shared: Shared,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nothing listens on that port at the other end.
    #[error("nothing listens on guest-channel port {0}")]
    Refused(u32),
    /// The session has the maximum number of streams.
    #[error("the guest channel has no room for another stream")]
    Full,
    /// The other end reset the stream, or sent an invalid answer.
    #[error("the other end dropped the stream to port {0}")]
    Dropped(u32),
    /// The session has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl Dialer {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// Opens a stream to `port` and waits for the other end's answer, without a limit. Dropping the future gives the
    /// stream up.
    pub async fn dial(&self, port: u32) -> Result<Stream, DialError> {
        let id = self.shared.lock().open(port).map_err(|error| match error {
            OpenError::Full => DialError::Full,
            OpenError::Ended(ended) => DialError::Ended(ended),
        })?;
        let mut stream = Stream { id, shared: self.shared.clone() };
        match stream.read_u8().await {
            Ok(ACCEPTED) => Ok(stream),
            Ok(REFUSED) => Err(DialError::Refused(port)),
            Ok(_) => Err(DialError::Dropped(port)),
            Err(_) => Err(self.shared.lock().ended().map_or(DialError::Dropped(port), DialError::Ended)),
        }
    }
}
