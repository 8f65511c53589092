//! Arbitrary bytes as a guest's DNS messages, and as a resolver's answers.

#![no_main]

use banger_daemon::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::names(data));
