//! Image bundles: arbitrary bytes, as a bundle and as the archive inside one, change nothing outside their directory.

#![no_main]

use banger_artifacts::{
    image::unpack_image_bundle,
    job::{Cancel, Job, Silent},
};
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|data: &[u8]| {
    unpack(data);
    // Few mutations survive the decompressor; this way all of them reach the archive.
    unpack(&zstd::encode_all(data, 1).expect("bytes in memory are packed"));
});

fn unpack(stream: &[u8]) {
    let temp = tempfile::tempdir().expect("there is room for a directory");
    let cancel = Cancel::default();
    let _ = unpack_image_bundle(stream, temp.path(), &Job { progress: &Silent, cancel: &cancel });
    let names: Vec<_> =
        fs::read_dir(temp.path()).expect("it is still there").flatten().map(|entry| entry.file_name()).collect();
    assert!(names.is_empty() || names == ["rootfs.ext4"], "{names:?}");
}
