//! Tests of images that lie, overflow or reach outside: each is refused with layer and entry named, and nothing is
//! left.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    layers::{Layer, gzip},
    registry::{Content, Host, OCI_LAYER, digest, reference},
};
use crate::web::Server;
use banger_artifacts::oci::Limits;
use serde_json::{Value, json};
use std::{io::Write as _, path::Path};
use tar::EntryType;

fn refused(layers: &[Vec<u8>]) -> String {
    refused_within(layers, Limits::default())
}

pub(super) fn refused_within(layers: &[Vec<u8>], limits: Limits) -> String {
    let content = Content::default();
    content.plain("v1", layers);
    let server = content.serve();
    let mut host = Host::new();
    host.registries.limits = limits;
    host.refusal(&reference(&server, "v1"))
}

fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let length = (rest + 1..rest + 9).find(|length| rest + length.to_string().len() == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

#[test]
fn entries_that_reach_out_are_refused_with_layer_and_entry() {
    let good = Layer::new().dir("etc").file("etc/passwd", "x").done();
    let long = format!("{}../../../etc/passwd", "x/".repeat(60));
    let pax_path = pax("path", b"../pax");
    let pax_link = pax("linkpath", b"../../etc/shadow");
    for (layer, why) in [
        (Layer::new().ustar("../etc", "ustar"), "entry \"../etc/ustar\" cannot be stored: its path contains \"..\""),
        (Layer::new().ustar("etc/..", "../ustar"), "entry \"etc/../../ustar\""),
        (Layer::new().old("../v7"), "entry \"../v7\" cannot be stored: its path contains \"..\""),
        (
            Layer::new().raw(b"g", EntryType::XGlobalHeader, b"", &pax_path).file("x", "x"),
            "a global PAX header changes entries",
        ),
        (
            Layer::new().raw(b"pax", EntryType::XHeader, b"", &pax_link).link("l", "etc/passwd"),
            "entry \"l\" cannot be stored: its path contains \"..\"",
        ),
        (Layer::new().link("l", &long), "entry \"l\" cannot be stored: its path contains \"..\""),
        (Layer::new().raw(b"n", EntryType::GNULongName, b"", &vec![b'n'; (1 << 20) + 1]), "over 1 MiB"),
        (Layer::new().file("../up", "x"), "entry \"../up\" cannot be stored: its path contains \"..\""),
        (Layer::new().file("a/../../b", "x"), "entry \"a/../../b\""),
        (Layer::new().file(&long, "x"), "its path contains \"..\""),
        (Layer::new().raw(b"pax", EntryType::XHeader, b"", &pax_path).file("x", "x"), "entry \"../pax\""),
        (Layer::new().link("l", "../../etc/passwd"), "entry \"l\" cannot be stored: its path contains \"..\""),
        (Layer::new().link("l", "none"), "entry \"l\" cannot be stored: it is a hard link to \"none\""),
        (Layer::new().link("a", "b").link("b", "a"), "entry \"a\""),
        (Layer::new().link("a", "etc"), "the directory \"etc\""),
        (Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", "x"), "leads through links without end"),
        (Layer::new().file("etc/passwd/x", "x"), "is not a directory"),
        (Layer::new().file(".wh..", ""), "entry \".wh..\" cannot be stored: it is not a whiteout"),
        (Layer::new().file("etc/.wh...", ""), "entry \"etc/.wh...\""),
        (Layer::new().file("etc/.wh.", ""), "not a whiteout"),
        (Layer::new().file(".wh.etc/x", ""), "not a whiteout"),
        (Layer::new().raw(b"s", EntryType::GNUSparse, b"", b""), "a sparse file in GNU form"),
        (
            Layer::new().raw(b"p", EntryType::XHeader, b"", &pax("GNU.sparse.major", b"1")).file("s", ""),
            "a sparse file in PAX form",
        ),
        (Layer::new().raw(b"v", EntryType::new(b'V'), b"", b""), "unknown type"),
        (Layer::new().file(&"n".repeat(256), ""), "has 256 bytes, more than 255"),
        (Layer::new().file(&"n/".repeat(2100), ""), "more than 4096"),
        (Layer::new().raw(b"p", EntryType::XHeader, b"", &vec![b' '; (1 << 20) + 1]), "over 1 MiB"),
        (
            // Each header is small, and so is what any one of them says.
            (0..40).fold(Layer::new(), |layer, n: u32| {
                let records: Vec<u8> =
                    (0..100).flat_map(|i| pax(&format!("SCHILY.xattr.user.{n}.{i}"), b"1")).collect();
                layer.raw(b"p", EntryType::XHeader, b"", &records)
            }),
            "more extended attributes than a file can have",
        ),
        (
            (0..2000).fold(Layer::new(), |layer, _| layer.raw(b"p", EntryType::XHeader, b"", &pax("comment", b"x"))),
            "more extension headers than any needs",
        ),
        (Layer::new().symlink("r", ".").file("r/lost+found", ""), "lost+found in the root belongs to the filesystem"),
        (Layer::new().symlink("r", "/").link("r/lost+found", "etc/passwd"), "belongs to the filesystem"),
        (Layer::new().symlink("r", "/lost+found").file("r/x", ""), "belongs to the filesystem"),
        (
            Layer::new().raw(b"p", EntryType::XHeader, b"", &pax("SCHILY.xattr.user.x", &[7; 9000])).file("big", ""),
            "extended attributes need",
        ),
    ] {
        let refusal = refused(&[good.clone(), layer.done()]);
        assert!(refusal.contains("layer 2 of 2 (") && refusal.contains(why), "{why}: {refusal}");
        // An entry is named; of headers that never came to one, where in the archive they are.
        let headers = ["over 1 MiB", "attributes than a file can have", "headers than any needs", "global PAX"];
        let named = if headers.iter().any(|bad| why.contains(bad)) { "at byte" } else { "entry \"" };
        assert!(refusal.contains(named), "{refusal}");
    }
}

#[test]
fn a_link_out_of_the_image_leads_into_the_image() {
    let content = Content::default();
    let marker = format!("banger-oci-{}", std::process::id());
    let layer = Layer::new().symlink("out", "../../../../../../tmp").symlink("abs", "/tmp").dir("tmp");
    let layer = layer.file(&format!("out/{marker}"), "1").file(&format!("abs/{marker}-2"), "2").done();
    content.plain("v1", &[layer]);
    let server = content.serve();
    let host = Host::new();
    let image = crate::ext4::Image::open(&host.image(&reference(&server, "v1")).rootfs);
    assert_eq!(image.read(format!("/tmp/{marker}")), b"1");
    assert_eq!(image.read(format!("/tmp/{marker}-2")), b"2");
    assert!(!Path::new("/tmp").join(&marker).exists());
}

#[test]
fn lies_about_digests_and_sizes() {
    let plain = Layer::new().file("a", "a").done();
    let other = Layer::new().file("b", "b").done();
    let packed = gzip(&plain);
    let layer = |bytes: &[u8], size: usize| json!([{"mediaType": OCI_LAYER, "digest": digest(bytes), "size": size}]);
    let config =
        |diff_ids: &[String]| json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": diff_ids}});
    let good = config(&[digest(&plain)]);
    let attempt = |prepare: &dyn Fn(&Content)| {
        let content = Content::default();
        prepare(&content);
        let server = content.serve();
        Host::new().refusal(&reference(&server, "v1"))
    };
    let stored = |content: &Content, config: &Value, layers: Value, under: &[u8], bytes: &[u8]| {
        content.put(&format!("blobs/{}", digest(under)), "x", bytes);
        content.manifest("v1", config, layers.as_array().unwrap());
    };
    // Other bytes of the same length; a byte more and a byte less than announced; the wrong content; garbage.
    let mut flipped = packed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let longer = [packed.as_slice(), b"x"].concat();
    for (config, layers, bytes, why) in [
        (good.clone(), layer(&packed, packed.len()), flipped.clone(), "layer 1 of 1"),
        (good.clone(), layer(&packed, packed.len()), flipped, "it has the digest"),
        (good.clone(), layer(&packed, packed.len()), longer, "announces"),
        (good.clone(), layer(&packed, packed.len() + 1), packed.clone(), "announces"),
        (config(&[digest(&other)]), layer(&packed, packed.len()), packed.clone(), "unpacked it has the digest"),
        (config(&[]), layer(&packed, packed.len()), packed.clone(), "1 layers in its manifest and 0 in its"),
    ] {
        let refusal = attempt(&|content| stored(content, &config, layers.clone(), &packed, &bytes));
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
    // Of two that say they are the same unpacked, each is looked at.
    let twice = config(&[digest(&plain), digest(&plain)]);
    for (second, why) in [
        (layer(&other, other.len()), "is refused: unpacked it has the digest"),
        (layer(&plain, plain.len() + 1), "announces"),
        (layer(b"none", 4), "is refused"),
    ] {
        let content = Content::default();
        content.blob(&other);
        let layers = json!([layer(&plain, plain.len())[0], second[0]]);
        stored(&content, &twice, layers, &plain, &plain);
        let server = content.serve();
        let refusal = Host::new().failed_pull(&reference(&server, "v1"));
        assert!(refusal.contains("layer 2 of 2 (") && refusal.contains(why), "{why}: {refusal}");
    }
    let garbage = b"\x1f\x8bgarbage".to_vec();
    let refusal = attempt(&|content| stored(content, &good, layer(&garbage, garbage.len()), &garbage, &garbage));
    assert!(refusal.contains("cannot be decompressed"), "{refusal}");

    let refusal = attempt(&|content| {
        stored(content, &good, layer(&plain, plain.len()), &plain, &plain);
        let config = format!("blobs/{}", digest(good.to_string().as_bytes()));
        content.put(&config, "x", good.to_string().replace("amd64", "arm64").as_bytes());
    });
    assert!(refusal.contains("the configuration of"), "{refusal}");
    // The configuration's size.
    let refusal = attempt(&|content| {
        stored(content, &good, layer(&plain, plain.len()), &plain, &plain);
        let (kind, manifest) = content.get("manifests/v1").unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["config"]["size"] = 7.into();
        content.document("v1", &kind, &manifest);
    });
    assert!(refusal.contains("the configuration of") && refusal.contains("bytes, not 7"), "{refusal}");
    // What a list says of a manifest, and of another list.
    let of_list = |content: &Content, tag: &str, kind: &str, lie: i64| {
        let (_, listed) = content.get(&format!("manifests/{tag}")).unwrap();
        let size = i64::try_from(listed.len()).unwrap() + lie;
        json!({"schemaVersion": 2, "manifests": [{"mediaType": kind, "digest": digest(&listed), "size": size,
            "platform": {"os": "linux", "architecture": "amd64"}}]})
    };
    let (list, one) = ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json");
    for (lies, refused) in [([1, 0], true), ([-1, 0], true), ([0, 1], true), ([0, 0], false)] {
        let content = Content::default();
        content.plain("image", std::slice::from_ref(&plain));
        content.document("list", list, &of_list(&content, "image", one, lies[0]));
        content.document("v1", list, &of_list(&content, "list", list, lies[1]));
        let server = content.serve();
        if refused {
            let refusal = Host::new().refusal(&reference(&server, "v1"));
            assert!(refusal.contains("the manifest of") && refusal.contains("bytes, not "), "{lies:?}: {refusal}");
        } else {
            Host::new().image(&reference(&server, "v1"));
        }
    }
    let content = Content::default();
    let manifest = content.plain("v1", std::slice::from_ref(&plain));
    content.put(&format!("manifests/{manifest}"), "x", b"{}");
    let server = content.serve();
    let refusal = Host::new().refusal(&format!("127.0.0.1:{}/app@{manifest}", server.port()));
    assert!(refusal.contains("the manifest of") && refusal.contains("has the digest"), "{refusal}");
}

#[test]
fn layers_that_are_elsewhere_or_none() {
    let content = Content::default();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest(b"x")]}});
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    content.manifest(
        "v1",
        &config,
        &[json!({"mediaType": kind, "digest": digest(b"x"), "size": 1, "urls": ["http://127.0.0.1/"]})],
    );
    content.document("none", "application/vnd.oci.image.manifest.v1+json", &json!({"layers": []}));
    // As Helm pushes one: its configuration is what its Chart.yaml says, its layers are an archive and who signed it.
    let chart = json!({"name": "app", "version": "1.0.0", "apiVersion": "v2", "type": "application"}).to_string();
    let blob = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.cncf.helm.{kind}"), "size": bytes.len(), "digest": content.blob(bytes)});
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let archive = gzip(&Layer::new().file("app/Chart.yaml", "name: app\n").done());
    let layers = [blob("chart.content.v1.tar+gzip", &archive), blob("chart.provenance.v1.prov", b"-----BEGIN PGP")];
    content.document(
        "chart",
        oci,
        &json!({"schemaVersion": 2, "config": blob("config.v1+json", chart.as_bytes()), "layers": layers,
            "annotations": {"org.opencontainers.image.title": "app"}}),
    );
    let server = content.serve();
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("layer 1 of 1") && refusal.contains("foreign layer"), "{refusal}");
    let refusal = Host::new().refusal(&reference(&server, "none"));
    assert!(refusal.contains("neither an image nor a list"), "{refusal}");
    let refusal = Host::new().refusal(&reference(&server, "chart"));
    assert!(refusal.contains("layer 1 of 2") && refusal.contains("it is not an archive of files"), "{refusal}");
    assert!(server.heads().iter().all(|head| !head.contains("/blobs/")), "nothing else of it is asked for");
    // An image for nothing that is said.
    let plain = Layer::new().file("a", "a").done();
    for (tag, os, architecture) in [("no-os", "", "amd64"), ("nothing", "", "")] {
        let config = json!({"os": os, "architecture": architecture, "rootfs": {"diff_ids": [digest(&plain)]}});
        let layer = json!({"mediaType": OCI_LAYER, "digest": content.blob(&plain), "size": plain.len()});
        content.manifest(tag, &config, &[layer]);
        let refusal = Host::new().refusal(&reference(&server, tag));
        assert!(refusal.contains("the configuration of") && refusal.contains("names no platform"), "{refusal}");
    }
}

