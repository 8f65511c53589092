//! Guest text on a terminal: arbitrary bytes, in arbitrary pieces.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::terminal(data));
