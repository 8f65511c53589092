//! A VM's console log on the host: its end as evidence, and all of it for `vm logs`.
//!
//! The shim writes `console.log` and, at the cap, renames it to `console.log.1` and begins anew.

use super::service::Changes;
use banger_artifacts::program::escaped;
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc;

/// The log's name in the VM's directory.
pub(crate) const FILE: &str = "console.log";
/// Lines an error quotes.
pub(crate) const QUOTED_LINES: usize = 12;
/// Bytes at the end of the log that are looked at for them.
const QUOTED_BYTES: u64 = 8 << 10;
/// Longest line an error quotes, in characters.
pub(crate) const QUOTED_LINE: usize = 200;
/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;
/// How often a log that is followed is looked at. The file has no way to say that it grew.
const LOOK: Duration = Duration::from_millis(150);

/// The last lines of the console, escaped: they are the guest's words. Empty when there is nothing to quote.
pub(super) fn last_lines(directory: &Path) -> Vec<String> {
    end(&directory.join(FILE), QUOTED_BYTES).map_or_else(|_| Vec::new(), |bytes| quoted(&bytes))
}

/// The last lines of a text.
pub(crate) fn quoted(bytes: &[u8]) -> Vec<String> {
    let text = escaped(bytes);
    let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches("\\r").trim_end()).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let quoted = lines[lines.len().saturating_sub(QUOTED_LINES)..].iter();
    quoted.map(|line| line.chars().take(QUOTED_LINE).collect()).collect()
}

fn end(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sends the console's bytes: the last `tail` lines or everything, and what comes after when it is followed, until the
/// VM is down. Ends early when the receiver is gone.
pub(crate) async fn send(
    directory: PathBuf,
    tail: Option<usize>,
    follow: bool,
    mut changes: Changes,
    out: mpsc::Sender<io::Result<Bytes>>,
) {
    let path = directory.join(FILE);
    let mut reader = Reader { path, file: None };
    let mut first = tokio::task::spawn_blocking(move || {
        reader.begin(tail)?;
        Ok::<_, io::Error>(reader)
    })
    .await
    .unwrap_or_else(|error| Err(io::Error::other(error)));
    loop {
        let mut reader = match first {
            Ok(reader) => reader,
            Err(error) => return drop(out.send(Err(error)).await),
        };
        // Before reading: what is written up to the end of the VM is then surely seen after it.
        let live = changes.is_live();
        loop {
            let (again, read) = match tokio::task::spawn_blocking(move || {
                let read = reader.next();
                (reader, read)
            })
            .await
            {
                Ok(result) => result,
                Err(error) => return drop(out.send(Err(io::Error::other(error))).await),
            };
            reader = again;
            match read {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => {
                    if out.send(Ok(bytes)).await.is_err() {
                        return;
                    }
                }
                Err(error) => return drop(out.send(Err(error)).await),
            }
        }
        if !follow || !live {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = changes.changed() => {}
            () = out.closed() => return,
        }
        first = Ok(reader);
    }
}

/// Reads the two files as one, across a rotation.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    /// The file being read, which may have been renamed since.
    file: Option<File>,
}

impl Reader {
    /// Goes to where `tail` lines are left, or to the beginning.
    fn begin(&mut self, tail: Option<usize>) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        let (old, new) = (open(Path::new(&old))?, open(&self.path)?);
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

    /// What there is to read now, at most a chunk; empty at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.path)?;
            }
            let Some(file) = &mut self.file else { return Ok(Bytes::new()) };
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk)?;
            if read > 0 {
                chunk.truncate(read);
                return Ok(chunk.into());
            }
            // At the end of a file that is no longer the current one: on to the next.
            let Some(current) = open(&self.path)? else { return Ok(Bytes::new()) };
            if current.metadata()?.ino() == file.metadata()?.ino() {
                return Ok(Bytes::new());
            }
            self.file = Some(current);
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves to the beginning of the last `lines` lines; returns how many the file does not have.
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
            // The newline that ends the last line begins no other.
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
    use super::*;
    use std::fs;

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
        let mut reader = Reader { path: directory.join(FILE), file: None };
        reader.begin(tail).unwrap();
        reader
    }

    #[test]
    fn the_tail_spans_both_files() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("console.log.1"), "1\n2\n3\n").unwrap();
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
    }

    #[test]
    fn a_reader_follows_a_rotation() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join(FILE);
        fs::write(&log, "one\n").unwrap();
        let mut reader = begin(temp.path(), None);
        assert_eq!(read(&mut reader), "one\n");
        File::options().append(true).open(&log).and_then(|mut file| io::Write::write_all(&mut file, b"two\n")).unwrap();
        fs::rename(&log, temp.path().join("console.log.1")).unwrap();
        fs::write(&log, "three\n").unwrap();
        assert_eq!(read(&mut reader), "two\nthree\n");
    }

    #[test]
    fn nothing_is_said_of_a_console_that_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(read(&mut begin(temp.path(), Some(5))), "");
        assert_eq!(last_lines(temp.path()), Vec::<String>::new());
    }

    #[test]
    fn quoted_lines_are_few_short_and_escaped() {
        let temp = tempfile::tempdir().unwrap();
        let mut text = (0..100).fold(String::new(), |text, n| text + "line " + &n.to_string() + "\r\n\r\n");
        text += &("\u{1b}[31m".to_owned() + &"x".repeat(500));
        fs::write(temp.path().join(FILE), text).unwrap();
        let lines = last_lines(temp.path());
        assert_eq!(lines.len(), QUOTED_LINES);
        assert_eq!(lines[0], "line 89");
        assert!(lines[11].starts_with("\\u{1b}[31mxx") && lines[11].len() <= 200, "{lines:?}");
    }
}
