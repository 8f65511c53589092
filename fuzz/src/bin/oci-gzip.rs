//! Layers compressed with gzip: any bytes unpack to what zlib makes of them, or are refused where it refuses them.

#![no_main]

use banger_artifacts::oci::fuzzing;
use flate2::bufread::MultiGzDecoder;
use libfuzzer_sys::fuzz_target;
use std::io::Read as _;

/// More than that nobody looks at.
const MOST: u64 = 8 << 20;

fuzz_target!(|data: &[u8]| {
    let mut theirs = Vec::new();
    let is_good = MultiGzDecoder::new(data).take(MOST).read_to_end(&mut theirs).is_ok();
    match fuzzing::gzip(data) {
        // Of a checksum that is wrong and of what may follow a stream we think otherwise.
        Ok(ours) if is_good => assert_eq!(ours, theirs),
        Ok(ours) => assert!(ours.starts_with(&theirs)),
        Err(error) => assert!(!is_good, "{error}"),
    }
});
