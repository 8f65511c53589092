//! Downloads, for code that blocks.
//!
//! One request, one stream of bytes, hashed on the way; nothing is kept, resumed or unpacked. Decides which addresses
//! may be asked ([`Address`]), how slow a server may be and that the end has to be where it was announced; refuses to
//! know what the bytes are.
//!
//! The network has a thread of its own per download: it reads and hashes while the caller unpacks and writes, and the
//! caller can turn away at any time, even from a name server that does not answer.

mod address;
mod body;
mod error;
mod min_rate;
mod refusal;
mod request;
mod tls;
mod transfer;

pub use address::{Address, AddressError};
pub use body::{Body, Received};
pub use error::{FetchError, Refused};
pub use request::{Request, Secret, Trust};
pub use transfer::Head;

use crate::job::Job;
use std::time::{Duration, Instant};
use transfer::Transfer;

/// Fewest bytes a second: what a telephone line carried. The largest bundle takes a day and a half at this min_rate.
const MIN_RATE: u64 = 8 << 10;
/// How often a wait looks at the cancel flag.
const POLL: Duration = Duration::from_millis(25);
/// Who waits for somebody else longer than this is told why.
pub(crate) const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// How patient downloads are.
#[derive(Debug, Clone)]
pub struct Client {
    /// How long a name server and a server may each take until there is a connection.
    pub connect: Duration,
    /// How long a server may take to answer, or to say why it does not, and over how long a stretch of waiting its min_rate is
    /// judged.
    pub stall: Duration,
    /// Fewest bytes a second that have to come over each such stretch. With a body whose length is known or limited, this
    /// is what ends every download.
    pub min_rate: u64,
    /// The pause before each further attempt to connect; there are as many further attempts.
    pub pauses: Vec<Duration>,
}

/// How much a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes, neither more nor less.
    Exactly(u64),
    /// So many bytes at most.
    UpTo(u64),
}

impl Default for Client {
    fn default() -> Self {
        let pauses = [200, 1000, 3000].map(Duration::from_millis).to_vec();
        Self { connect: Duration::from_secs(15), stall: Duration::from_secs(30), min_rate: MIN_RATE, pauses }
    }
}

impl Client {
    /// Asks for what is at `address`. The answer's head has arrived when this returns; the body is read from what is
    /// returned.
    pub fn open<'a>(&self, address: &Address, length: BodyLength, job: &Job<'a>) -> Result<Body<'a>, FetchError> {
        let request = Request::new(address.clone());
        let mut pauses = self.pauses.iter();
        loop {
            let since = Instant::now();
            match self.ask(&request, length, job) {
                Err(error) if error.is_connection() => {
                    let Some(pause) = pauses.next() else { return Err(error) };
                    tracing::info!(%address, error = %error, "connecting again");
                    pause_before_retry(address.host(), &error, since, *pause, job)?;
                }
                other => return other,
            }
        }
    }

    /// Asks once. The answer's head has arrived when this returns.
    pub fn ask<'a>(&self, request: &Request, length: BodyLength, job: &Job<'a>) -> Result<Body<'a>, FetchError> {
        Body::begin(Transfer::start(request.clone(), self)?, length, self, job)
    }

    /// All of what is at `address`, for small things: at most `max` bytes.
    pub fn read(&self, address: &Address, max: u64, job: &Job<'_>) -> Result<Vec<u8>, FetchError> {
        let mut body = self.open(address, BodyLength::UpTo(max), job)?;
        let mut bytes = Vec::new();
        // A failure is told by `finish`, with its reason.
        let _ = std::io::Read::read_to_end(&mut body, &mut bytes);
        body.finish()?;
        Ok(bytes)
    }
}

/// Pauses before `host` is asked again, which was asked `since` then and failed. Whoever waits is told, unless it is over in
/// a moment.
pub(crate) fn pause_before_retry(
    host: &str,
    failure: &dyn std::error::Error,
    since: Instant,
    pause: Duration,
    job: &Job<'_>,
) -> Result<(), FetchError> {
    if since.elapsed() + pause >= NOTICE_AFTER {
        let when = if pause < NOTICE_AFTER { String::new() } else { format!(" in {} s", pause.as_secs()) };
        job.progress.notice(&format!("{host} is asked again{when}: {failure}"));
    }
    wait(pause, job)
}

/// Sleeps, and wakes to a cancelled job.
fn wait(pause: Duration, job: &Job<'_>) -> Result<(), FetchError> {
    let until = Instant::now() + pause;
    loop {
        job.cancel.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}
