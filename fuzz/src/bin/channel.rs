//! The guest channel: arbitrary bytes, read by either end of the pipe.

#![no_main]

use banger_link::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::pipe(data));
