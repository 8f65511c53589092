//! Reads a console's two files as one stream, across rotations and however slowly.
//!
//! A renamed or removed file stays readable while it is open. So nothing is lost as long as the next file is opened
//! before it is removed as well; otherwise the reader reports a gap.

use bytes::Bytes;
use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Number of bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Number of attempts to open both files without a rotation in between.
const TRIES: u32 = 8;
/// Text in place of output that was removed before it was read.
const GAP: &str = "\n[what came here is not kept any more]\n";

#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    /// The file being read. It may have been renamed or removed meanwhile.
    file: Option<File>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Seeks to the last `tail` lines, or to the beginning.
    pub(super) fn begin(&mut self, tail: Option<usize>) -> io::Result<()> {
        let (mut old, mut new) = (None, None);
        for _ in 0..TRIES {
            // The newer file is opened first. If a rotation happens in between, both are the same file, and another
            // attempt finds the next one.
            new = open(&self.path)?;
            old = open(&self.older())?;
            match (&old, &new) {
                (Some(one), Some(other)) if is_same(&one.metadata()?, &other.metadata()?) => old = None,
                _ => break,
            }
        }
        let Some(tail) = tail else {
            self.file = old.or(new);
            return Ok(());
        };
        let mut missing = tail;
        if let Some(mut new) = new {
            missing = seek_lines(&mut new, missing)?;
            self.file = Some(new);
        }
        if let Some(mut old) = old.filter(|_| missing > 0 || self.file.is_none()) {
            seek_lines(&mut old, missing)?;
            self.file = Some(old);
        }
        Ok(())
    }

    /// Reads what is there now, at most a chunk; empty at the end.
    pub(super) fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.path)?;
            }
            let Some(file) = &mut self.file else { return Ok(Bytes::new()) };
            let bytes = chunk(file)?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            let Some(next) = self.after()? else { return Ok(Bytes::new()) };
            // The rotated file no longer grows, but something may have been added between the read above and the
            // rotation.
            let bytes = self.file.as_mut().map_or(Ok(Bytes::new()), chunk)?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            self.file = Some(next.file);
            if !next.is_adjacent {
                return Ok(Bytes::from_static(GAP.as_bytes()));
            }
        }
    }

    /// Opens the file that follows the one being read; `None` while that is the last.
    fn after(&self) -> io::Result<Option<Next>> {
        let (Some(file), Some(current)) = (&self.file, open(&self.path)?) else { return Ok(None) };
        if is_same(&current.metadata()?, &file.metadata()?) {
            return Ok(None);
        }
        let Some(older) = open(&self.older())? else { return Ok(Some(Next { file: current, is_adjacent: true })) };
        // The metadata is read only now: for a removed file it tells when it was removed.
        let (read, between) = (file.metadata()?, older.metadata()?);
        if is_same(&read, &between) {
            return Ok(Some(Next { file: current, is_adjacent: true }));
        }
        // The file that was read was removed when the next one took its place, so a file created after that is not the
        // next one. Where the file system does not record creation times, no gap is reported.
        let is_adjacent = between.created().map_or(true, |born| born <= changed(&read));
        Ok(Some(Next { file: older, is_adjacent }))
    }

    fn older(&self) -> PathBuf {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        older.into()
    }
}

