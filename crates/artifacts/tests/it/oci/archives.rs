//! Tests of images in files.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::{Layer, gzip, zstd},
    registry::{Host, OCI_LAYER, digest},
};
use crate::{ext4::Image, sha256};
use banger_artifacts::oci::Limits;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// Returns the files of an OCI layout with one image per (name, content of `/a`).
fn layout(images: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let one = |text: &str| vec![Layer::new().file("a", text).done()];
    layout_of(&images.iter().map(|(name, text)| (*name, one(text))).collect::<Vec<_>>())
}

/// Returns the files of an OCI layout with images of these layers, uncompressed.
pub(super) fn layout_of(images: &[(&str, Vec<Vec<u8>>)]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let index = images.iter().map(|(name, plain)| {
        let mut descriptor = image("amd64", plain, &mut files);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    });
    let index: Vec<Value> = index.collect();
    files.push(("index.json".to_owned(), json!({"schemaVersion": 2, "manifests": index}).to_string().into_bytes()));
    files
}

/// Returns the files of an OCI layout with one image for several architectures.
pub(super) fn layout_for(name: &str, images: &[(&str, Vec<Vec<u8>>)]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let list: Vec<Value> = images
        .iter()
        .map(|(architecture, plain)| {
            let mut descriptor = image(architecture, plain, &mut files);
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
            descriptor
        })
        .collect();
    let kind = "application/vnd.oci.image.index.v1+json";
    let list = json!({"schemaVersion": 2, "mediaType": kind, "manifests": list}).to_string().into_bytes();
    let top = json!({"mediaType": kind, "digest": digest(&list), "size": list.len(),
        "annotations": {"org.opencontainers.image.ref.name": name}});
    files.push((format!("blobs/sha256/{}", sha256(&list)), list));
    files.push(("index.json".to_owned(), json!({"schemaVersion": 2, "manifests": [top]}).to_string().into_bytes()));
    files
}

/// Adds an image's blobs to a layout and returns the descriptor of its manifest.
fn image(architecture: &str, plain: &[Vec<u8>], files: &mut Vec<(String, Vec<u8>)>) -> Value {
    let packed: Vec<Vec<u8>> = plain.iter().map(|layer| gzip(layer)).collect();
    let diff_ids: Vec<String> = plain.iter().map(|layer| digest(layer)).collect();
    let layers: Vec<_> = packed
        .iter()
        .map(|layer| json!({"mediaType": format!("{OCI_LAYER}+gzip"), "digest": digest(layer), "size": layer.len()}))
        .collect();
    let config = json!({"os": "linux", "architecture": architecture, "config": {},
        "created": "2023-11-14T22:13:20Z", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": layers,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config),
            "size": config.len()}});
    let manifest = manifest.to_string().into_bytes();
    let descriptor = json!({"mediaType": kind, "digest": digest(&manifest), "size": manifest.len()});
    for blob in packed.into_iter().chain([config, manifest]) {
        files.push((format!("blobs/sha256/{}", sha256(&blob)), blob));
    }
    descriptor
}

/// Writes the files into a directory.
pub(super) fn write_layout(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Writes the files into a tar.
pub(super) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().fold(Layer::new(), |tar, (name, bytes)| tar.file(name, bytes)).done()
}

