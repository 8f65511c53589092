//! Compressed bytes of a layer as they arrive: counted, hashed, kept in the cache, and requested again if a connection
//! broke.

use super::{
    BlobCache, Digest,
    cache::LayerCopy,
    error::{LayerError, RegistryError},
    hashing::{HashPool, HashStream},
    layer::LayerInput,
    registry::Repository,
};
use crate::{
    fetch::{self, Body},
    job::{Cancel, Job, PartState},
};
use std::{
    fs::File,
    io::{self, BufRead, Read, Seek, SeekFrom, Take},
    time::{Duration, Instant},
};

/// Pauses between attempts that brought too little; an attempt that brings enough restarts them.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];
/// Bytes of one attempt that are enough to restart the pauses.
const ENOUGH_PROGRESS: u64 = 64 << 10;
/// Upper bound of the attempts at one blob: a registry whose connections break more often is given up.
const MAX_ATTEMPTS: usize = 200;
/// Size of a buffer in bytes.
const CHUNK: usize = 256 << 10;
/// Interval between two reports of progress, in bytes.
const REPORT_EVERY: u64 = 1 << 20;

/// Source of a layer's bytes.
pub(super) enum BlobSource<'a> {
    /// File in the cache.
    Cached(File, &'a BlobCache),
    /// Registry; the cache keeps a copy.
    Download(Box<(Download<'a>, LayerCopy)>),
    /// Part of a file of the user.
    Part(Take<File>),
}

impl BlobSource<'_> {
    /// State of a layer while its bytes are read from here.
    pub(super) fn state(&self) -> PartState {
        match self {
            Self::Cached(..) => PartState::Cached,
            Self::Download(_) => PartState::Coming,
            Self::Part(_) => PartState::Local,
        }
    }
}

/// Bytes of a layer.
///
/// They come in buffers, which are hashed after they were read ([`super::hashing`]).
pub(super) struct Blob<'a> {
    source: BlobSource<'a>,
    /// Digest they must have; a Docker archive does not name one.
    digest: Option<Digest>,
    size: u64,
    /// Hash of the bytes, if they have a digest to compare with.
    hash: Option<HashStream<'a>>,
    /// The last bytes that came, and how many of them were consumed.
    buffer: Vec<u8>,
    consumed: usize,
    /// Buffers to be filled again.
    spare: Vec<Vec<u8>>,
    /// Number of bytes that came.
    read: u64,
    reported: u64,
    /// Checked whenever bytes arrive, because they may decompress to nothing.
    cancel: &'a Cancel,
    /// Called with the number of bytes received.
    report: Box<dyn Fn(u64) + Send + 'a>,
    failure: Option<LayerError>,
    /// Whether it was read to its end and verified.
    verified: bool,
}

impl<'a> Blob<'a> {
    /// Begins to read `size` bytes. They must have the `digest`, if there is one; `report` gets how many came so far.
    pub(super) fn new(
        source: BlobSource<'a>,
        (digest, size): (Option<Digest>, u64),
        pool: &'a HashPool,
        cancel: &'a Cancel,
        report: impl Fn(u64) + Send + 'a,
    ) -> Self {
        Self {
            source,
            digest,
            size,
            hash: digest.map(|_| pool.stream()),
            buffer: Vec::new(),
            consumed: 0,
            spare: Vec::new(),
            read: 0,
            reported: 0,
            cancel,
            report: Box::new(report),
            failure: None,
            verified: false,
        }
    }

    /// Puts a verified download into the cache. Returns whether it is there.
    pub(super) fn keep_in_cache(self) -> bool {
        let (BlobSource::Download(both), Some(digest), true) = (self.source, self.digest, self.verified) else {
            return false;
        };
        both.1.keep(&digest, self.size)
    }

    fn fail(&mut self, failure: LayerError) -> io::Error {
        self.failure.get_or_insert(failure);
        io::Error::other("the layer did not come")
    }

    /// Has the buffer hashed, and returns an empty one.
    fn recycle(&mut self) -> Vec<u8> {
        self.consumed = 0;
        let read = std::mem::take(&mut self.buffer);
        match &mut self.hash {
            Some(hash) => self.spare.extend(hash.push(read)),
            None => self.spare.push(read),
        }
        let mut empty = self.spare.pop().unwrap_or_default();
        empty.clear();
        empty.reserve_exact(CHUNK);
        empty
    }

