//! Arbitrary bytes as a guest agent's announcements.

#![no_main]

use banger_machine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::events(data));