fn write(host: &Host, name: &str, bytes: &[u8]) -> String {
    let path = host.dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn a(host: &Host, source: &str) -> (String, Option<String>) {
    let pulled = host.pull(source).unwrap_or_else(|error| panic!("{}", super::registry::chain(&error)));
    (String::from_utf8(Image::open(&pulled.image.rootfs).read("/a")).unwrap(), pulled.called)
}

#[test]
fn one_image_under_several_names_is_the_only_one() {
    let host = Host::new();
    write_layout(&host.dir.path().join("layout"), &layout(&[("v1", "one"), ("latest", "one")]));
    let dir = host.dir.path().join("layout").to_str().unwrap().to_owned();
    assert_eq!(a(&host, &format!("oci:{dir}")), ("one".into(), Some("v1".into())));
}

#[test]
fn layouts_in_directories_and_tars() {
    let host = Host::new();
    let files = layout(&[("v1", "one"), ("v2", "two")]);
    write_layout(&host.dir.path().join("layout"), &files);
    let dir = host.dir.path().join("layout").to_str().unwrap().to_owned();
    assert_eq!(a(&host, &format!("oci:{dir}:v2")), ("two".into(), Some("v2".into())));
    let tar = archive(&files);
    let plain = write(&host, "app.tar", &tar);
    let packed = write(&host, "app.tar.gz", &gzip(&tar));
    assert_eq!(a(&host, &format!("oci-archive:{plain}:v1")).0, "one");
    assert!(host.pull(&format!("oci-archive:{packed}:v1")).unwrap().known);
    for (source, part) in [
        (format!("oci:{dir}"), "several images; name one after another colon: v1, v2"),
        (format!("oci:{dir}:v3"), "no image \"v3\"; it has: v1, v2"),
        ("oci:/none".into(), "cannot open it: No such file"),
        (format!("docker-archive:{plain}"), "oci-archive: reads OCI's layout"),
    ] {
        let error = host.pull(&source).unwrap_err();
        let said = super::registry::chain(&error);
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_list_that_lies_about_the_size_of_a_manifest() {
    let host = Host::new();
    let mut files = layout(&[("v1", "one")]);
    let (_, index) = files.last_mut().unwrap();
    let mut list: Value = serde_json::from_slice(index).unwrap();
    let size = list["manifests"][0]["size"].as_u64().unwrap();
    list["manifests"][0]["size"] = (size + 1).into();
    *index = list.to_string().into_bytes();
    let dir = host.dir.path().join("layout");
    write_layout(&dir, &files);
    let tar = write(&host, "app.tar", &archive(&files));
    for source in [format!("oci:{}", dir.display()), format!("oci-archive:{tar}")] {
        let refusal = host.refusal(&source);
        let said = format!("has {size} bytes, not {}", size + 1);
        assert!(refusal.contains("the manifest of") && refusal.contains(&said), "{refusal}");
    }
}

#[test]
fn what_docker_saves() {
    let host = Host::new();
    let (one, two) = (Layer::new().file("a", "one").done(), Layer::new().file("b", "b").done());
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest(&one), digest(&two)]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": ["app:v1", "app:v2"], "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let tar = Layer::new()
        .file("config.json", config.to_string())
        .file("shared/layer.tar", &one)
        .symlink("one/layer.tar", "../shared/layer.tar")
        .file("two/layer.tar", gzip(&two))
        .file("manifest.json", manifest.to_string())
        .done();
    let path = write(&host, "saved.tar", &tar);
    assert_eq!(a(&host, &format!("docker-archive:{path}")), ("one".into(), Some("app:v1".into())));
    assert!(host.pull(&format!("docker-archive:{path}:docker.io/library/app:v1")).unwrap().known);
    assert_eq!(a(&host, &format!("docker-archive:{path}:app:v2")), ("one".into(), Some("app:v2".into())));
}

#[test]
fn archives_that_unpack_to_too_much() {
    let mut host = Host::new();
    let tar = Layer::new().file("zeros", vec![0; 4 << 20]).done();
    let gz = write(&host, "bomb.tar.gz", &gzip(&tar));
    let zst = write(&host, "bomb.tar.zst", &zstd(&tar));
    for path in [&gz, &zst] {
        let refusal = host.refusal(&format!("docker-archive:{path}"));
        assert!(refusal.contains("there is no \"manifest.json\""), "small enough to harm nobody: {refusal}");
    }
    host.registries.limits = Limits { max_ratio: 20, ratio_exempt: 1 << 20, ..Limits::default() };
    for path in [&gz, &zst] {
        let refusal = host.refusal(&format!("oci-archive:{path}"));
        assert!(refusal.contains("cannot unpack") && refusal.contains("it unpacks to more than 1048576"), "{refusal}");
    }
    // A megabyte of name a member.
    let long = "n".repeat((1 << 20) - 1);
    let tar = (0..40).fold(Layer::new(), |tar, _| tar.file(&long, "")).done();
    let path = write(&host, "names.tar", &tar);
    let refusal = host.refusal(&format!("oci-archive:{path}"));
    assert!(refusal.contains("the names of its members have more than"), "{refusal}");
}

#[test]
fn a_fifo_is_no_archive_and_nobody_waits_for_its_writer() {
    let host = Host::new();
    let fifo = host.dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let layout = host.dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    fs::rename(&fifo, layout.join("index.json")).unwrap();
    let inside = layout.join("index.json");
    for source in [
        format!("oci-archive:{}", inside.display()),
        format!("docker-archive:{}", inside.display()),
        format!("oci:{}", layout.display()),
    ] {
        let refusal = host.refusal(&source);
        assert!(refusal.contains("it is not a file"), "{source}: {refusal}");
    }
}

#[test]
fn members_that_point_elsewhere_are_not_followed() {
    let host = Host::new();
    fs::write(host.dir.path().join("secret"), "secret").unwrap();
    let tar = Layer::new().symlink("manifest.json", "../../../../../../etc/passwd").done();
    let path = write(&host, "saved.tar", &tar);
    let refusal = host.refusal(&format!("docker-archive:{path}"));
    assert!(refusal.contains("there is no \"manifest.json\""), "{refusal}");
    let cut = archive(&layout(&[("v1", "one")]));
    let path = write(&host, "cut.tar", &cut[..cut.len() / 2]);
    let refusal = host.refusal(&format!("oci-archive:{path}"));
    assert!(refusal.contains("cannot") || refusal.contains("there is no"), "{refusal}");
    assert!(Path::new(&path).exists());
}

/// Changes the index of a layout with the given images.
fn with_index(images: &[(&str, &str)], change: impl FnOnce(&mut Vec<Value>)) -> Vec<u8> {
    let mut files = layout(images);
    let (_, index) = files.iter_mut().find(|(name, _)| name == "index.json").unwrap();
    let mut json: Value = serde_json::from_slice(index).unwrap();
    change(json["manifests"].as_array_mut().unwrap());
    *index = json.to_string().into_bytes();
    archive(&files)
}

fn refusal(host: &Host, source: &str) -> String {
    super::registry::chain(&host.pull(source).err().unwrap())
}

#[test]
fn containerd_names_choose_and_name_an_image() {
    let host = Host::new();
    let tar = with_index(&[("latest", "one"), ("latest", "two")], |index| {
        for (descriptor, name) in index.iter_mut().zip(["docker.io/library/one:latest", "docker.io/library/two:latest"])
        {
            descriptor["annotations"]["io.containerd.image.name"] = json!(name);
        }
    });
    let path = write(&host, "two.tar", &tar);
    let two = ("two".to_owned(), Some("docker.io/library/two:latest".to_owned()));
    assert_eq!(a(&host, &format!("oci-archive:{path}:two:latest")), two);
    for source in [format!("oci-archive:{path}"), format!("oci-archive:{path}:latest")] {
        let why = refusal(&host, &source);
        assert!(why.contains("library/one:latest") && why.contains("library/two:latest"), "{why}");
    }
}

#[test]
fn statements_about_images_are_no_images() {
    let host = Host::new();
    let buildx = json!({"vnd.docker.reference.type": "attestation-manifest", "x": null});
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let marks = [
        // As buildx writes them, and with only one of the two marks.
        json!({"annotations": buildx, "platform": unknown}),
        json!({"annotations": buildx}),
        json!({"platform": unknown}),
        // As cosign saves signatures, and as image-spec 1.1 has other artifacts.
        json!({"annotations": {"kind": "dev.cosignproject.cosign/sigs"}}),
        json!({"artifactType": "application/vnd.example.sbom"}),
    ];
    for (number, mark) in marks.iter().enumerate() {
        let mark = |index: &mut Vec<Value>| {
            index[0].as_object_mut().unwrap().remove("platform");
            index[0].as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
            let image = [("kind", "dev.cosignproject.cosign/image"), ("org.opencontainers.image.ref.name", "v1")];
            if index.len() > 1 {
                index[1]["annotations"] = json!(BTreeMap::from(image));
                index[1]["artifactType"] = "application/vnd.oci.image.config.v1+json".into();
            }
        };
        let both = write(&host, &format!("both-{number}.tar"), &with_index(&[("", "no"), ("v1", "one")], mark));
        assert_eq!(a(&host, &format!("oci-archive:{both}")), ("one".into(), Some("v1".into())));
        let alone = write(&host, &format!("alone-{number}.tar"), &with_index(&[("", "no")], mark));
        assert!(refusal(&host, &format!("oci-archive:{alone}")).contains("it has no images"), "{number}");
    }
}

#[test]
fn one_name_for_two_images_is_refused() {
    let host = Host::new();
    let path = write(&host, "twice.tar", &with_index(&[("v1", "one"), ("v1", "two")], |_| ()));
    for source in [format!("oci-archive:{path}"), format!("oci-archive:{path}:v1")] {
        assert!(refusal(&host, &source).contains("several of its images fit: v1 ("), "{source}");
    }
}

#[test]
fn unusable_archives_say_what_they_are() {
    let host = Host::new();
    let path = |name: &str, bytes: &[u8]| write(&host, name, bytes);
    let saved = |list: &str| archive(&[("manifest.json".into(), list.as_bytes().to_vec())]);
    let none = path("none.tar", &with_index(&[("v1", "one")], Vec::clear));
    let empty = path("empty.tar", &saved("[]"));
    let xz = path("app.tar.xz", b"\xfd7zXZ\0 and more");
    let bzip2 = path("app.tar.bz2", b"BZh91AY&SY");
    for (source, why) in [
        (format!("oci-archive:{none}"), "it has no images"),
        (format!("docker-archive:{empty}"), "it has no images"),
        (format!("oci-archive:{xz}"), "compressed with xz"),
        (format!("oci-archive:{bzip2}"), "compressed with bzip2"),
        (format!("oci-archive:{empty}"), "docker-archive: reads"),
        (format!("docker-archive:{none}"), "oci-archive: reads"),
    ] {
        let is = refusal(&host, &source);
        assert!(is.contains(why), "{source}: {is}");
    }
}
