//! Arbitrary bytes as QEMU's messages on its QMP monitor socket.

#![no_main]

use banger_daemon::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::monitor(data));
