//! What a guest's agent sends in an exec session: any bytes.

#![no_main]

use banger_cli::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| hostile::exec(data));
