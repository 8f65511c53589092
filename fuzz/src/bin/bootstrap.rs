//! What a guest's agent sends while it is to install tools: any bytes.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::bootstrap(data));
