//! Downloads, for blocking code.
//!
//! One request, one stream of bytes, hashed while it arrives; nothing is stored, resumed or unpacked. Decides which
//! addresses are allowed ([`Address`]), how slow a server may be, and that the body ends where it was announced;
//! refuses to know what the bytes are.
//!
//! Each download has a network thread of its own: it reads and hashes while the caller decompresses and writes, and the
//! caller can stop at any time, even while a name server does not answer.

mod address;
mod body;
mod client_certificate;
mod error;
mod failure;
mod min_rate;
mod proxy;
mod purpose;
mod refusal;
mod request;
mod tls;
mod tls_error;
mod transfer;
mod trust;
mod verifier;

pub use address::{Address, AddressError};
pub use body::{Body, Received};
pub use error::{FetchError, Refused};
pub use proxy::Proxies;
pub use request::{Request, Secret};
pub use tls_error::TlsError;
pub use transfer::Head;
pub use trust::{PassedOver, Trust};

use crate::job::Job;
use std::time::{Duration, Instant};
use transfer::Transfer;

/// Minimum rate in bytes per second: that of a telephone line. The largest bundle takes a day and a half at this rate.
const MIN_RATE: u64 = 8 << 10;
/// Interval at which a wait checks for cancellation.
const POLL: Duration = Duration::from_millis(25);
/// Minimum length of a wait that the user is notified of.
pub(crate) const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// HTTP client: timeouts, minimum rate and retries of downloads.
#[derive(Debug, Clone)]
pub struct Client {
    /// Timeout of name resolution and of connecting, each.
    pub connect: Duration,
    /// Timeout of a response, and the length of the periods over which the rate is measured.
    pub stall: Duration,
    /// Minimum rate in bytes per second over each such period. With a body whose length is known or limited, it ends
    /// every download.
    pub min_rate: u64,
    /// Pauses before further attempts to connect; there is one attempt per pause.
    pub pauses: Vec<Duration>,
    /// Proxies to ask other hosts through.
    pub proxies: Proxies,
}

/// Expected length of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// Exactly so many bytes.
    Exactly(u64),
    /// At most so many bytes.
    UpTo(u64),
}

impl Default for Client {
    fn default() -> Self {
        let pauses = [200, 1000, 3000].map(Duration::from_millis).to_vec();
        // As for all programs, the proxies are those of this one's environment.
        let proxies = Proxies::in_environment(|name| std::env::var_os(name));
        let (connect, stall) = (Duration::from_secs(15), Duration::from_secs(30));
        Self { connect, stall, min_rate: MIN_RATE, pauses, proxies }
    }
}

impl Client {
    /// Requests `address`; retries if no connection is made. The response's head has arrived when this returns; the
    /// body is read from the returned value.
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

    /// Makes one request. The response's head has arrived when this returns.
    pub fn ask<'a>(&self, request: &Request, length: BodyLength, job: &Job<'a>) -> Result<Body<'a>, FetchError> {
        Body::begin(Transfer::start(request.clone(), self)?, length, self, job)
    }

    /// Downloads a small file: at most `max` bytes.
    pub fn read(&self, address: &Address, max: u64, job: &Job<'_>) -> Result<Vec<u8>, FetchError> {
        let mut body = self.open(address, BodyLength::UpTo(max), job)?;
        let mut bytes = Vec::new();
        // `finish` returns the failure, with its reason.
        let _ = std::io::Read::read_to_end(&mut body, &mut bytes);
        body.finish()?;
        Ok(bytes)
    }
}

/// Pauses before a request to `host` is repeated; the failed one was made at `since`. Notifies the user, unless the
/// wait is short.
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

/// Sleeps; returns early if the job is cancelled.
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
