//! The greeting that both ends exchange before frames: a magic and a nonce, found in any garbage that the pipe holds.

use banger_proto::agent::link::NONCE_LEN;

/// Size of a magic, in bytes.
const MAGIC: usize = 16;
/// Size of a greeting (magic and nonce), in bytes.
pub(crate) const GREETING: usize = MAGIC + NONCE_LEN;

/// Number that ties a reply to its hello.
pub(crate) type Nonce = [u8; NONCE_LEN];

/// A magic with its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) magic: [u8; MAGIC],
    pub(crate) nonce: Nonce,
}

impl Greeting {
    pub(crate) fn bytes(self) -> [u8; GREETING] {
        let mut bytes = [0; GREETING];
        bytes[..MAGIC].copy_from_slice(&self.magic);
        bytes[MAGIC..].copy_from_slice(&self.nonce);
        bytes
    }

    /// Parses `bytes` if they begin with `magic`.
    pub(crate) fn parse(magic: [u8; MAGIC], bytes: [u8; GREETING]) -> Option<Self> {
        let (head, tail) = bytes.split_at(MAGIC);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(tail);
        (head == magic).then_some(Self { magic, nonce })
    }
}

/// Returns a nonce that no other session of this machine has. It is no secret. No byte of it is 0, the version that
/// every frame begins with, so that no header can be found in the middle of a greeting.
pub(crate) fn fresh_nonce() -> Nonce {
    use std::hash::{BuildHasher, Hasher};
    let mut nonce = [0; NONCE_LEN];
    for half in nonce.chunks_exact_mut(8) {
        // Seeded by the operating system once, then different for each state.
        let state = std::hash::RandomState::new().build_hasher().finish();
        half.copy_from_slice(&state.to_ne_bytes());
    }
    nonce.map(|byte| byte.max(1))
}

/// Searches a stream of bytes for one magic, and takes the nonce after it. Holds 32 bytes at most.
#[derive(Debug)]
pub(crate) struct Scanner {
    magic: [u8; MAGIC],
    found: usize,
    nonce: Nonce,
}

impl Scanner {
    pub(crate) fn new(magic: [u8; MAGIC]) -> Self {
        Self { magic, found: 0, nonce: [0; NONCE_LEN] }
    }

    /// Consumes bytes up to and including a whole greeting; returns its nonce and how many bytes were consumed. `None`
    /// means that all were.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<(Nonce, usize)> {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.found < MAGIC {
                // The first byte of a magic occurs in it only once, so no other position can begin a new match.
                let matches = byte == self.magic[self.found];
                self.found = if matches { self.found + 1 } else { usize::from(byte == self.magic[0]) };
                continue;
            }
            self.nonce[self.found - MAGIC] = byte;
            self.found += 1;
            if self.found == GREETING {
                self.found = 0;
                return Some((self.nonce, index + 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::agent::link::{HELLO, REPLY};
    use proptest::prelude::*;

    #[test]
    fn the_first_byte_of_a_magic_occurs_once() {
        for magic in [HELLO, REPLY] {
            assert!(!magic[1..].contains(&magic[0]));
        }
    }

    proptest! {
        #[test]
        fn a_greeting_is_found_in_any_garbage_and_any_chunks(
            garbage in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..16,
            chunk in 1_usize..40,
            nonce: Nonce,
        ) {
            // Includes a truncated greeting, and its longest prefixes.
            let mut bytes = garbage.clone();
            bytes.extend(&HELLO[..cut]);
            bytes.extend(Greeting { magic: HELLO, nonce }.bytes());
            prop_assume!(!garbage.windows(MAGIC).any(|window| window == HELLO));
            let mut scanner = Scanner::new(HELLO);
            let mut taken = 0;
            let mut found = None;
            for piece in bytes.chunks(chunk) {
                if let Some((nonce, count)) = scanner.feed(piece) {
                    taken += count;
                    found = Some(nonce);
                    break;
                }
                taken += piece.len();
            }
            prop_assert_eq!(found, Some(nonce));
            prop_assert_eq!(taken, bytes.len());
        }
    }
}
