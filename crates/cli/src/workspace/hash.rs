//! Hash functions that name a repository's objects.

use banger_proto::agent::workspace::HashName;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// Incremental hash.
pub(super) enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub(super) fn new(name: HashName) -> Self {
        match name {
            HashName::Sha1 => Self::Sha1(Sha1::new()),
            HashName::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
        }
    }
}

/// Hashes bytes.
pub(super) fn of(name: HashName, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(name);
    hasher.update(bytes);
    hasher.finish()
}