/// The next file to read.
#[derive(Debug)]
struct Next {
    file: File,
    /// Whether no file is missing between the two.
    is_adjacent: bool,
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn chunk(file: &mut File) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let read = file.read(&mut chunk)?;
    chunk.truncate(read);
    Ok(chunk.into())
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Returns when a file's content or metadata, such as its name, last changed.
fn changed(file: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(file.ctime()).unwrap_or(0));
    let rest = Duration::from_nanos(u64::try_from(file.ctime_nsec()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + rest
}

/// Seeks to the beginning of the last `lines` lines. Returns how many lines are missing in the file.
fn seek_lines(file: &mut File, lines: usize) -> io::Result<usize> {
    let mut at = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    let mut last = true;
    while at > 0 {
        let length = at.min(CHUNK as u64);
        at -= length;
        let piece = &mut chunk[..usize::try_from(length).expect("at most a chunk")];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(piece)?;
        for (index, byte) in piece.iter().enumerate().rev() {
            // The newline at the very end begins no further line.
            if *byte == b'\n' && !std::mem::take(&mut last) {
                found += 1;
            }
            last = false;
            if found == lines {
                file.seek(SeekFrom::Start(at + index as u64 + 1))?;
                return Ok(0);
            }
        }
    }
    file.rewind()?;
    let has = found + usize::from(!last);
    Ok(lines.saturating_sub(has))
}

#[cfg(test)]
mod tests {
    use super::{super::FILE, *};
    use std::{fs, io::Write as _, time::Instant};

    const OLDER: &str = "console.log.1";

    fn read(reader: &mut Reader) -> String {
        let mut all = Vec::new();
        loop {
            let bytes = reader.next().unwrap();
            if bytes.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            all.extend_from_slice(&bytes);
        }
    }

    fn begin(directory: &Path, tail: Option<usize>) -> Reader {
        let mut reader = Reader::new(directory.join(FILE));
        reader.begin(tail).unwrap();
        reader
    }

    fn append(directory: &Path, text: &str) {
        let log = File::options().create(true).append(true).open(directory.join(FILE));
        log.and_then(|mut log| log.write_all(text.as_bytes())).unwrap();
    }

    /// Rotates the log as the shim does.
    fn rotate(directory: &Path) {
        fs::rename(directory.join(FILE), directory.join(OLDER)).unwrap();
        append(directory, "");
    }

    #[test]
    fn the_tail_spans_both_files() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(OLDER), "1\n2\n3\n").unwrap();
        fs::write(temp.path().join(FILE), "4\n5\n").unwrap();
        for (tail, text) in [
            (None, "1\n2\n3\n4\n5\n"),
            (Some(0), ""),
            (Some(1), "5\n"),
            (Some(2), "4\n5\n"),
            (Some(3), "3\n4\n5\n"),
            (Some(99), "1\n2\n3\n4\n5\n"),
        ] {
            assert_eq!(read(&mut begin(temp.path(), tail)), text, "{tail:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_counts() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(FILE), "a\nb\nlogin: ").unwrap();
        assert_eq!(read(&mut begin(temp.path(), Some(1))), "login: ");
        assert_eq!(read(&mut begin(temp.path(), Some(2))), "b\nlogin: ");
        assert_eq!(read(&mut begin(&temp.path().join("missing"), Some(5))), "");
    }

    #[test]
    fn what_is_rotated_once_or_twice_while_nobody_reads_is_read_all_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path();
        append(log, "one\n");
        let mut reader = begin(log, None);
        assert_eq!(read(&mut reader), "one\n");
        append(log, "two\n");
        rotate(log);
        append(log, "three\n");
        assert_eq!(read(&mut reader), "two\nthree\n");
        append(log, "four\n");
        rotate(log);
        append(log, "five\n");
        rotate(log);
        append(log, "six\n");
        assert_eq!(read(&mut reader), "four\nfive\nsix\n");
    }

    #[test]
    fn what_is_gone_before_it_is_read_is_missed_aloud() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path();
        append(log, "one\n");
        let mut reader = begin(log, None);
        append(log, "two\n");
        rotate(log);
        append(log, "lost\n");
        fs::rename(log.join(FILE), log.join(OLDER)).unwrap();
        // File timestamps have a coarse resolution.
        let gone = changed(&reader.file.as_ref().unwrap().metadata().unwrap());
        let (probe, deadline) = (log.join("probe"), Instant::now() + Duration::from_secs(30));
        while File::create_new(&probe).and_then(|probe| probe.metadata()?.created()).unwrap() <= gone {
            assert!(Instant::now() < deadline, "the clock stands still");
            fs::remove_file(&probe).unwrap();
        }
        append(log, "three\n");
        rotate(log);
        append(log, "four\n");
        assert_eq!(read(&mut reader), format!("one\ntwo\n{GAP}three\nfour\n"));
    }
}
