//! Tests with a real registry (Debian's `docker-registry`), filled by `skopeo`.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    archives::{layout_for, layout_of, write_layout},
    interrupted::noise,
    layers::Layer,
    registry::{Host, chain},
};
use crate::{ext4::Image, sha256, tls::Tls};
use banger_artifacts::{job::Cancel, oci::Platform};
use banger_testkit::{Entry, ImageLayout, Private, Registry, Relay, certificate, require};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Repository that all tests push their tags to.
const APP: &str = "team/app";

fn tagged(registry: &Registry, tag: &str) -> String {
    registry.reference(&format!("{APP}:{tag}"))
}

/// Creates an OCI layout with an image of two layers, compressed by `pack`.
fn source(dir: &Path, pack: &[&str]) -> String {
    let mut image = ImageLayout::new(&dir.join("layout"));
    image.layer(pack, |layer| {
        layer.add("etc", &Entry::DIR, "");
        layer.add("etc/os-release", &Entry::FILE, "PRETTY_NAME=Real\n");
        layer.add("big", &Entry::FILE, vec![7; 2 << 20]);
    });
    image.layer(pack, |layer| {
        layer.add(".wh.big", &Entry::FILE, "");
        layer.add("new", &Entry::FILE, "new");
        layer.add("twin", &Entry { kind: tar::EntryType::Link, link: b"new", ..Entry::FILE }, "");
    });
    image.finish("v1", &json!({}))
}

fn check(host: &Host, reference: &str) {
    let pulled = host.image(reference);
    crate::ext4::check(&pulled.rootfs);
    let image = Image::open(&pulled.rootfs);
    assert!(!image.exists("/big"));
    assert_eq!(image.read("/twin"), b"new");
    assert_eq!(pulled.manifest.os.as_deref(), Some("Real"));
}

