//! Arbitrary bytes as a guest agent's messages while it installs tools.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::bootstrap(data));
