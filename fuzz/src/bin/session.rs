//! Arbitrary bytes as a guest agent's answer to a request for an exec session, from its head on.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::session(data));
