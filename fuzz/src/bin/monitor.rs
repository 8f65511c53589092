//! What a monitor says on its QMP socket: any bytes.

#![no_main]

use banger_daemon::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::monitor(data));
