//! The line of a hybrid-vsock handshake: arbitrary bytes.

#![no_main]

use banger_link::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::line(data));
