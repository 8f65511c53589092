//! Arbitrary bytes as QEMU's messages on its QMP socket.

#![no_main]

use banger_machine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::qmp(data));
