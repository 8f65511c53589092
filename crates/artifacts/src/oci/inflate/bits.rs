//! Bit reader, low bits of each byte first (RFC 1951, 3.1.1).

use std::io::{self, BufRead, Read};

/// Number of bits that [`Bits::refill`] makes available, if the input has that many.
pub(super) const REFILLED_BITS: u32 = 56;

/// Bit reader. The bits in `bitbuf` come before the bytes of `input`.
#[derive(Debug)]
pub(in super::super) struct Bits<R> {
    pub(super) input: R,
    /// Next bits, the first one lowest, and zeros above them.
    pub(super) bitbuf: u64,
    /// Number of bits in `bitbuf`.
    pub(super) count: u32,
}

impl<R: BufRead> Bits<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, bitbuf: 0, count: 0 }
    }

    /// Returns the buffered bytes of the input; empty at its end.
    pub(super) fn buffered(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        self.input.fill_buf()
    }

    /// Whether the input ends here, at a whole byte.
    pub(in super::super) fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.count < 8 && self.buffered()?.is_empty())
    }

    /// Skips whole bytes up to and including a zero. Returns false if there is none among `max` bytes.
    pub(in super::super) fn skip_text(&mut self, max: usize) -> io::Result<bool> {
        let mut byte = [1];
        for _ in 0..max {
            self.read_exact(&mut byte)?;
            if byte == [0] {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes at least [`REFILLED_BITS`] bits available, or all there are.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        while self.count < REFILLED_BITS {
            let Some(&byte) = self.buffered()?.first() else { break };
            self.input.consume(1);
            self.bitbuf |= u64::from(byte) << self.count;
            self.count += 8;
        }
        Ok(())
    }

    /// Takes `count` of the available bits.
    pub(super) fn take_bits(&mut self, count: u32) -> io::Result<u32> {
        if count > self.count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = self.bitbuf & ((1 << count) - 1);
        self.bitbuf >>= count;
        self.count -= count;
        Ok(u32::try_from(taken).expect("nobody takes more than 32"))
    }

    /// Skips to the next whole byte.
    pub(super) fn align(&mut self) {
        self.bitbuf >>= self.count % 8;
        self.count -= self.count % 8;
    }
}

/// Reads whole bytes: the reader has to be at one.
impl<R: BufRead> Read for Bits<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.count == 0 {
            return self.input.read(buffer);
        }
        let len = buffer.len().min((self.count / 8) as usize);
        for byte in &mut buffer[..len] {
            *byte = self.bitbuf.to_le_bytes()[0];
            self.bitbuf >>= 8;
            self.count -= 8;
        }
        Ok(len)
    }
}