#[test]
fn every_format_and_compression_skopeo_pushes() {
    if !require("registry") || !require("e2fsck") || !require("packers") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for (tag, pack, options, kind) in [
        ("gzip", &["gzip", "-1"][..], &["--format", "oci"][..], "tar+gzip"),
        ("zstd", &["zstd", "-1", "-q"], &["--format", "oci"], "tar+zstd"),
        ("plain", &[], &[], "layer.v1.tar\""),
        ("docker", &["gzip", "-1"], &["--format", "v2s2"], "diff.tar.gzip"),
    ] {
        let source = source(dir.path(), pack);
        // One each: skopeo takes what a registry has already, however it is packed.
        let own = dir.path().join(tag);
        fs::create_dir(&own).unwrap();
        let registry = Registry::start(&own, "");
        if pack.is_empty() {
            registry.store(&dir.path().join("layout"), APP, tag);
        } else {
            registry.push(options, &source, &format!("{APP}:{tag}"));
        }
        let manifest = registry.get(&format!("/v2/{APP}/manifests/{tag}"));
        assert_eq!(manifest.matches(kind).count(), 2, "{tag} is what it is for: {manifest}");
        assert_eq!(manifest.contains("distribution.manifest.v2+json"), tag == "docker", "{manifest}");
        let host = Host::new();
        check(&host, &tagged(&registry, tag));
        // Once more costs the manifest, by tag as by digest, and nothing else.
        let before = registry.requests().len();
        assert!(host.pull(&tagged(&registry, tag)).unwrap().known);
        let path = format!("GET /v2/{APP}/manifests");
        assert_eq!(registry.requests()[before..], [format!("{path}/{tag} 200")]);
        let digest = format!("sha256:{}", sha256(manifest.split_once("\r\n\r\n").unwrap().1.as_bytes()));
        assert!(host.pull(&registry.reference(&format!("{APP}@{digest}"))).unwrap().known);
        assert_eq!(registry.requests()[before + 1..], [format!("{path}/{digest} 200")]);
        ids.push(host.store.list().unwrap()[0].manifest.id.clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same layers are the same image, however they are packed");
    // And what skopeo makes of it in files.
    let source = source(dir.path(), &["gzip", "-1"]);
    for (kind, file) in [("docker-archive", "saved.tar:app:v1"), ("oci-archive", "app.tar")] {
        let place = format!("{kind}:{}", dir.path().join(file).display());
        banger_testkit::skopeo(&["copy", source.as_str(), place.as_str()]);
        check(&Host::new(), &place);
    }
}

#[test]
fn lists_with_several_platforms() {
    if !require("registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path(), "");
    let platforms = [("amd64", "one"), ("arm64", "two"), ("s390x", "three")];
    let images: Vec<_> = platforms
        .iter()
        .map(|(architecture, text)| (*architecture, vec![Layer::new().file("a", text).done()]))
        .collect();
    write_layout(&dir.path().join("layout"), &layout_for("v1", &images));
    let source = format!("oci:{}:v1", dir.path().join("layout").display());
    for (tag, options) in [("oci", &["--all"][..]), ("docker", &["--all", "--format", "v2s2"])] {
        registry.push(options, &source, &format!("{APP}:{tag}"));
        let list = registry.get(&format!("/v2/{APP}/manifests/{tag}"));
        assert!(list.contains(if tag == "oci" { "image.index.v1" } else { "manifest.list.v2" }), "{list}");
        let host = Host::new();
        for (platform, machine, text) in
            [("linux/amd64", "x86_64", "one"), ("linux/arm64", "aarch64", "two"), ("linux/s390x", "s390x", "three")]
        {
            let platform: Platform = platform.parse().unwrap();
            let pulled = host.pull_for(&tagged(&registry, tag), platform.clone());
            let pulled = pulled.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!(Image::open(&pulled.image.rootfs).read("/a"), text.as_bytes(), "{platform}");
            assert_eq!(pulled.image.manifest.arch, machine);
            // What the list says of the image is enough to know that it is here.
            let before = registry.requests().len();
            assert!(host.pull_for(&tagged(&registry, tag), platform).unwrap().known);
            assert_eq!(registry.requests()[before..], [format!("GET /v2/{APP}/manifests/{tag} 200")]);
        }
        let error = host.pull_for(&tagged(&registry, tag), "linux/riscv64".parse().unwrap()).unwrap_err();
        let said = chain(&error);
        assert!(said.contains("no linux/riscv64"), "{said}");
        assert!(said.contains("there is: linux/amd64, linux/arm64, linux/s390x"), "{said}");
    }
}

/// Pushes an image of one incompressible layer.
fn large(dir: &Path, registry: &Registry, tag: &str) -> usize {
    const SIZE: usize = 6 << 20;
    let layer = Layer::new().file("noise", noise(SIZE)).done();
    let path = dir.join(format!("layout-{tag}"));
    write_layout(&path, &layout_of(&[("v1", vec![layer])]));
    registry.push(&[], &format!("oci:{}:v1", path.display()), &format!("{APP}:{tag}"));
    SIZE
}

#[test]
fn a_connection_that_drops_is_taken_up_where_it_broke() {
    if !require("registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path(), "");
    let size = large(dir.path(), &registry, "v1");
    // Every connection ends after this many bytes, the layer in the middle of it.
    let relay = Relay::dropping(registry.port(), 2 << 20);
    let host = Host::new();
    let before = registry.requests().len();
    let image = host.image(&format!("127.0.0.1:{}/{APP}:v1", relay.port()));
    assert_eq!(Image::open(&image.rootfs).read("/noise"), noise(size));
    let asked = registry.requests()[before..].to_vec();
    let parts = asked.iter().filter(|line| line.contains("/blobs/") && line.ends_with(" 206")).count();
    assert!(parts >= 2, "the rest is asked for, and no more than the rest: {asked:#?}");
}

#[test]
fn a_pull_that_is_cancelled_leaves_nothing_and_can_be_repeated() {
    if !require("registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path(), "");
    let size = large(dir.path(), &registry, "v1");
    let mut host = Host::new();
    let cancel = host.cancel.clone();
    let relay = Relay::stalling(registry.port(), 2 << 20, move || cancel.cancel());
    let error = host.pull(&format!("127.0.0.1:{}/{APP}:v1", relay.port())).unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
    host.nothing_left();
    host.cancel = Cancel::default();
    let image = host.image(&tagged(&registry, "v1"));
    assert_eq!(Image::open(&image.rootfs).read("/noise"), noise(size));
}

#[test]
fn a_registry_and_its_token_service_with_an_authority_of_their_own() {
    if !require("registry") || !require("openssl") || !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = Private::make(dir.path());
    let at_home = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    let signed =
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", "basicConstraints=critical,CA:FALSE"];
    let (other, other_key) = certificate(dir.path(), "other", &[&signed[..], &at_home].concat());
    // Under the registry's own name its authority is enough; under another name it is not.
    for (name, shown, its_key) in [("127.0.0.1", &own.certificate, &own.key), ("localhost", &other, &other_key)] {
        let place = dir.path().join(name);
        fs::create_dir(&place).unwrap();
        let service = super::tokens::Service::start(&place);
        let tls = Tls::before(service.port(), shown, its_key);
        let service = service.behind(&tls, name);
        let registry = Registry::start(&place, &(own.tls() + &service.configuration()));
        registry.push(&["--dest-creds", Private::LOGIN], &source(&place, &[]), &format!("{APP}:v1"));

        let host = Host::new();
        fs::copy(&own.certificate, login(&host, &registry).join("ca.crt")).unwrap();
        let before = service.given();
        if name == "localhost" {
            let refusal = host.refusal(&tagged(&registry, "v1"));
            assert!(refusal.contains(&format!("localhost:{} gave no token", tls.port())), "{refusal}");
            assert!(refusal.contains("cannot trust"), "{refusal}");
            assert_eq!(service.given(), before, "no password went to who did not prove who it is");
            let authorities = host.dir.path().join("certs.d").join(format!("localhost:{}", tls.port()));
            fs::create_dir(&authorities).unwrap();
            fs::copy(&other, authorities.join("ca.crt")).unwrap();
        }
        check(&host, &tagged(&registry, "v1"));
        assert_eq!(service.given() - before, 1, "one token for the whole pull");
    }
}

/// Writes the login of a host to the registry. Returns the directory for the authorities it trusts there.
fn login(host: &Host, registry: &Registry) -> PathBuf {
    let login = json!({"auths": {format!("https://127.0.0.1:{}", registry.port()): {"auth": Private::AUTH}}});
    fs::write(host.dir.path().join("auth.json"), login.to_string()).unwrap();
    let authorities = host.dir.path().join("certs.d").join(format!("127.0.0.1:{}", registry.port()));
    fs::create_dir_all(&authorities).unwrap();
    authorities
}

#[test]
fn tls_with_an_authority_of_its_own_and_a_password() {
    if !require("registry") || !require("openssl") || !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = Private::make(dir.path());
    let registry = Registry::start(dir.path(), &own.configuration());
    registry.push(&["--dest-creds", Private::LOGIN], &source(dir.path(), &[]), &format!("{APP}:v1"));

    let host = Host::new();
    fs::copy(&own.certificate, login(&host, &registry).join("ca.crt")).unwrap();
    fs::remove_file(host.dir.path().join("auth.json")).unwrap();
    let refusal = host.refusal(&tagged(&registry, "v1"));
    assert!(refusal.contains("to strangers"), "{refusal}");
    login(&host, &registry);
    check(&host, &tagged(&registry, "v1"));

    // Without the authority nobody is asked who they are.
    let stranger = Host::new();
    fs::write(login(&stranger, &registry).join("ca.crt"), "").unwrap();
    let refusal = stranger.refusal(&tagged(&registry, "v1"));
    assert!(refusal.contains("cannot trust 127.0.0.1"), "{refusal}");
}

#[test]
fn a_service_that_signs_tokens() {
    if !require("registry") || !require("openssl") || !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = super::tokens::Service::start(dir.path());
    let registry = Registry::start(dir.path(), &service.configuration());
    registry.push(&["--dest-creds", Private::LOGIN], &source(dir.path(), &[]), &format!("{APP}:v1"));

    let host = Host::new();
    let refusal = host.refusal(&tagged(&registry, "v1"));
    assert!(refusal.contains("gave no token"), "{refusal}");
    login(&host, &registry);
    let before = service.given();
    check(&host, &tagged(&registry, "v1"));
    assert_eq!(service.given() - before, 1, "one token for the whole pull");
}

#[test]
fn an_image_that_umoci_made() {
    if ["registry", "e2fsck", "root"].iter().any(|it| !require(it)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let (tree, image) = (dir.path().join("tree"), format!("{}:v1", layout.display()));
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/os-release"), "PRETTY_NAME=Real\n").unwrap();
    fs::write(tree.join("new"), "new").unwrap();
    fs::write(tree.join("big"), vec![7; 2 << 20]).unwrap();
    fs::hard_link(tree.join("new"), tree.join("twin")).unwrap();
    let umoci = |args: &[&str]| {
        let output = Command::new("umoci").args(args).output().unwrap();
        assert!(output.status.success(), "umoci {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    umoci(&["insert", "--image", &image, tree.to_str().unwrap(), "/"]);
    umoci(&["insert", "--image", &image, "--whiteout", "/big"]);
    umoci(&["config", "--image", &image, "--config.user", "7:8", "--config.env", "A=b", "--config.cmd", "serve"]);
    let registry = Registry::start(dir.path(), "");
    registry.push(&[], &format!("oci:{image}"), &format!("{APP}:v1"));
    let host = Host::new();
    check(&host, &tagged(&registry, "v1"));
    let run = host.image(&tagged(&registry, "v1")).manifest.config.unwrap();
    assert_eq!((run.user.as_deref(), &run.env["A"], &run.cmd[..]), (Some("7:8"), &"b".into(), &["serve".into()][..]));
    // As it lies in its layout, too.
    check(&Host::new(), &format!("oci:{image}"));
}
