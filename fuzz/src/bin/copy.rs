//! Archives from a guest: any bytes change nothing outside the name they may make.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::archive(data));
