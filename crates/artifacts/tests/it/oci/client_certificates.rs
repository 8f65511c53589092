//! Tests of registries that ask for a client certificate, and of the files that such certificates are kept in.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::Layer,
    registry::{Content, Host},
};
use crate::{
    tls::{Tls, identity, versions},
    web::Server,
};
use banger_testkit::{Authority, require};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

const FOR_CLIENTS: &[&str] = &["extendedKeyUsage=clientAuth"];

/// Spoils the files in a directory, given another certificate and its key.
type Spoil = fn(&Path, &(PathBuf, PathBuf));

/// Authorities of a registry and of its clients, and the registry's content.
struct Site {
    dir: tempfile::TempDir,
    servers: Authority,
    clients: Authority,
    server: (PathBuf, PathBuf),
    content: Server,
}

#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Nobody,
    Whoever,
    Everybody,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (servers, clients) = (Authority::make(dir.path(), "servers"), Authority::make(dir.path(), "clients"));
        let server = servers.sign("server", &["subjectAltName=IP:127.0.0.1"]);
        let content = Content::default();
        content.plain("v1", &[Layer::new().file("a", "a").done()]);
        Self { dir, servers, clients, server, content: content.serve() }
    }

    /// Starts the registry, which asks clients for a certificate.
    fn serve(&self, asks: Asks, version: &'static SupportedProtocolVersion) -> Tls {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.clients.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = match asks {
            Asks::Nobody => WebPkiClientVerifier::no_client_auth(),
            Asks::Whoever => verifier.allow_unauthenticated().build().unwrap(),
            Asks::Everybody => verifier.build().unwrap(),
        };
        let (chain, key) = identity(&self.server.0, &self.server.1);
        let config: ServerConfig =
            versions(&[version]).with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        Tls::configured(self.content.port(), config)
    }

    /// A host with the registry's authority, and its directory of certificates for the registry.
    fn host(&self, registry: &Tls) -> (Host, PathBuf) {
        let host = Host::new();
        let directory = host.dir.path().join("certs.d").join(format!("127.0.0.1:{}", registry.port()));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(&self.servers.certificate, directory.join("ca.crt")).unwrap();
        (host, directory)
    }
}

fn put((certificate, key): &(PathBuf, PathBuf), directory: &Path, name: &str) {
    fs::copy(certificate, directory.join(format!("{name}.cert"))).unwrap();
    fs::copy(key, directory.join(format!("{name}.key"))).unwrap();
}

fn reference(registry: &Tls) -> String {
    format!("127.0.0.1:{}/app:v1", registry.port())
}

fn notices(host: &Host) -> Vec<String> {
    let lines = host.recorder.0.lock().unwrap();
    lines.iter().filter_map(|line| line.strip_prefix("notice: ").map(str::to_owned)).collect()
}

#[test]
fn who_is_asked_for_a_certificate_shows_the_one_for_this_registry() {
    if !require("openssl") {
        return;
    }
    let site = Site::new();
    let ours = site.clients.sign("me", FOR_CLIENTS);
    let strange = Authority::make(site.dir.path(), "strange").sign("me", FOR_CLIENTS);
    for version in [&TLS12, &TLS13] {
        let registry = site.serve(Asks::Everybody, version);
        let (host, directory) = site.host(&registry);
        let refusal = host.refusal(&reference(&registry));
        assert!(refusal.contains("wants a client certificate, and there is none for it"), "{refusal}");
        // Of several, the one whose authority the registry names.
        put(&strange, &directory, "a");
        let refusal = host.refusal(&reference(&registry));
        let shown = format!("does not accept the client certificate {}", directory.join("a.cert").display());
        assert!(refusal.contains(&shown), "{refusal}");
        put(&ours, &directory, "b");
        // One of X.509 version 1, as `openssl x509 -req` makes it, is as good as the registry finds it.
        put(&site.clients.sign("plain", &[]), &directory, "c");
        host.image(&reference(&registry));
        assert_eq!(notices(&host), Vec::<String>::new());
    }
}

#[test]
fn files_that_cannot_be_used_stop_only_who_needs_them() {
    if !require("openssl") {
        return;
    }
    let site = Site::new();
    let (ours, other) = (site.clients.sign("me", FOR_CLIENTS), site.clients.sign("other", FOR_CLIENTS));
    let spoilt: [(&str, &str, Spoil); 6] = [
        ("ca.key", "there is no .cert for it", |directory, other| {
            fs::copy(&other.1, directory.join("ca.key")).map(drop).unwrap();
            fs::remove_file(directory.join("me.cert")).unwrap();
            fs::remove_file(directory.join("me.key")).unwrap();
        }),
        ("me.cert", "there is no .key for it", |directory, _| fs::remove_file(directory.join("me.key")).unwrap()),
        ("me.key", "it is not the key of ", |directory, other| {
            fs::copy(&other.1, directory.join("me.key")).map(drop).unwrap();
        }),
        ("me.key", "it has no private key in it", |directory, _| fs::write(directory.join("me.key"), "x").unwrap()),
        ("me.key", "it is no regular file", |directory, _| {
            fs::remove_file(directory.join("me.key")).unwrap();
            fs::create_dir(directory.join("me.key")).unwrap();
        }),
        ("me.cert", "it has no certificate in PEM in it", |directory, _| {
            fs::write(directory.join("me.cert"), "x").unwrap();
        }),
    ];
    for (file, why, spoil) in spoilt {
        for (asks, version) in [(Asks::Nobody, &TLS13), (Asks::Whoever, &TLS13), (Asks::Everybody, &TLS12)] {
            let registry = site.serve(asks, version);
            let (host, directory) = site.host(&registry);
            put(&ours, &directory, "me");
            spoil(&directory, &other);
            let told = format!("{} is passed over: {why}", directory.join(file).display());
            if asks == Asks::Everybody {
                let refusal = host.refusal(&reference(&registry));
                assert!(refusal.contains(&format!("there is none for it; {told}")), "{refusal}");
            } else {
                host.image(&reference(&registry));
            }
            let notices = notices(&host);
            assert!(notices.len() == 1 && notices[0].starts_with(&told), "{notices:?}");
        }
    }
}

#[test]
fn a_key_that_only_root_reads_stops_nobody() {
    if !require("openssl") || rustix::process::geteuid().is_root() {
        return;
    }
    let site = Site::new();
    let registry = site.serve(Asks::Nobody, &TLS13);
    let (host, directory) = site.host(&registry);
    put(&site.clients.sign("me", &[]), &directory, "me");
    fs::set_permissions(directory.join("me.key"), fs::Permissions::from_mode(0o000)).unwrap();
    host.image(&reference(&registry));
    assert!(notices(&host)[0].contains("me.key is passed over: it cannot be read"), "{:?}", notices(&host));
}

#[test]
fn authorities_that_cannot_be_read_are_named() {
    if !require("openssl") {
        return;
    }
    let site = Site::new();
    let registry = site.serve(Asks::Nobody, &TLS13);
    let (host, directory) = site.host(&registry);
    fs::write(directory.join("broken.crt"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(directory.join("large.crt"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    host.image(&reference(&registry));
    let notices = notices(&host);
    assert!(notices[0].ends_with("broken.crt is passed over: it is malformed"), "{notices:?}");
    assert!(notices[1].ends_with("large.crt is passed over: it has more than 1048576 bytes"), "{notices:?}");
}
