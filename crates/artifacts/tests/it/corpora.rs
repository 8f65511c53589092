//! Replay of corpora, from fuzzing and written by hand, of documents, layers, archives with images and image bundles;
//! `fuzz/` has the targets that add to them. The name of each file says what it must be read as, or that it is refused;
//! archives and bundles are tried as they are and compressed.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use banger_artifacts::{
    image::unpack_image_bundle,
    job::{Cancel, Job, Silent},
    oci::fuzzing,
    rootfs::Format,
};
use banger_testkit::require;
use std::{fs, io::Read as _, path::Path};

/// Reads each file of a corpus, as it is and compressed, and checks that it is refused if its name says so. At most the
/// files `left` may remain.
fn replay(corpus: &str, read: impl Fn(&[u8], &Path) -> Result<(), String>, left: &[&str]) {
    let files = replayed(corpus);
    for (name, bytes) in &files {
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
    }
    assert!(files.len() >= 8, "{} files", files.len());
}

/// Returns each file of a corpus: its name and content.
fn replayed(corpus: &str) -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(corpus);
    let paths = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[test]
fn documents() {
    let files = replayed("oci-documents");
    for (name, bytes) in &files {
        let taken = fuzzing::documents(bytes);
        let taken = if taken.is_empty() { "refused".to_owned() } else { taken.join("-") };
        assert!(name.starts_with(&format!("{taken}-")), "{name} is {taken}");
    }
    // One of every kind there is.
    for kind in ["list", "manifest", "unfit", "configuration", "saved", "refused"] {
        assert!(files.iter().any(|(name, _)| name.starts_with(kind)), "{kind}");
    }
    assert!(files.len() >= 14, "{} files", files.len());
}

#[test]
fn layers() {
    let files = replayed("oci-layers");
    for (name, bytes) in &files {
        let dir = tempfile::tempdir().unwrap();
        match fuzzing::stack(bytes, dir.path()) {
            Ok(builder) => {
                assert!(!name.starts_with("refused-"), "{name} was taken");
                // What is taken is a file system too.
                let (cancel, written) = (Cancel::default(), dir.path().join("written.ext4"));
                let format = Format { label: "corpus".into(), ..Format::default() };
                builder.finish(&written, &format, &Job { progress: &Silent, cancel: &cancel }).unwrap();
                if require("e2fsck") {
                    crate::ext4::check(&written);
                }
                fs::remove_file(&written).unwrap();
            }
            Err(error) => assert!(name.starts_with("refused-"), "{name}: {error:?}"),
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
    }
    assert!(files.len() >= 28, "{} files", files.len());
}

#[test]
fn archives_with_images() {
    let read = |bytes: &[u8], work: &Path| {
        let files = fuzzing::archive(bytes, work).map_err(|error| format!("{error:?}"))?;
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
    let files = replayed("oci-gzip");
    for (name, bytes) in &files {
        let (ours, mut zlibs) = (fuzzing::gzip(bytes), Vec::new());
        let theirs = flate2::bufread::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut zlibs);
        assert_eq!(ours.is_err(), name.starts_with("refused-"), "{name}: {ours:?}");
        match ours {
            Ok(ours) => assert!(theirs.is_ok() && ours == zlibs, "{name}"),
            Err(_) => assert!(theirs.is_err(), "{name}"),
        }
    }
    assert!(files.len() >= 14, "{} files", files.len());
}
