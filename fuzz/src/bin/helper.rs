//! Frames to the network helper: any bytes, of any user, are refused, or lead to rules that name that user's and VM's own
//! interfaces and sets, and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/root-helper/tests/it/judge.rs"]
mod judge;

fuzz_target!(|data: &[u8]| {
    judge::bytes(data);
});
