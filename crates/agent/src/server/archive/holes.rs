//! Zeroes on their way into a new file become holes: a disk image that is mostly nothing stays small in the guest.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

/// What a file system gives room in.
const BLOCK: usize = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 32 * BLOCK;

/// Copies into files. Its buffer outlives a file: a tree of small ones would spend its time in making them.
#[derive(Debug)]
pub(super) struct Copier {
    buffer: Vec<u8>,
}

impl Copier {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; CHUNK] }
    }

    /// Copies all of `from` into `to`, which is new and empty; gives how many bytes that were.
    pub(super) fn copy(&mut self, from: &mut dyn Read, to: &File) -> io::Result<u64> {
        let (mut total, mut hole) = (0_u64, 0_u64);
        loop {
            let count = fill(from, &mut self.buffer)?;
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                let zero = is_zero(rest);
                let blocks = rest.chunks(BLOCK).take_while(|block| is_zero(block) == zero);
                let (run, tail) = rest.split_at(blocks.map(<[u8]>::len).sum());
                if zero {
                    hole += run.len() as u64;
                } else {
                    to.write_all_at(run, total + hole)?;
                    (total, hole) = (total + hole + run.len() as u64, 0);
                }
                rest = tail;
            }
            if count < CHUNK {
                break;
            }
        }
        if hole > 0 {
            to.set_len(total + hole)?;
        }
        Ok(total + hole)
    }
}

/// Whether the first block is nothing but zeroes; one cut short, at the end of a file, never is: it costs nothing.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.get(..BLOCK).is_some_and(|block| block.iter().all(|byte| *byte == 0))
}

/// Reads until the buffer is full or there is no more.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeroes_become_holes_and_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sparse");
        let content = [vec![0; 1 << 20], vec![1; 10], vec![0; (1 << 20) + 3]].concat();
        assert_eq!(
            Copier::new().copy(&mut content.as_slice(), &File::create(&path).unwrap()).unwrap(),
            content.len() as u64
        );
        assert!(std::fs::read(&path).unwrap() == content);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 64 << 10);
    }
}
