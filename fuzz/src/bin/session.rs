//! What a guest's agent says when it is asked for an exec session: any bytes, from the head of its answer on.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::session(data));
