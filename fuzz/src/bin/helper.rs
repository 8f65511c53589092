//! Frames to the network helper: arbitrary bytes of any user are refused, or lead to rules that name only interfaces
//! and sets of that user's VMs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/root-helper/tests/it/judge.rs"]
mod judge;

fuzz_target!(|data: &[u8]| {
    judge::bytes(data);
});
