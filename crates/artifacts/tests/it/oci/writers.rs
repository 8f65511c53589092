//! Tests of layers and archives in the form particular programs write them.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    archives::{archive, layout_of},
    layers::{Layer, gzip, zstd},
    registry::{Content, Host, OCI_LAYER, reference},
};
use crate::ext4::{Image, check};
use banger_artifacts::program::Program;
use banger_testkit::require;
use serde_json::Value;
use std::{fs, process::Command};
use tar::EntryType;

/// Returns a skippable zstd frame: its kind, its length, any bytes.
fn skippable(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[0x50 | kind, 0x2a, 0x4d, 0x18], &length[..], content].concat()
}

#[test]
fn frames_of_zstd_that_are_passed_over() {
    let plain = Layer::new().file("a", "a").file("b", vec![7; 300_000]).done();
    let (head, tail) = plain.split_at(1000);
    let kind = format!("{OCI_LAYER}+zstd");
    let packings = [
        // As a parallel compressor writes it: one before each frame.
        [skippable(0, &[1, 2, 3, 4]), zstd(head), skippable(0, &[5, 6, 7, 8]), zstd(tail)].concat(),
        [skippable(0xf, &[]), skippable(7, &vec![0; 100_000]), zstd(&plain)].concat(),
        // With an index behind it.
        [zstd(&plain), skippable(0xe, b"table of contents")].concat(),
    ];
    let content = Content::default();
    for (number, packed) in packings.iter().enumerate() {
        content.image(&format!("v{number}"), &[(plain.clone(), packed.clone(), &kind)], &Value::Null);
    }
    let server = content.serve();
    let mut ids = Vec::new();
    for number in 0..packings.len() {
        let host = Host::new();
        let image = host.image(&reference(&server, &format!("v{number}")));
        assert_eq!(Image::open(&image.rootfs).read("/b"), vec![7; 300_000]);
        ids.push(image.manifest.id);
    }
    assert!(ids.windows(2).all(|two| two[0] == two[1]), "{ids:?}");

    // A whole archive with images.
    let host = Host::new();
    let tar = archive(&layout_of(&[("v1", vec![plain.clone()])]));
    let path = host.dir.path().join("app.tar.zst");
    fs::write(&path, [skippable(0, &[0; 4]), zstd(&tar)].concat()).unwrap();
    assert_eq!(Image::open(&host.image(&format!("oci-archive:{}", path.display())).rootfs).read("/a"), b"a");
}

#[test]
fn what_pzstd_packs() {
    if !require("registry") {
        return;
    }
    let plain = Layer::new().file("a", vec![7; 3_000_000]).done();
    let dir = tempfile::tempdir().unwrap();
    let (tar, packed) = (dir.path().join("layer.tar"), dir.path().join("layer.tar.zst"));
    fs::write(&tar, &plain).unwrap();
    let pzstd = Command::new(Program::find("pzstd").unwrap()).args(["-q", "-p", "2"]).arg(&tar).output().unwrap();
    assert!(pzstd.status.success(), "{}", String::from_utf8_lossy(&pzstd.stderr));
    let packed = fs::read(packed).unwrap();
    assert!(packed.starts_with(&[0x50, 0x2a, 0x4d, 0x18]), "it writes frames that are passed over");
    let content = Content::default();
    content.image("v1", &[(plain, packed, &format!("{OCI_LAYER}+zstd"))], &Value::Null);
    let server = content.serve();
    let host = Host::new();
    assert_eq!(Image::open(&host.image(&reference(&server, "v1")).rootfs).read("/a"), vec![7; 3_000_000]);
}

#[test]
fn what_aufs_kept_for_itself() {
    if !require("e2fsck") {
        return;
    }
    let linked = ".wh..wh.plnk/264.1031240";
    let layer = Layer::new()
        .raw(b".wh..wh.aufs", EntryType::Regular, b"", b"")
        .dir(".wh..wh.orph/")
        .file(".wh..wh.orph/gone", vec![3; 9000])
        .dir("./.wh..wh.plnk/")
        .file(&format!("./{linked}"), "several names")
        .file(".wh..wh.plnk/265.1031240", vec![4; 9000])
        .dir("bin")
        .link("bin/one", linked)
        .link("bin/two", &format!("/{linked}"))
        .file("bin/kept", "kept")
        .link("bin/again", "bin/one")
        .done();
    let above = Layer::new().file(".wh..wh.plnk/264.1031240", "of this layer").link("top", linked).done();
    let content = Content::default();
    content.image("v1", &[(layer.clone(), gzip(&layer), OCI_LAYER), (above.clone(), above, OCI_LAYER)], &Value::Null);
    let server = content.serve();
    let host = Host::new();
    let image = host.image(&reference(&server, "v1"));
    check(&image.rootfs);
    let inside = Image::open(&image.rootfs);
    for (path, text) in [
        ("/bin/one", "several names"),
        ("/bin/two", "several names"),
        ("/bin/again", "several names"),
        ("/bin/kept", "kept"),
        ("/top", "of this layer"),
    ] {
        assert_eq!(String::from_utf8(inside.read(path)).unwrap(), text, "{path}");
    }
    for path in ["/.wh..wh.plnk", "/.wh..wh.orph", "/.wh..wh.aufs"] {
        assert!(!inside.exists(path), "{path}");
    }
    // Nor is what nobody links to in the image.
    let bytes = fs::read(&image.rootfs).unwrap();
    for hidden in [3, 4] {
        assert!(!bytes.chunks(4096).any(|block| block.iter().all(|&byte| byte == hidden)), "{hidden}");
    }

    // A link to what is not there is one to nothing, here as anywhere.
    let lost = Layer::new().link("a", ".wh..wh.plnk/1.2").done();
    content.plain("lost", &[lost]);
    let refusal = Host::new().refusal(&reference(&server, "lost"));
    assert!(
        refusal.contains("layer 1 of 1") && refusal.contains("entry \"a\" cannot be stored: it is a hard link to"),
        "{refusal}"
    );
}
