//! Pulls onto a disk that the cache of layers and the image share, and that has no room for both.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::Layer,
    registry::{Content, Host, chain, names, reference},
};
use crate::{ext4::Image, full::Tmpfs};
use banger_testkit::require;

/// Bytes of each of the two layers, which do not compress.
const LAYER: usize = 6 << 20;

fn noise(mut state: u64) -> Vec<u8> {
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    (0..LAYER).map(next).collect()
}

#[test]
fn the_image_has_the_room_before_the_cache() {
    if !require("mount") {
        return;
    }
    let content = Content::default();
    let contents = [noise(1), noise(2)];
    let layers: Vec<_> =
        contents.iter().zip(["a", "b"]).map(|(noise, name)| Layer::new().file(name, noise).done()).collect();
    content.plain("v1", &layers);
    let server = content.serve();
    let dir = tempfile::tempdir().unwrap();
    // The image takes a little more than its layers. There is room for both; for the image and one layer, or part of
    // one; for the image alone; and for neither.
    for (size, fits) in [("40m", true), ("22m", true), ("19m", true), ("16m", true), ("14m", true), ("8m", false)] {
        let disk = Tmpfs::mount(&dir.path().join(size), size);
        let host = Host::within(disk.path());
        let cached = || names(&disk.path().join("blobs")).len();
        match host.pull(&reference(&server, "v1")) {
            Ok(pulled) => {
                let image = Image::open(&pulled.image.rootfs);
                assert!(fits && image.read("/a") == contents[0] && image.read("/b") == contents[1], "{size}");
                assert!(cached() < 2 || size == "40m", "{size}");
            }
            Err(error) => {
                assert!(!fits && error.is_out_of_space(), "{size}: {}", chain(&error));
                assert!(
                    chain(&error).contains("the image does not fit on its disk: No space left"),
                    "{}",
                    chain(&error)
                );
                host.nothing_left();
                assert_eq!(cached(), 0, "what takes the room of an image is of no use");
            }
        }
    }
}
