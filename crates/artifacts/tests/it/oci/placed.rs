//! Tests of where the contents of layers are in the image.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::{Layer, gzip},
    registry::{Content, Host, OCI_LAYER, reference},
};
use crate::{
    ext4::{Image, check},
    web::Server,
};
use banger_testkit::require;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

const BLOCK: usize = 4096;

/// Returns bytes of which no block equals that of another file or is all zeros.
fn content(file: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| if at % BLOCK == 0 { file } else { u8::try_from(at / BLOCK % 250 + 1).unwrap() }).collect()
}

/// Returns how many blocks of the image are those of such a file.
fn found(path: &Path, file: u8) -> usize {
    let whole = content(file, 250 * BLOCK);
    let image = fs::read(path).unwrap();
    let blocks: Vec<&[u8]> = whole.chunks(BLOCK).collect();
    image.chunks(BLOCK).filter(|block| blocks.contains(block)).count()
}

#[test]
fn what_an_upper_layer_hides_is_not_in_the_image() {
    if !require("e2fsck") {
        return;
    }
    let served = Content::default();
    served.plain(
        "v1",
        &[
            Layer::new()
                .file("kept", content(251, 3 << 20))
                .file("replaced", content(252, 3 << 20))
                .file("removed", content(253, 3 << 20))
                .file("last", content(254, 5))
                .done(),
            Layer::new().file("replaced", "short").file(".wh.removed", "").file("new", content(255, 100_000)).done(),
        ],
    );
    let server = served.serve();
    let host = Host::new();
    let rootfs = host.image(&reference(&server, "v1")).rootfs;
    check(&rootfs);
    let image = Image::open(&rootfs);
    assert!(image.read("/kept") == content(251, 3 << 20) && image.read("/new") == content(255, 100_000));
    assert_eq!((image.read("/replaced"), image.read("/last")), (b"short".to_vec(), content(254, 5)));
    assert_eq!(found(&rootfs, 251), (3 << 20) / BLOCK);
    assert_eq!((found(&rootfs, 252), found(&rootfs, 253)), (0, 0));
    let taken = fs::metadata(&rootfs).unwrap().blocks() * 512;
    assert!(taken < 5 << 20, "{taken} bytes on the disk");
}

#[test]
fn a_layer_that_comes_twice_gives_two_files_that_share_nothing() {
    if !require("e2fsck") {
        return;
    }
    let served = Content::default();
    let twice = Layer::new().file("way/file", content(251, 2 << 20)).file("way/small", "small").done();
    let leads_to = |place: &str| Layer::new().dir(place).symlink("way", place).done();
    let last = Layer::new().file("last", content(252, 3 << 20)).done();
    let layers = [leads_to("one"), twice.clone(), leads_to("two"), twice.clone(), last];
    served.plain("v1", &layers);
    let mut packed = layers.map(|layer| (layer.clone(), layer, OCI_LAYER));
    packed[3].1 = gzip(&twice);
    served.image("v2", &packed, &Value::Null);
    let server = served.serve();
    let host = Host::new();
    let whole = host.image(&reference(&server, "v1"));
    check(&whole.rootfs);
    // It is the same, and where it lies is, where the second is packed in another way.
    assert_eq!(host.image(&reference(&server, "v2")).manifest.id, whole.manifest.id);
    let image = Image::open(&whole.rootfs);
    for place in ["/one", "/two"] {
        assert!(image.read(format!("{place}/file")) == content(251, 2 << 20), "{place}");
        assert_eq!(image.read(format!("{place}/small")), b"small");
    }
}

#[test]
fn zeros_are_holes_wherever_a_layer_was_cut_on_its_way() {
    if !require("e2fsck") {
        return;
    }
    let mut sparse = vec![0; 9 << 20];
    for (at, len) in [(70_000, 5), (1 << 20, 300_000), ((1 << 20) + 330_000, 10), ((9 << 20) - 1, 1)] {
        sparse[at..at + len].copy_from_slice(&content(251, len));
    }
    let zeros = vec![0; 3_000_001];
    let served = Content::default();
    let layer = Layer::new().file("odd", "odd").file("sparse", &sparse).file("zeros", &zeros).file("short", [0; 5000]);
    served.plain("v1", &[layer.done()]);
    let server = served.serve();
    let host = Host::new();
    let rootfs = host.image(&reference(&server, "v1")).rootfs;
    check(&rootfs);
    let image = Image::open(&rootfs);
    assert!(image.read("/sparse") == sparse && image.read("/zeros") == zeros && image.read("/short") == [0; 5000]);
    assert!(image.stat("/zeros").contains("Blockcount: 0"), "{}", image.stat("/zeros"));
    let taken = fs::metadata(&rootfs).unwrap().blocks() * 512;
    assert!(taken < 1 << 20, "{taken} bytes on the disk");
}

#[test]
fn which_layer_comes_first_decides_nothing() {
    let layers: Vec<Vec<u8>> = (0..6_u8)
        .map(|n| Layer::new().file(&format!("{n}"), content(n + 1, 700_000 * usize::from(n % 3 + 1))).done())
        .collect();
    let mut images = Vec::new();
    // Three come at once: which of those that are asked for first is answered first.
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let served = Content::default();
        served.plain("v1", &layers);
        let asked = AtomicUsize::new(0);
        let (answered, turned) = (Mutex::new(0), Condvar::new());
        let server = Server::start(move |request| {
            if !served.is_layer(&request.path) {
                return served.answer(request);
            }
            let number = asked.fetch_add(1, Ordering::SeqCst);
            if let Some(turn) = order.iter().position(|first| *first == number) {
                let mut answered = turned.wait_while(answered.lock().unwrap(), |answered| *answered < turn).unwrap();
                *answered += 1;
                turned.notify_all();
            }
            served.answer(request)
        });
        let host = Host::new();
        images.push(fs::read(host.image(&reference(&server, "v1")).rootfs).unwrap());
    }
    assert!(images[0] == images[1] && images[0] == images[2]);
}
