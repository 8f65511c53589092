//! Layers compressed with gzip: arbitrary bytes unpack to the same as with zlib, or are refused if zlib refuses them.

#![no_main]

use banger_artifacts::oci::fuzzing;
use flate2::bufread::MultiGzDecoder;
use libfuzzer_sys::fuzz_target;
use std::io::Read as _;

/// Most bytes that are compared.
const MOST: u64 = 8 << 20;

fuzz_target!(|data: &[u8]| {
    let mut theirs = Vec::new();
    let is_good = MultiGzDecoder::new(data).take(MOST).read_to_end(&mut theirs).is_ok();
    match fuzzing::gzip(data) {
        // We differ from zlib on a wrong checksum and on trailing bytes.
        Ok(ours) if is_good => assert_eq!(ours, theirs),
        Ok(ours) => assert!(ours.starts_with(&theirs)),
        Err(error) => assert!(!is_good, "{error}"),
    }
});
