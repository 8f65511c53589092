//! Patches from a guest: any bytes are refused, or touch nothing that is not theirs.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::patch(data));
