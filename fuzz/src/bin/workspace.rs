//! Arbitrary bytes as the answers of a guest's agent and git about a workspace.

#![no_main]

use banger_cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::workspace(data));
