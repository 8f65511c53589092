//! Tests of decompression bombs: refused before they are unpacked, with the layer named and nothing left.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    hostile::refused_within,
    layers::{Layer, gzip, zstd},
    registry::{Content, Host, OCI_LAYER, digest, reference},
};
use crate::web::Server;
use banger_artifacts::oci::Limits;
use serde_json::{Value, json};
use std::io::Write as _;

#[test]
fn bombs_are_refused_before_they_go_off() {
    let zeros = Layer::new().file("zeros", vec![0; 8 << 20]).done();
    let small = Limits { max_unpacked: 4 << 20, ..Limits::default() };
    let refusal = refused_within(std::slice::from_ref(&zeros), small);
    assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("more than 4194304 bytes"), "{refusal}");
    let split: Vec<Vec<u8>> = (0..5).map(|n| Layer::new().file(&n.to_string(), vec![n; 1 << 20]).done()).collect();
    assert!(refused_within(&split, small).contains("more than 4194304 bytes"));
    // A layer that is there several times is read once, and its files are as many as the places it is led to.
    let again = Layer::new().file("way/big", vec![b'a'; 1 << 20]).done();
    let led = |places: u8| -> Vec<Vec<u8>> {
        let lead = |place: u8| Layer::new().dir(&place.to_string()).symlink("way", &place.to_string()).done();
        (0..places).flat_map(|place| [lead(place), again.clone()]).collect()
    };
    let refusal = refused_within(&led(6), small);
    assert!(refusal.contains("layer 10 of 12 (") && refusal.contains("more than 4194304 bytes"), "{refusal}");
    let content = Content::default();
    content.plain("v1", &led(4));
    let server = content.serve();
    let mut host = Host::new();
    host.registries.limits = small;
    let four = crate::ext4::Image::open(&host.image(&reference(&server, "v1")).rootfs);
    assert!((0..4).all(|place: u8| four.read(format!("/{place}/big")).len() == 1 << 20));
    let many: Vec<Vec<u8>> = (0..5).map(|n| Layer::new().file(&n.to_string(), "x").done()).collect();
    let refusal = refused_within(&many, Limits { max_layers: 4, ..Limits::default() });
    assert!(refusal.contains("has 5 layers, more than 4"), "{refusal}");
    let entries = (0..50).fold(Layer::new(), |layer, n| layer.file(&n.to_string(), "")).done();
    let refusal = refused_within(&[entries], Limits { max_entries: 20, ..Limits::default() });
    assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("more than 20 entries"), "{refusal}");
    let names = (0..50).fold(Layer::new(), |layer, n| layer.file(&format!("{n}{}", "x".repeat(200)), "")).done();
    let refusal = refused_within(&[names], Limits { max_metadata: 5000, ..Limits::default() });
    assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("bytes of names"), "{refusal}");

    let content = Content::default();
    content.image("v1", &[(zeros.clone(), gzip(&zeros), &format!("{OCI_LAYER}+gzip"))], &Value::Null);
    content.image("v2", &[(zeros.clone(), zstd(&zeros), &format!("{OCI_LAYER}+zstd"))], &Value::Null);
    let server = content.serve();
    let host = Host::new();
    // It is small enough to harm nobody.
    host.image(&reference(&server, "v1"));
    let mut host = Host::new();
    host.registries.limits = Limits { max_ratio: 100, ratio_exempt: 1 << 20, ..Limits::default() };
    for tag in ["v1", "v2"] {
        let refusal = host.refusal(&reference(&server, tag));
        assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("more than 100 times its size"), "{refusal}");
    }
}

/// Returns a zstd frame with a window of so many bits and one raw block, marked as the last.
fn frame(window: u8, content: &[u8]) -> Vec<u8> {
    let block = (u32::try_from(content.len()).unwrap() << 3 | 1).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3][..], &block[..3], content].concat()
}