#[test]
fn documents_and_layers_without_end() {
    let endless = Server::start(|mut request| {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{")?;
        loop {
            request.stream.write_all(&[b' '; 4 << 10])?;
        }
    });
    let refusal = Host::new().refusal(&reference(&endless, "v1"));
    assert!(refusal.contains("more than 4194304 bytes"), "{refusal}");

    // One that says so.
    let large = Server::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4194305\r\n\r\n".to_vec());
    let refusal = Host::new().refusal(&reference(&large, "v1"));
    assert!(refusal.contains("more than 4194304 bytes"), "{refusal}");

    // A configuration, and the answer of a token service.
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let server = Server::start(move |mut request| {
        if !request.path.contains("/blobs/") || content.is_layer(&request.path) {
            return content.answer(request);
        }
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{")?;
        loop {
            request.stream.write_all(&[b' '; 4 << 10])?;
        }
    });
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("more than 4194304 bytes"), "{refusal}");
    let realm = endless.url("/token");
    let asking = Server::raw(format!(
        "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"{realm}\"\r\nContent-Length: 0\r\n\r\n"
    ));
    let refusal = Host::new().refusal(&reference(&asking, "v1"));
    assert!(refusal.contains("gave no token") && refusal.contains("more than 65536 bytes"), "{refusal}");

    let content = Content::default();
    let layer = Layer::new().file("a", "a").done();
    content.plain("v1", std::slice::from_ref(&layer));
    let path = format!("/v2/app/blobs/{}", digest(&layer));
    let server = Server::start(move |mut request| {
        if request.path != path {
            return content.answer(request);
        }
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            request.stream.write_all(&layer)?;
        }
    });
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("layer 1 of 1") && refusal.contains("there are more than"), "{refusal}");
}
