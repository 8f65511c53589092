//! Arbitrary bytes as a guest's console output.

#![no_main]

use banger_daemon::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::console(data));
