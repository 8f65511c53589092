//! Text of a guest on its way to a terminal: any bytes, in any pieces.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::terminal(data));
