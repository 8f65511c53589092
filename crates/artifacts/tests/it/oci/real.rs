//! A real registry (Debian's `docker-registry`), filled by `skopeo`: what others write is what we read.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    archives::{layout_of, write_layout},
    layers::Layer,
    registry::Host,
};
use crate::ext4::Image;
use banger_artifacts::program::Program;
use banger_testkit::{require, wait_until};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A registry of its own; it ends with the test.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(dir: &Path, more: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("registry.yml");
        let root = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n{more}",
            root.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(Program::find("docker-registry").unwrap())
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(Duration::from_secs(30), "the registry to listen", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        Self { child, port }
    }

    fn reference(&self, tag: &str) -> String {
        format!("127.0.0.1:{}/team/app:{tag}", self.port)
    }

    /// Everything it was asked for a blob of, by a proxy's view: the bytes it sent, told by its own counters.
    fn head(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
        write!(stream, "GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn skopeo(args: &[&str]) {
    let output = Command::new(Program::find("skopeo").unwrap()).arg("--insecure-policy").args(args).output().unwrap();
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn source(dir: &Path) -> String {
    let base =
        Layer::new().dir("etc").file("etc/os-release", "PRETTY_NAME=Real\n").file("big", vec![7; 2 << 20]).done();
    let top = Layer::new().file(".wh.big", "").file("new", "new").link("twin", "new").done();
    let path = dir.join("layout");
    write_layout(&path, &layout_of(&[("v1", vec![base, top])]));
    format!("oci:{}:v1", path.display())
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
    if !require("registry") || !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path(), "");
    let source = source(dir.path());
    for (tag, options) in [
        ("oci", &["--format", "oci"][..]),
        ("docker", &["--format", "v2s2"]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd", "--dest-compress"]),
        ("plain", &["--format", "oci", "--dest-decompress"]),
    ] {
        let target = format!("docker://{}", registry.reference(tag));
        skopeo(&[&["copy", "--dest-tls-verify=false"], options, &[source.as_str(), target.as_str()]].concat());
        let host = Host::new();
        check(&host, &registry.reference(tag));
        assert!(host.pull(&registry.reference(tag)).unwrap().known);
    }
    assert!(registry.head("/v2/team/app/manifests/docker").contains("distribution.manifest.v2+json"));
    // And what skopeo makes of it in files.
    for (kind, file) in [("docker-archive", "saved.tar:app:v1"), ("oci-archive", "app.tar")] {
        let place = format!("{kind}:{}", dir.path().join(file).display());
        skopeo(&["copy", source.as_str(), place.as_str()]);
        check(&Host::new(), &place);
    }
}

/// A certificate for 127.0.0.1, its key, and the line of an htpasswd file for `me:pw`.
fn secrets(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let (certificate, key, htpasswd) = (dir.join("ca.crt"), dir.join("key.pem"), dir.join("htpasswd"));
    let made = Command::new(Program::find("openssl").unwrap())
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // bcrypt of "pw", the only kind the registry takes.
    fs::write(&htpasswd, "me:$2b$05$w0mvG/uo2JezNRSt5RTeQeRN2U0ahsuJ8.FJqc1oHWJtcgae8cNnC\n").unwrap();
    (certificate, key, htpasswd)
}

#[test]
fn tls_with_an_authority_of_its_own_and_a_password() {
    if !require("registry") || !require("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, htpasswd) = secrets(dir.path());
    let more = format!(
        "  tls: {{certificate: {}, key: {}}}\nauth: {{htpasswd: {{realm: r, path: {}}}}}\n",
        certificate.display(),
        key.display(),
        htpasswd.display()
    );
    let registry = Registry::start(dir.path(), &more);
    let target = format!("docker://{}", registry.reference("v1"));
    let source = source(dir.path());
    skopeo(&["copy", "--dest-tls-verify=false", "--dest-creds", "me:pw", source.as_str(), target.as_str()]);

    let host = Host::new();
    let authority = host.dir.path().join("certs.d").join(format!("127.0.0.1:{}", registry.port));
    fs::create_dir_all(&authority).unwrap();
    fs::copy(&certificate, authority.join("ca.crt")).unwrap();
    let refusal = host.refusal(&registry.reference("v1"));
    assert!(refusal.contains("to strangers"), "{refusal}");
    let login = serde_json::json!({"auths": {format!("https://127.0.0.1:{}", registry.port): {"auth": "bWU6cHc="}}});
    fs::write(host.dir.path().join("auth.json"), login.to_string()).unwrap();
    check(&host, &registry.reference("v1"));

    // Without the authority nobody is asked who they are.
    let stranger = Host::new();
    let authority = stranger.dir.path().join("certs.d").join(format!("127.0.0.1:{}", registry.port));
    fs::create_dir_all(&authority).unwrap();
    fs::write(authority.join("ca.crt"), "").unwrap();
    let refusal = stranger.refusal(&registry.reference("v1"));
    assert!(refusal.contains("cannot trust 127.0.0.1"), "{refusal}");
}
