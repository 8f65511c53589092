//! The console log of a VM on the host: its last lines for errors, and all of it for `vm logs`.
//!
//! The shim writes `console.log`. At half the size limit it renames the file to `console.log.1` and starts a new one.

mod reader;

use super::live_state::StateWatch;
use banger_artifacts::program::escaped;
use bytes::Bytes;
use reader::Reader;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc;

/// File name of the log in the VM's directory.
pub(crate) const FILE: &str = "console.log";
/// Number of lines that an error quotes.
pub(crate) const QUOTED_LINES: usize = 12;
/// Number of bytes at the end of the log that are searched for those lines.
const QUOTED_BYTES: u64 = 8 << 10;
/// Longest line that an error quotes, in characters.
pub(crate) const QUOTED_LINE: usize = 200;
/// Polling interval of a followed log. The file cannot report that it grew.
const POLL_EVERY: Duration = Duration::from_millis(150);

/// Returns the last lines of the console, escaped because the guest wrote them. Empty when there is nothing to quote.
pub(super) fn last_lines(directory: &Path) -> Vec<String> {
    end(&directory.join(FILE), QUOTED_BYTES).map_or_else(|_| Vec::new(), |bytes| quoted(&bytes))
}

/// Returns the last lines of a text, escaped.
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

/// Sends the console's bytes: the last `tail` lines or everything. With `follow` it also sends what comes later, until
/// the VM's machine has ended, even if another one follows. Ends early when the receiver is dropped.
pub(crate) async fn send(
    directory: PathBuf,
    tail: Option<usize>,
    follow: bool,
    mut state: StateWatch,
    out: mpsc::Sender<io::Result<Bytes>>,
) {
    let path = directory.join(FILE);
    let mut reader = Reader::new(path);
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
        // Read the state before the file, so that everything written before the machine's end is seen after it.
        let live = state.is_live();
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
            () = tokio::time::sleep(POLL_EVERY) => {}
            () = state.changed() => {}
            () = out.closed() => return,
        }
        first = Ok(reader);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_is_said_of_a_console_that_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
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
