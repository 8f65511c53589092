//! Random bytes from the host's kernel, for ids, launches and the seed of a guest's random pool.

use data_encoding::HEXLOWER;
use std::{fs::File, io::Read};

/// Returns `n` random bytes.
pub fn bytes(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    File::open("/dev/urandom")
        .and_then(|mut device| device.read_exact(&mut bytes))
        .expect("every Linux has /dev/urandom");
    bytes
}

/// Returns `n` random bytes in lower-case hexadecimal.
pub fn hex(n: usize) -> String {
    HEXLOWER.encode(&bytes(n))
}
