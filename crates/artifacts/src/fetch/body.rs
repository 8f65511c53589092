//! Reader side of a download.

use super::{
    BodyLength, Client, FetchError, Head, POLL, Refused,
    min_rate::MinRate,
    transfer::{Event, Transfer},
};
use crate::job::Job;
use std::{
    fmt,
    io::{self, BufRead, Read},
    time::{Duration, Instant},
};

/// Interval between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// Body of a response. A failed read has no details: [`Self::failure`] and [`Self::finish`] have the reason.
pub struct Body<'a> {
    transfer: Transfer,
    head: Head,
    job: Job<'a>,
    min_rate: MinRate,
    /// Maximum length, and the exact length if it is known.
    max: u64,
    expected: Option<u64>,
    chunk: Vec<u8>,
    /// Number of received bytes in `chunk`, and of those that were consumed.
    filled: usize,
    consumed: usize,
    received: u64,
    reported: Option<Instant>,
    sha256: Option<String>,
    failure: Option<FetchError>,
}

/// Summary of a body that was read completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Length in bytes.
    pub length: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl<'a> Body<'a> {
    /// Waits for the head of the response and compares the announced length with `length`.
    pub(super) fn begin(
        transfer: Transfer,
        length: BodyLength,
        client: &Client,
        job: &Job<'a>,
    ) -> Result<Self, FetchError> {
        let mut refused: Option<(Instant, Box<Refused>)> = None;
        let head = loop {
            job.cancel.check()?;
            // The request failed; an error page that arrives slowly is not waited for any longer.
            if let Some((_, refused)) = refused.take_if(|(since, _)| since.elapsed() >= client.stall) {
                return Err(FetchError::Status(refused));
            }
            match transfer.next(POLL) {
                None => {}
                Some(Event::Head(head)) => break head,
                Some(Event::Refused(said)) => {
                    let since = refused.map_or_else(Instant::now, |(since, _)| since);
                    refused = Some((since, said));
                }
                Some(Event::Failed(error)) => return Err(error),
                Some(Event::Chunk(..) | Event::End(_)) => unreachable!("a body comes after its head"),
            }
        };
        let (max, expected) = match (length, head.length) {
            (BodyLength::Exactly(expected), Some(announced)) if announced != expected => {
                return Err(FetchError::Announced { announced, expected });
            }
            (BodyLength::Exactly(expected), _) => (expected, Some(expected)),
            (BodyLength::UpTo(max), Some(announced)) if announced > max => return Err(FetchError::TooLarge(max)),
            (BodyLength::UpTo(max), announced) => (max, announced),
        };
        Ok(Self {
            transfer,
            head,
            job: *job,
            min_rate: MinRate::new(client.stall, client.min_rate),
            max,
            expected,
            chunk: Vec::new(),
            filled: 0,
            consumed: 0,
            received: 0,
            reported: None,
            sha256: None,
            failure: None,
        })
    }

    /// Returns the head of the response.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns how many bytes were received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the received bytes that were not consumed.
    pub fn ahead(&self) -> &[u8] {
        &self.chunk[self.consumed..self.filled]
    }

    /// Takes the reason why reading failed, if it did.
    pub fn failure(&mut self) -> Option<FetchError> {
        self.failure.take()
    }

    /// Reads the rest and returns the summary of the whole.
    pub fn finish(mut self) -> Result<Received, FetchError> {
        loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if let Some(sha256) = self.sha256.take() {
                return Ok(Received { length: self.received, sha256 });
            }
            self.advance()?;
        }
    }

    /// Waits for the next chunk or the end.
    fn advance(&mut self) -> Result<(), FetchError> {
        let event = loop {
            self.job.cancel.check()?;
            let since = Instant::now();
            let event = self.transfer.next(POLL);
            let came = if let Some(Event::Chunk(_, filled)) = &event { *filled as u64 } else { 0 };
            let paced = self.min_rate.waited(since.elapsed(), came);
            match event {
                Some(event @ (Event::End(_) | Event::Failed(_))) => break event,
                event => {
                    paced.map_err(|slow| slow.into_error(self.received + came))?;
                    if let Some(event) = event {
                        break event;
                    }
                }
            }
        };
        match event {
            Event::Chunk(chunk, filled) => {
                let old = std::mem::replace(&mut self.chunk, chunk);
                if !old.is_empty() {
                    self.transfer.recycle(old);
                }
                (self.filled, self.consumed) = (filled, 0);
                self.received += filled as u64;
                if self.received > self.max {
                    return Err(FetchError::TooLarge(self.max));
                }
                self.report();
                Ok(())
            }
            Event::End(sha256) => match self.expected {
                Some(expected) if expected != self.received => {
                    Err(FetchError::Short { received: self.received, expected })
                }
                _ => {
                    if self.expected.is_none() {
                        self.job.progress.advance(self.received, None);
                    }
                    self.sha256 = Some(sha256);
                    Ok(())
                }
            },
            Event::Failed(error) => Err(error),
            Event::Head(_) | Event::Refused(_) => unreachable!("there is one head"),
        }
    }

    /// Reports progress: the end in any case, but not each of thousands of chunks a second.
    fn report(&mut self) {
        let ended = Some(self.received) == self.expected;
        if ended || self.reported.is_none_or(|last| last.elapsed() >= REPORT_EVERY) {
            self.reported = Some(Instant::now());
            self.job.progress.advance(self.received, self.expected);
        }
    }
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("received", &self.received)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl BufRead for Body<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.consumed == self.filled && self.sha256.is_none() {
            if self.failure.is_none()
                && let Err(failure) = self.advance()
            {
                self.failure = Some(failure);
            }
            if self.failure.is_some() {
                return Err(io::Error::other("the download failed"));
            }
        }
        Ok(self.ahead())
    }

    fn consume(&mut self, n: usize) {
        self.consumed = self.filled.min(self.consumed + n);
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
