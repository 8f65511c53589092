//! Patches from a guest: arbitrary bytes are refused, or touch only files of the tree.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::patch(data));
