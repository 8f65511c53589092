//! What a guest's agent and git say of a workspace: any bytes.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::workspace(data));
