//! Archives from a guest: arbitrary bytes change nothing outside the name they may create.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::archive(data));