    /// Waits for the next bytes; none at the end.
    fn next(&mut self) -> io::Result<()> {
        if let Err(cancelled) = self.cancel.check() {
            return Err(self.fail(cancelled.into()));
        }
        let mut new = self.recycle();
        match &mut self.source {
            BlobSource::Cached(file, _) => drop(file.take(CHUNK as u64).read_to_end(&mut new)?),
            BlobSource::Part(part) => drop(part.take(CHUNK as u64).read_to_end(&mut new)?),
            BlobSource::Download(both) => {
                let (download, copy) = &mut **both;
                if let Err(error) = download.fill(&mut new) {
                    return Err(self.fail(error.into()));
                }
                if let Err(source) = copy.write(&new) {
                    return Err(self.fail(LayerError::Io { what: "write to the cache", source }));
                }
            }
        }
        self.read += new.len() as u64;
        self.buffer = new;
        if self.read - self.reported >= REPORT_EVERY {
            self.reported = self.read;
            (self.report)(self.read);
        }
        Ok(())
    }
}

impl BufRead for Blob<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.buffer.len() {
            self.next()?;
        }
        Ok(&self.buffer[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl LayerInput for Blob<'_> {
    fn verify(&mut self) -> Result<(), LayerError> {
        while self.failure.is_none() {
            match self.next() {
                Ok(()) if self.buffer.is_empty() => break,
                Ok(()) => {}
                Err(source) => {
                    self.failure.get_or_insert(LayerError::Io { what: "read the layer", source });
                }
            }
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let hash = self.hash.take();
        if self.read != self.size {
            return Err(LayerError::Size { is: self.read, should: self.size });
        }
        if let Some(should) = self.digest {
            let is = hash.expect("what has a digest is hashed, once").finish();
            if should != is {
                if let BlobSource::Cached(file, cache) = &self.source {
                    cache.forget(&should, file);
                }
                return Err(LayerError::Digest { is });
            }
        }
        self.verified = true;
        (self.report)(self.size);
        Ok(())
    }

    fn explain_decode_error(&mut self, error: io::Error) -> LayerError {
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        // A wrong digest would explain it. But no layer is downloaded to its end just to find that out.
        if matches!(self.source, BlobSource::Download(_)) && self.read < self.size {
            return LayerError::Decode(error);
        }
        self.verify().err().unwrap_or(LayerError::Decode(error))
    }
}

/// Download of a blob from a registry, over as many connections as it takes.
pub(super) struct Download<'a> {
    repository: &'a Repository<'a>,
    digest: Digest,
    size: u64,
    job: Job<'a>,
    body: Option<Body<'a>>,
    received: u64,
    /// Whether all bytes and the end were received.
    ended: bool,
    retry: RetryPolicy,
}

/// Decides how often a registry is asked for the rest of a blob.
#[derive(Debug, Default)]
struct RetryPolicy {
    /// Attempts so far, and those since the last that brought enough.
    attempts: usize,
    idle: usize,
    /// Bytes received before the current attempt.
    before: u64,
}

impl RetryPolicy {
    /// Returns the pause before the next attempt, if `received` bytes have arrived so far; `None` if there is no
    /// further attempt.
    fn after_failure(&mut self, received: u64) -> Option<Duration> {
        if received - self.before >= ENOUGH_PROGRESS {
            self.idle = 0;
        }
        self.attempts += 1;
        let pause = PAUSES.get(self.idle).filter(|_| self.attempts < MAX_ATTEMPTS)?;
        self.idle += 1;
        self.before = received;
        Some(*pause)
    }
}

impl<'a> Download<'a> {
    pub(super) fn new(repository: &'a Repository<'a>, digest: Digest, size: u64, job: Job<'a>) -> Self {
        Self { repository, digest, size, job, body: None, received: 0, ended: false, retry: RetryPolicy::default() }
    }

    /// Waits until the body has bytes, or all were received and there is no body.
    fn wait(&mut self) -> Result<(), RegistryError> {
        loop {
            let since = Instant::now();
            // A connection that breaks behind the last byte has delivered everything; of an empty blob only its end
            // shows that it exists.
            if self.ended || (self.received == self.size && self.size > 0 && self.body.is_none()) {
                return Ok(());
            }
            let failure = match self.attempt() {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            self.body = None;
            if !failure.passes() {
                return Err(failure);
            }
            let Some(usual) = self.retry.after_failure(self.received) else { return Err(failure) };
            tracing::info!(digest = %self.digest, received = self.received, error = %failure, "asking for the rest");
            self.repository.pause_before_retry(&failure, since, usual, &self.job)?;
        }
    }

    fn attempt(&mut self) -> Result<(), RegistryError> {
        if self.body.is_none() {
            let mut body = self.repository.blob(&self.digest, self.size, self.received, &self.job)?;
            // A server without support for ranges starts over; the bytes it repeats were handled already.
            let repeated = self.received - body.head().from;
            if io::copy(&mut body.by_ref().take(repeated), &mut io::sink()).is_err() {
                return Err(reason(&mut body).into());
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().expect("it was put there");
        // At the end one more read is made: it reveals a body longer than announced.
        match body.fill_buf().map(<[u8]>::len) {
            Ok(0) if self.received < self.size => {
                Err(fetch::FetchError::Short { received: self.received, expected: self.size }.into())
            }
            Ok(0) => {
                (self.body, self.ended) = (None, true);
                Ok(())
            }
            Ok(new) if new as u64 > self.size - self.received => Err(fetch::FetchError::TooLarge(self.size).into()),
            Ok(_) => Ok(()),
            Err(_) => Err(reason(body).into()),
        }
    }

    /// Receives bytes until the buffer is full or there are no more.
    fn fill(&mut self, buffer: &mut Vec<u8>) -> Result<(), RegistryError> {
        while buffer.len() < CHUNK {
            self.wait()?;
            let Some(body) = &mut self.body else { break };
            let taken = body.ahead().len().min(CHUNK - buffer.len());
            buffer.extend_from_slice(&body.ahead()[..taken]);
            body.consume(taken);
            self.received += taken as u64;
        }
        Ok(())
    }
}

/// Returns why a body ended early.
fn reason(body: &mut Body<'_>) -> fetch::FetchError {
    let received = body.received();
    body.failure().unwrap_or_else(|| fetch::FetchError::Broken { received, source: "it ended".into() })
}

/// Reads `size` bytes of a file from `offset` on.
pub(super) fn file_part(mut file: File, offset: u64, size: u64) -> io::Result<Take<File>> {
    file.seek(SeekFrom::Start(offset))?;
    Ok(file.take(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_layer_in_a_file_is_given_up_like_one_that_comes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 3 * CHUNK]).unwrap();
        let (pool, cancel, size) = (HashPool::default(), Cancel::default(), 3 * CHUNK as u64);
        let part = BlobSource::Part(file_part(file, 0, size).unwrap());
        let mut blob = Blob::new(part, (None, size), &pool, &cancel, |_| {});
        assert_eq!(blob.read(&mut [0; 10]).unwrap(), 10);
        cancel.cancel();
        let failure = blob.verify();
        assert!(matches!(failure, Err(LayerError::Cancelled(_))), "{failure:?}");
        assert_eq!(blob.read, CHUNK as u64, "nothing more was looked at");
    }

    /// Counts the attempts if each brings `each` bytes.
    fn attempts(each: u64) -> usize {
        let (mut retry, mut received) = (RetryPolicy::default(), 0);
        let mut count = 1;
        loop {
            received += each;
            if retry.after_failure(received).is_none() {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn attempts_that_bring_little_are_few_and_those_that_bring_enough_have_an_end_too() {
        for little in [0, 1, ENOUGH_PROGRESS / 2] {
            assert_eq!(attempts(little), PAUSES.len() + 1, "{little}");
        }
        assert_eq!(attempts(ENOUGH_PROGRESS), MAX_ATTEMPTS);
        let mut retry = RetryPolicy::default();
        let pauses = [0, 0, ENOUGH_PROGRESS, ENOUGH_PROGRESS].map(|received| retry.after_failure(received).unwrap());
        assert_eq!(pauses, [PAUSES[0], PAUSES[1], PAUSES[0], PAUSES[1]]);
    }
}
