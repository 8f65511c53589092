//! A registry's answers: arbitrary bytes, as a manifest, a list and a configuration, are read or refused.

#![no_main]

use banger_artifacts::oci::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drop(fuzzing::documents(data)));
