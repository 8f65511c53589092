//! Arbitrary bytes as a guest agent's answer to an archive, early or late.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::put(data));
