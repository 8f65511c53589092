//! Random bytes from the host's kernel, for ids, machine ids and the seed of a guest's random pool.

use banger_proto::name::{OperationId, VmId};
use data_encoding::HEXLOWER;
use std::{fs::File, io::Read};

/// Returns `n` random bytes in lower-case hexadecimal.
pub(crate) fn hex(n: usize) -> String {
    HEXLOWER.encode(&bytes(n))
}

/// Returns a number below `end`. `end` is far below 2^32, so the bias of the remainder does not matter.
pub(crate) fn below(end: usize) -> usize {
    bytes(8).into_iter().fold(0_usize, |number, byte| (number << 8) | usize::from(byte)) % end
}

/// Generates a VM id. The store's UNIQUE constraint decides whether it is free.
pub(crate) fn vm_id() -> VmId {
    hex(6).parse().expect("12 hexadecimal digits")
}

/// Generates an operation id.
pub(crate) fn operation_id() -> OperationId {
    hex(4).parse().expect("8 hexadecimal digits")
}

fn bytes(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    File::open("/dev/urandom")
        .and_then(|mut device| device.read_exact(&mut bytes))
        .expect("every Linux has /dev/urandom");
    bytes
}
