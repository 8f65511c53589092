//! A layer's bytes on their way in: counted, hashed, kept, and asked for again where a connection broke.

use super::{
    BlobCache, Digest,
    error::{LayerError, RegistryError},
    hashing::InPlaceStream,
    layer::Packed,
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

/// Pauses between attempts that brought too little; one that brings enough makes them begin anew.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];
/// Bytes that are enough of one attempt.
const ENOUGH: u64 = 64 << 10;
/// Most attempts at one blob: a registry whose connections break more often than that is left.
const MAX_ATTEMPTS: usize = 200;
/// Bytes read at once of a file.
const CHUNK: usize = 256 << 10;
/// Bytes between two reports of progress.
const REPORT_EVERY: u64 = 1 << 20;

/// Where a layer's bytes come from.
pub(super) enum Origin<'a> {
    /// The cache.
    Cached(BufReader<File>, &'a BlobCache),
    /// A registry, and the cache keeps what comes.
    Download(Box<(Download<'a>, Keep<'a>)>),
    /// Part of a file of the user's.
    Part(BufReader<Take<File>>),
}

/// What the cache gets.
pub(super) struct Keep<'a> {
    pub(super) cache: &'a BlobCache,
    /// Gone where the cache has no room: the layer is good without it.
    pub(super) staged: Option<StagedFile>,
}

/// A layer's bytes.
pub(super) struct Blob<'a> {
    pub(super) origin: Option<Origin<'a>>,
    /// What they have to be; an archive of Docker's does not say it.
    pub(super) digest: Option<Digest>,
    pub(super) size: u64,
    /// There where they have a digest.
    pub(super) hash: Option<InPlaceStream<'a>>,
    /// Bytes that came, and those of them that nobody took.
    pub(super) read: u64,
    pub(super) ahead: usize,
    pub(super) reported: u64,
    /// Looked at whenever bytes come: what they unpack to may be nothing.
    pub(super) cancel: &'a Cancel,
    /// Told how many bytes came.
    pub(super) report: Box<dyn Fn(u64) + Send + 'a>,
    pub(super) failure: Option<LayerError>,
    /// It came to its end, and is what it should be.
    pub(super) whole: bool,
}

impl Blob<'_> {
    /// Has the cache keep what came from a registry and is what it should be; whether it does.
    pub(super) fn keep(self) -> bool {
        let (Some(Origin::Download(both)), Some(digest), true) = (self.origin, self.digest, self.whole) else {
            return false;
        };
        let (_, Keep { cache, staged }) = *both;
        let Some(staged) = staged else { return false };
        let kept = cache.keep(staged, &digest);
        if let Err(error) = &kept {
            // The layer is good; the next image that has it downloads it again.
            tracing::warn!(error = error as &dyn std::error::Error, "a layer cannot be kept in the cache");
        }
        kept.is_ok()
    }

    fn fail(&mut self, failure: LayerError) -> io::Error {
        self.failure.get_or_insert(failure);
        io::Error::other("the layer did not come")
    }

    /// Waits for bytes where none are ahead; they are looked at once, when they come.
    fn next(&mut self) -> io::Result<()> {
        if let Err(cancelled) = self.cancel.check() {
            return Err(self.fail(cancelled.into()));
        }
        let new = match &mut self.origin {
            Some(Origin::Cached(file, _)) => file.fill_buf()?,
            Some(Origin::Part(part)) => part.fill_buf()?,
            Some(Origin::Download(both)) => {
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
        Ok(match &mut self.origin {
            Some(Origin::Cached(file, _)) => &file.buffer()[..self.ahead],
            Some(Origin::Part(part)) => &part.buffer()[..self.ahead],
            Some(Origin::Download(both)) => &both.0.ahead()[..self.ahead],
            None => &[],
        })
    }

    fn consume(&mut self, amount: usize) {
        self.ahead -= amount;
        match &mut self.origin {
            Some(Origin::Cached(file, _)) => file.consume(amount),
            Some(Origin::Part(part)) => part.consume(amount),
            Some(Origin::Download(both)) => both.0.consume(amount),
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

impl Packed for Blob<'_> {
    fn verdict(&mut self) -> Result<(), LayerError> {
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
                if let Some(Origin::Cached(file, cache)) = &self.origin {
                    cache.forget(&should, file.get_ref());
                }
                return Err(LayerError::Digest { is });
            }
        }
        self.whole = true;
        (self.report)(self.size);
        Ok(())
    }

    fn undecodable(&mut self, error: io::Error) -> LayerError {
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        // Bytes that are not those they should be explain it. Nobody downloads a layer to its end to know that.
        if matches!(self.origin, Some(Origin::Download(_))) && self.read < self.size {
            return LayerError::Decode(error);
        }
        self.verdict().err().unwrap_or(LayerError::Decode(error))
    }
}

/// A blob of a registry, over as many connections as it takes.
pub(super) struct Download<'a> {
    repository: &'a Repository<'a>,
    digest: Digest,
    size: u64,
    job: Job<'a>,
    body: Option<Body<'a>>,
    received: u64,
    /// All of it came, and its end too.
    ended: bool,
    patience: Patience,
}

