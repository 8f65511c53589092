//! Arbitrary bytes as a guest agent's messages in an exec session.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::exec(data));
