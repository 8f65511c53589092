//! Hashes and syncs a large file while it is written.
//!
//! Both are nearly done when the last byte is written, so a download ends shortly after its last byte arrives.

use super::{archive::ArchiveError, stage::unwritten};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    panic::resume_unwind,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, channel, sync_channel},
    },
    thread::{self, JoinHandle},
};

/// Bytes hashed at once, and number of such buffers.
const PIECE: usize = 128 << 10;
const PIECES: usize = 8;
/// Bytes written between two syncs.
const STRETCH: u64 = 16 << 20;

/// A file that was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Its length.
    pub(super) length: u64,
    /// Its SHA-256, hexadecimal.
    pub(super) sha256: String,
    /// Thread that ends once the file is synced.
    pub(super) syncing: JoinHandle<io::Result<()>>,
}

/// Writes all of `content` to `file`, whose path is for errors. The error tells a bad archive from a full disk.
pub(super) fn write(file: &Arc<File>, path: &Path, content: &mut dyn Read) -> Result<Written, ArchiveError> {
    let (stretch, stretches) = channel();
    let to_disk = file.clone();
    let syncing = thread::Builder::new().name("to the disk".into()).spawn(move || sync(&to_disk, &stretches))?;
    let (length, sha256) = thread::scope(|scope| {
        let (full, filled) = sync_channel::<Vec<u8>>(PIECES);
        let (empty, emptied) = channel();
        let hashing = scope.spawn(move || {
            let mut hash = Sha256::new();
            for piece in filled {
                hash.update(&piece);
                // The receiver is gone after the last piece.
                let _ = empty.send(piece);
            }
            HEXLOWER.encode(&hash.finalize())
        });
        let mut pieces = vec![vec![0; PIECE]; PIECES];
        let (mut length, mut given) = (0, 0);
        loop {
            let mut piece = pieces.pop().unwrap_or_else(|| emptied.recv().expect("the hash takes every piece"));
            piece.resize(PIECE, 0);
            match content.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    piece.truncate(n);
                    (&**file).write_all(&piece).map_err(|source| unwritten(source, path))?;
                    length += n as u64;
                    // A panic of the hashing thread surfaces when it is joined.
                    let _ = full.send(piece);
                    if length - given >= STRETCH {
                        given = length;
                        let _ = stretch.send(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => pieces.push(piece),
                Err(error) => return Err(error.into()),
            }
        }
        drop(full);
        let _ = stretch.send(true);
        Ok::<_, ArchiveError>((length, hashing.join().unwrap_or_else(|panic| resume_unwind(panic))))
    })?;
    Ok(Written { length, sha256, syncing })
}

/// Syncs the data at each message, and everything after the last one. A channel that closes without a last message ends
/// it early.
fn sync(file: &File, stretches: &Receiver<bool>) -> io::Result<()> {
    while let Ok(mut is_last) = stretches.recv() {
        // Messages that queued up are covered by one sync.
        while let Ok(next) = stretches.try_recv() {
            is_last = next;
        }
        if is_last {
            return file.sync_all();
        }
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_and_hashed() {
        for length in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 7, usize::try_from(STRETCH).unwrap() * 2 + 1] {
            let content: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let temp = tempfile::NamedTempFile::new().unwrap();
            let file = Arc::new(temp.reopen().unwrap());
            let written = write(&file, Path::new("x"), &mut &content[..]).unwrap();
            assert_eq!((written.length, written.sha256), (length as u64, HEXLOWER.encode(&Sha256::digest(&content))));
            written.syncing.join().unwrap().unwrap();
            assert!(std::fs::read(temp.path()).unwrap() == content, "{length}");
        }
    }

    #[test]
    fn a_full_disk_is_not_the_archives_fault() {
        let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
        let error = write(&full, Path::new("a/b"), &mut &b"x"[..]).unwrap_err();
        assert_eq!(error.to_string(), "cannot write a/b");
        let cut = io::Read::chain(&b"x"[..], Broken);
        let error = write(&Arc::new(tempfile::tempfile().unwrap()), Path::new("a/b"), &mut { cut }).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the archive");
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
