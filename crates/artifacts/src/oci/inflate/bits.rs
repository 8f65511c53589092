//! A stream of bits, the low ones of each byte first (RFC 1951, 3.1.1).

use std::io::{self, BufRead, Read};

/// Bits that [`Bits::gather`] sees to, where the input has that many.
pub(super) const GATHERED: u32 = 56;

/// Bytes that came and were not taken are in `held`: those of `input` follow.
#[derive(Debug)]
pub(in super::super) struct Bits<R> {
    pub(super) input: R,
    /// Bits that are next, the first one lowest, and zeros above them.
    pub(super) held: u64,
    /// How many of them there are.
    pub(super) count: u32,
}

impl<R: BufRead> Bits<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, held: 0, count: 0 }
    }

    /// What the input has in memory; empty at its end.
    pub(super) fn ahead(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        self.input.fill_buf()
    }

    /// Whether nothing comes any more, behind whole bytes.
    pub(in super::super) fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.count < 8 && self.ahead()?.is_empty())
    }

    /// Passes over whole bytes up to a zero; whether there was one among so many.
    pub(in super::super) fn skips_text(&mut self, most: usize) -> io::Result<bool> {
        let mut byte = [1];
        for _ in 0..most {
            self.read_exact(&mut byte)?;
            if byte == [0] {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has at least [`GATHERED`] bits at hand, or all there are.
    pub(super) fn gather(&mut self) -> io::Result<()> {
        while self.count < GATHERED {
            let Some(&byte) = self.ahead()?.first() else { break };
            self.input.consume(1);
            self.held |= u64::from(byte) << self.count;
            self.count += 8;
        }
        Ok(())
    }

    /// Takes `count` bits of those at hand.
    pub(super) fn draw(&mut self, count: u32) -> io::Result<u32> {
        if count > self.count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Ok(u32::try_from(taken).expect("nobody takes more than 32"))
    }

    /// Goes on with the next whole byte.
    pub(super) fn align(&mut self) {
        self.held >>= self.count % 8;
        self.count -= self.count % 8;
    }
}

/// Whole bytes: the stream has to stand at one.
impl<R: BufRead> Read for Bits<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.count == 0 {
            return self.input.read(buffer);
        }
        let len = buffer.len().min((self.count / 8) as usize);
        for byte in &mut buffer[..len] {
            *byte = self.held.to_le_bytes()[0];
            self.held >>= 8;
            self.count -= 8;
        }
        Ok(len)
    }
}
