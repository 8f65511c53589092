//! Compressed bytes of a layer as they arrive: counted, hashed, kept in the cache, and requested again if a connection
//! broke.

use super::{
    BlobCache, Digest,
    error::{LayerError, RegistryError},
    hashing::InPlaceStream,
    layer::LayerInput,
    registry::Repository,
};
use crate::{
    fetch::{self, Body},
    job::{Cancel, Job},
    publish::{StagedFile, is_full},
};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take, Write},
    time::{Duration, Instant},
};

/// Pauses between attempts that brought too little; an attempt that brings enough restarts them.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];
/// Bytes of one attempt that are enough to restart the pauses.
const ENOUGH_PROGRESS: u64 = 64 << 10;
/// Upper bound of the attempts at one blob: a registry whose connections break more often is given up.
const MAX_ATTEMPTS: usize = 200;
/// Bytes read from a file at once.
const CHUNK: usize = 256 << 10;
/// Interval between two reports of progress, in bytes.
const REPORT_EVERY: u64 = 1 << 20;

/// Source of a layer's bytes.
pub(super) enum BlobSource<'a> {
    /// File in the cache.
    Cached(BufReader<File>, &'a BlobCache),
    /// Registry; the cache keeps a copy.
    Download(Box<(Download<'a>, CacheWriter<'a>)>),
    /// Part of a file of the user.
    Part(BufReader<Take<File>>),
}

/// Copy for the cache.
pub(super) struct CacheWriter<'a> {
    pub(super) cache: &'a BlobCache,
    /// `None` once the cache has no room: the layer is good without it.
    pub(super) staged: Option<StagedFile>,
}

/// Bytes of a layer.
pub(super) struct Blob<'a> {
    pub(super) source: Option<BlobSource<'a>>,
    /// Digest they must have; a Docker archive does not name one.
    pub(super) digest: Option<Digest>,
    pub(super) size: u64,
    /// Hash of the bytes, if they have a digest to compare with.
    pub(super) hash: Option<InPlaceStream<'a>>,
    /// Bytes received, and those of them that were not consumed.
    pub(super) read: u64,
    pub(super) ahead: usize,
    pub(super) reported: u64,
    /// Checked whenever bytes arrive, because they may decompress to nothing.
    pub(super) cancel: &'a Cancel,
    /// Called with the number of bytes received.
    pub(super) report: Box<dyn Fn(u64) + Send + 'a>,
    pub(super) failure: Option<LayerError>,
    /// Whether it was read to its end and verified.
    pub(super) verified: bool,
}

impl Blob<'_> {
    /// Puts a verified download into the cache. Returns whether it is there.
    pub(super) fn keep_in_cache(self) -> bool {
        let (Some(BlobSource::Download(both)), Some(digest), true) = (self.source, self.digest, self.verified) else {
            return false;
        };
        let (_, CacheWriter { cache, staged }) = *both;
        let Some(staged) = staged else { return false };
        let kept = cache.keep(staged, &digest);
        if let Err(error) = &kept {
            // The layer is good; the next image with it downloads it again.
            tracing::warn!(error = error as &dyn std::error::Error, "a layer cannot be kept in the cache");
        }
        kept.is_ok()
    }

    fn fail(&mut self, failure: LayerError) -> io::Error {
        self.failure.get_or_insert(failure);
        io::Error::other("the layer did not come")
    }

    /// Waits for new bytes. They are hashed and counted once, when they arrive.
    fn next(&mut self) -> io::Result<()> {
        if let Err(cancelled) = self.cancel.check() {
            return Err(self.fail(cancelled.into()));
        }
        let new = match &mut self.source {
            Some(BlobSource::Cached(file, _)) => file.fill_buf()?,
            Some(BlobSource::Part(part)) => part.fill_buf()?,
            Some(BlobSource::Download(both)) => {
                let (download, keep) = &mut **both;
                if let Err(error) = download.wait() {
                    return Err(self.fail(error.into()));
                }
                let new = download.ahead();
                let written = keep.staged.as_mut().map_or(Ok(()), |staged| staged.file_mut().write_all(new));
                match written {
                    Ok(()) => {}
                    Err(error) if is_full(&error) => {
                        tracing::warn!(
                            "the cache of layers is full; the next image that has this one downloads it again"
                        );
                        keep.staged = None;
                    }
                    Err(source) => return Err(self.fail(LayerError::Io { what: "write to the cache", source })),
                }
                new
            }
            None => &[],
        };
        if let Some(hash) = &mut self.hash {
            hash.update(new);
        }
        self.ahead = new.len();
        self.read += self.ahead as u64;
        if self.read - self.reported >= REPORT_EVERY {
            self.reported = self.read;
            (self.report)(self.read);
        }
        Ok(())
    }
}

impl BufRead for Blob<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ahead == 0 {
            self.next()?;
        }
        Ok(match &mut self.source {
            Some(BlobSource::Cached(file, _)) => &file.buffer()[..self.ahead],
            Some(BlobSource::Part(part)) => &part.buffer()[..self.ahead],
            Some(BlobSource::Download(both)) => &both.0.ahead()[..self.ahead],
            None => &[],
        })
    }

    fn consume(&mut self, amount: usize) {
        self.ahead -= amount;
        match &mut self.source {
            Some(BlobSource::Cached(file, _)) => file.consume(amount),
            Some(BlobSource::Part(part)) => part.consume(amount),
            Some(BlobSource::Download(both)) => both.0.consume(amount),
            None => {}
        }
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
            self.consume(self.ahead);
            match self.next() {
                Ok(()) if self.ahead == 0 => break,
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
                if let Some(BlobSource::Cached(file, cache)) = &self.source {
                    cache.forget(&should, file.get_ref());
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
        if matches!(self.source, Some(BlobSource::Download(_))) && self.read < self.size {
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

    /// Waits until bytes are [`Self::ahead`], or the end was received and there are none.
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

    /// Returns the bytes that were received and not consumed.
    fn ahead(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], Body::ahead)
    }

    fn consume(&mut self, amount: usize) {
        self.received += amount as u64;
        if let Some(body) = &mut self.body {
            body.consume(amount);
        }
    }
}

/// Returns why a body ended early.
fn reason(body: &mut Body<'_>) -> fetch::FetchError {
    let received = body.received();
    body.failure().unwrap_or_else(|| fetch::FetchError::Broken { received, source: "it ended".into() })
}

/// Reads a file from its beginning.
pub(super) fn whole_file(file: File) -> BufReader<File> {
    BufReader::with_capacity(CHUNK, file)
}

/// Reads `size` bytes of a file from `offset` on.
pub(super) fn file_part(mut file: File, offset: u64, size: u64) -> io::Result<BufReader<Take<File>>> {
    file.seek(SeekFrom::Start(offset))?;
    Ok(BufReader::with_capacity(CHUNK, file.take(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_in_a_file_is_given_up_like_one_that_comes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 3 * CHUNK]).unwrap();
        let (cancel, size) = (Cancel::default(), 3 * CHUNK as u64);
        let mut blob = Blob {
            source: Some(BlobSource::Part(file_part(file, 0, size).unwrap())),
            digest: None,
            size,
            hash: None,
            read: 0,
            ahead: 0,
            reported: 0,
            cancel: &cancel,
            report: Box::new(|_| {}),
            failure: None,
            verified: false,
        };
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
