//! What a guest's agent answers to an archive, early or late: any bytes.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::put(data));
