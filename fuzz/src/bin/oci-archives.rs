//! Image archives: arbitrary bytes, compressed or not, are read or refused, and nothing else is touched.

#![no_main]

use banger_artifacts::oci::fuzzing;
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|data: &[u8]| {
    read(data);
    // Few mutations survive the decompressor; this way all of them reach the archive.
    read(&zstd::encode_all(data, 1).expect("bytes in memory are packed"));
});

fn read(bytes: &[u8]) {
    let temp = tempfile::tempdir().expect("there is room for a directory");
    let _ = fuzzing::archive(bytes, temp.path());
    let names: Vec<_> =
        fs::read_dir(temp.path()).expect("it is still there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["archive.tar"]);
}
