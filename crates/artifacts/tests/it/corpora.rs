//! What fuzzing and people came up with in the place of archives with images and of images' bundles; `fuzz/` has the targets
//! that add to it. Each file is tried as it is and packed, and its name says whether it is refused.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use banger_artifacts::{
    image::unpack_image_bundle,
    job::{Cancel, Job, Silent},
    oci::hostile,
};
use std::{fs, io::Read as _, path::Path};

/// Each file of a corpus with what it is to be read as: itself, and packed.
fn replay(corpus: &str, read: impl Fn(&[u8], &Path) -> Result<(), String>, left: &[&str]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(corpus);
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        let outcomes = [bytes.clone(), zstd::encode_all(bytes.as_slice(), 1).unwrap()].map(|bytes| {
            let dir = tempfile::tempdir().unwrap();
            let outcome = read(&bytes, dir.path());
            let names =
                fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            assert!(names.into_iter().all(|there| left.contains(&there.as_str())), "{name}");
            outcome
        });
        let [.., packed] = &outcomes;
        assert_eq!(packed.is_err(), name.starts_with("refused-"), "{name}: {packed:?}");
        count += 1;
    }
    assert!(count >= 8, "{count} files");
}

#[test]
fn archives_with_images() {
    let read = |bytes: &[u8], work: &Path| {
        let files = hostile::archive(bytes, work).map_err(|error| format!("{error:?}"))?;
        assert!(files > 0);
        Ok(())
    };
    replay("oci-archives", read, &["archive.tar"]);
}

#[test]
fn bundles_of_images() {
    let read = |bytes: &[u8], into: &Path| {
        let (progress, cancel) = (Silent, Cancel::default());
        let unpacked = unpack_image_bundle(bytes, into, &Job { progress: &progress, cancel: &cancel });
        unpacked.map(drop).map_err(|error| format!("{error:?}"))
    };
    replay("image-bundle", read, &["rootfs.ext4"]);
}

#[test]
fn layers_compressed_with_gzip() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/oci-gzip");
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        let (ours, mut zlibs) = (hostile::gzip(&bytes), Vec::new());
        let theirs = flate2::bufread::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut zlibs);
        assert_eq!(ours.is_err(), name.starts_with("refused-"), "{name}: {ours:?}");
        match ours {
            Ok(ours) => assert!(theirs.is_ok() && ours == zlibs, "{name}"),
            Err(_) => assert!(theirs.is_err(), "{name}"),
        }
        count += 1;
    }
    assert!(count >= 14, "{count} files");
}
