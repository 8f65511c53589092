//! Copies that turn zeros into holes, so that a mostly empty disk image stays small at either end.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

/// Allocation unit of the file system, in bytes.
const BLOCK: usize = 4096;
/// Most bytes of one read.
const CHUNK: usize = 32 * BLOCK;

/// Copies into files. The buffer is reused: a tree of small files would spend its time in allocating it.
#[derive(Debug)]
pub struct SparseCopier {
    buffer: Vec<u8>,
}

impl Default for SparseCopier {
    fn default() -> Self {
        Self::new()
    }
}

impl SparseCopier {
    /// Creates a copier with its buffer.
    pub fn new() -> Self {
        Self { buffer: vec![0; CHUNK] }
    }

    /// Copies all of `from` into `to`, which is new and empty, and returns the number of bytes.
    pub fn copy(&mut self, from: &mut dyn Read, to: &File) -> io::Result<u64> {
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

/// Whether the first block has only zeros. A truncated block at the end of a file counts as data: it saves nothing.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.get(..BLOCK).is_some_and(|block| block.iter().all(|byte| *byte == 0))
}

/// Reads until the buffer is full or the end is reached.
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
    fn every_shape_of_zeroes_reads_back() {
        let temp = tempfile::tempdir().unwrap();
        let zeroes = |count: usize| vec![0_u8; count];
        for (n, content) in [
            zeroes(0),
            zeroes(1),
            zeroes(BLOCK * 3 + 5),
            zeroes(CHUNK * 2),
            [b"x".to_vec(), zeroes(CHUNK * 2)].concat(),
            [zeroes(CHUNK + BLOCK), b"x".to_vec()].concat(),
            [zeroes(BLOCK), vec![1; BLOCK], zeroes(BLOCK), vec![2; 10]].concat(),
            vec![7; CHUNK * 2 + 1],
        ]
        .into_iter()
        .enumerate()
        {
            let path = temp.path().join(n.to_string());
            let copied = SparseCopier::new().copy(&mut content.as_slice(), &File::create(&path).unwrap()).unwrap();
            assert_eq!(copied, content.len() as u64);
            assert!(std::fs::read(&path).unwrap() == content, "case {n}");
        }
    }

    #[test]
    fn nothing_takes_no_room() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sparse");
        SparseCopier::new().copy(&mut io::repeat(0).take(64 << 20), &File::create(&path).unwrap()).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} bytes", meta.blocks() * 512);
    }
}
