//! Arbitrary bytes as Firecracker's answers on its API socket.

#![no_main]

use banger_machine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::api(data));
