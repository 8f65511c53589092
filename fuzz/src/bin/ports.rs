//! What a guest's agent answers when it is to reach a port of the guest: any bytes.

#![no_main]

use banger_daemon::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::ports(data));