#[test]
fn a_bomb_and_a_window_that_the_limits_as_they_are_refuse() {
    let content = Content::default();
    let kind = format!("{OCI_LAYER}+zstd");
    // What it unpacks to is nobody's digest: it does not come that far.
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(4 << 30);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    let (zeros, ratio_exempt) = (vec![0; 1 << 20], usize::try_from(Limits::default().ratio_exempt).unwrap());
    (0..ratio_exempt / zeros.len() + 2).for_each(|_| bomb.write_all(&zeros).unwrap());
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() * 1000 < ratio_exempt, "it is small");
    content.image("bomb", &[(Vec::new(), bomb, &kind)], &Value::Null);
    // What `zstd --long=31` asks for takes more memory than a pull may; with `--long` it is as much as it may.
    let plain = Layer::new().file("a", "a").done();
    content.image("long", &[(plain.clone(), frame(27, &plain), &kind)], &Value::Null);
    content.image("longer", &[(plain.clone(), frame(28, &plain), &kind)], &Value::Null);
    let server = content.serve();
    let refusal = Host::new().refusal(&reference(&server, "bomb"));
    assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("more than 1000 times its size"), "{refusal}");
    Host::new().image(&reference(&server, "long"));
    let refusal = Host::new().refusal(&reference(&server, "longer"));
    assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("it cannot be decompressed"), "{refusal}");
}

#[test]
fn a_layer_that_cannot_be_decompressed_is_not_downloaded_to_its_end() {
    // The size is what the manifest says; behind what comes there is nothing, for as long as anybody waits.
    let size = 64_u64 << 30;
    let garbage = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0][..], &vec![0xff; 300_000]].concat();
    let content = Content::default();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest(b"x")]}});
    let layer = json!({"mediaType": format!("{OCI_LAYER}+gzip"), "digest": digest(b"y"), "size": size});
    content.manifest("v1", &config, &[layer]);
    let server = Server::start(move |mut request| {
        if !request.path.ends_with(&digest(b"y")) {
            return content.answer(request);
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        request.stream.write_all(head.as_bytes())?;
        request.stream.write_all(&garbage)?;
        request.stall()
    });
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("layer 1 of 1 (") && refusal.contains("it cannot be decompressed"), "{refusal}");
}

#[test]
fn layers_that_come_at_once_count_together_before_any_is_here() {
    for (limits, why) in [
        (Limits { max_entries: 50, ..Limits::default() }, "more than 50 entries"),
        (Limits { max_metadata: 5000, ..Limits::default() }, "more than 5000 bytes of names"),
    ] {
        // Each by itself is within the limits, and none comes to its end.
        let layer = |number: usize| {
            let name = |n: usize| format!("{number}-{n}-{}", "x".repeat(80));
            let names = (0..30).fold(Layer::new(), |layer, n| layer.file(&name(n), ""));
            names.file("noise", super::interrupted::noise(2 << 20)).done()
        };
        let content = Content::default();
        content.plain("v1", &[layer(0), layer(1), layer(2)]);
        let server = Server::start(move |mut request| {
            if !content.is_layer(&request.path) {
                return content.answer(request);
            }
            let (_, bytes) = content.get(request.path.strip_prefix("/v2/app/").unwrap()).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
            request.stream.write_all(head.as_bytes())?;
            request.stream.write_all(&bytes[..1 << 20])?;
            request.stall()
        });
        let mut host = Host::new();
        host.registries.limits = limits;
        let refusal = host.refusal(&reference(&server, "v1"));
        assert!(refusal.contains(why), "{refusal}");
    }
}

#[test]
fn layers_that_wait_for_one_below_them_count_together() {
    for (limits, why) in [
        (Limits { max_entries: 50, ..Limits::default() }, "more than 50 entries"),
        (Limits { max_metadata: 5000, ..Limits::default() }, "more than 5000 bytes of names"),
    ] {
        let content = Content::default();
        let upper = |layer: usize| {
            let name = |n: usize| format!("{layer}-{n}-{}", "x".repeat(80));
            (0..20).fold(Layer::new(), |layer, n| layer.file(&name(n), "")).done()
        };
        let layers = [vec![Layer::new().file("slow", "").done()], (0..4).map(upper).collect()].concat();
        content.plain("v1", &layers);
        let slow = format!("/v2/app/blobs/{}", digest(&layers[0]));
        // The lowest never comes: the others are refused without it.
        let server = Server::start(
            move |mut request| {
                if request.path == slow { request.stall() } else { content.answer(request) }
            },
        );
        let mut host = Host::new();
        host.registries.limits = limits;
        let refusal = host.refusal(&reference(&server, "v1"));
        assert!(refusal.contains(why) && !refusal.contains("layer 1 of 5"), "{refusal}");
    }
}
