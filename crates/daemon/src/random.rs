//! Random names and ids.

use banger_machine::random::bytes;
use banger_proto::name::{OperationId, VmId};

pub(crate) use banger_machine::random::hex;

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
