//! What a Firecracker answers on its API's socket: any bytes.

#![no_main]

use banger_daemon::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::api(data));
