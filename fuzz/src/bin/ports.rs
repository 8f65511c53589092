//! Arbitrary bytes as a guest agent's answer to a connection to a port.

#![no_main]

use banger_machine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::ports(data));