/// How often a registry is asked for the rest of a blob.
#[derive(Debug, Default)]
struct Patience {
    /// Attempts so far, and since the last that brought enough.
    attempts: usize,
    idle: usize,
    /// Bytes before the present attempt.
    before: u64,
}

impl Patience {
    /// The pause before the next attempt, where `received` bytes have come so far; `None` where there is none.
    fn after_failure(&mut self, received: u64) -> Option<Duration> {
        if received - self.before >= ENOUGH {
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
        Self { repository, digest, size, job, body: None, received: 0, ended: false, patience: Patience::default() }
    }

    /// Waits until bytes are [`Self::ahead`], or the end is there and none are.
    fn wait(&mut self) -> Result<(), RegistryError> {
        loop {
            let since = Instant::now();
            // What broke off behind the last byte is whole; of what has none, only its end says that it is there.
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
            let Some(usual) = self.patience.after_failure(self.received) else { return Err(failure) };
            tracing::info!(digest = %self.digest, received = self.received, error = %failure, "asking for the rest");
            self.repository.pause_before_retry(&failure, since, usual, &self.job)?;
        }
    }

    fn attempt(&mut self) -> Result<(), RegistryError> {
        if self.body.is_none() {
            let mut body = self.repository.blob(&self.digest, self.size, self.received, &self.job)?;
            // A server that knows no ranges begins anew; what it repeats was seen and hashed already.
            let repeated = self.received - body.head().from;
            if io::copy(&mut body.by_ref().take(repeated), &mut io::sink()).is_err() {
                return Err(reason(&mut body).into());
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().expect("it was put there");
        // At the end one more is waited for: whether there is one tells a length that was a lie.
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

    /// What came and was not taken.
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

/// Why a body ended early.
fn reason(body: &mut Body<'_>) -> fetch::FetchError {
    let received = body.received();
    body.failure().unwrap_or_else(|| fetch::FetchError::Broken { received, source: "it ended".into() })
}

/// A file, from its beginning.
pub(super) fn whole(file: File) -> BufReader<File> {
    BufReader::with_capacity(CHUNK, file)
}

/// Part of a file, from `offset` on.
pub(super) fn part(mut file: File, offset: u64, size: u64) -> io::Result<BufReader<Take<File>>> {
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
            origin: Some(Origin::Part(part(file, 0, size).unwrap())),
            digest: None,
            size,
            hash: None,
            read: 0,
            ahead: 0,
            reported: 0,
            cancel: &cancel,
            report: Box::new(|_| {}),
            failure: None,
            whole: false,
        };
        assert_eq!(blob.read(&mut [0; 10]).unwrap(), 10);
        cancel.cancel();
        let failure = blob.verdict();
        assert!(matches!(failure, Err(LayerError::Cancelled(_))), "{failure:?}");
        assert_eq!(blob.read, CHUNK as u64, "nothing more was looked at");
    }

    /// How many attempts are made of which each brings so many bytes.
    fn attempts(each: u64) -> usize {
        let (mut patience, mut received) = (Patience::default(), 0);
        let mut count = 1;
        loop {
            received += each;
            if patience.after_failure(received).is_none() {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn attempts_that_bring_little_are_few_and_those_that_bring_enough_have_an_end_too() {
        for little in [0, 1, ENOUGH / 2] {
            assert_eq!(attempts(little), PAUSES.len() + 1, "{little}");
        }
        assert_eq!(attempts(ENOUGH), MAX_ATTEMPTS);
        let mut patience = Patience::default();
        let pauses = [0, 0, ENOUGH, ENOUGH].map(|received| patience.after_failure(received).unwrap());
        assert_eq!(pauses, [PAUSES[0], PAUSES[1], PAUSES[0], PAUSES[1]]);
    }
}
