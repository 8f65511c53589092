//! Layers: any stack of archives becomes a tree that can be written, or is refused, and nothing else is touched.

#![no_main]

use banger_artifacts::{
    job::{Cancel, Job, Silent},
    oci::fuzzing,
    rootfs::Format,
};
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|data: &[u8]| {
    let temp = tempfile::tempdir().expect("there is room for a directory");
    let (work, secret) = (temp.path().join("work"), temp.path().join("secret"));
    fs::create_dir(&work).expect("the directory is empty");
    fs::write(&secret, "secret").expect("there is room for a file");
    if let Ok(builder) = fuzzing::stack(data, &work) {
        let cancel = Cancel::default();
        let job = Job { progress: &Silent, cancel: &cancel };
        builder
            .finish(&work.join("image"), &Format { label: "fuzz".into(), ..Format::default() }, &job)
            .expect("what was taken can be written");
        fs::remove_file(work.join("image")).expect("it was written");
    }
    assert_eq!(fs::read_dir(&work).expect("it is still there").count(), 0);
    assert_eq!(fs::read(&secret).expect("it is still there"), b"secret");
});
