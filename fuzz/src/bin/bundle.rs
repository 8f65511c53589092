//! Kernel bundles: arbitrary bytes, as a bundle and as the archive inside one, change nothing outside their directory.

#![no_main]

use banger_artifacts::{
    job::{Cancel, Job, Silent},
    kernel::unpack_bundle,
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
    let (into, secret) = (temp.path().join("into"), temp.path().join("secret"));
    fs::create_dir(&into).expect("the directory is empty");
    fs::write(&secret, "secret").expect("there is room for a file");
    let cancel = Cancel::default();
    let _ = unpack_bundle(stream, &into, &Job { progress: &Silent, cancel: &cancel });
    let mut names: Vec<_> =
        fs::read_dir(temp.path()).expect("it is still there").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["into", "secret"]);
    assert_eq!(fs::read(&secret).expect("it is still there"), b"secret");
}
