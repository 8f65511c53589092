//! The guest channel: any bytes, as either end of the pipe takes them.

#![no_main]

use banger_link::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::pipe(data));
