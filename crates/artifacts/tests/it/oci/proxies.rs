//! Tests of pulls through a proxy, which is the only one to know where the registry is.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::Layer,
    loopback::pull_apart,
    registry::{Content, Host, chain, reference},
};
use crate::{
    tls::{Tls, identity, versions},
    web::Server,
};
use banger_artifacts::fetch::Proxies;
use banger_testkit::{Authority, require};
use rustls::{ALL_VERSIONS, ServerConfig, ServerConnection, StreamOwned};
use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

/// Registry whose name is known to its proxy only.
const NAME: &str = "registry.example:5000";

/// Registry with an authority of its own.
struct Site {
    _dir: tempfile::TempDir,
    authority: PathBuf,
    content: Server,
    tls: Tls,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::make(dir.path(), "ours");
        let (certificate, key) = authority.sign("registry", &["subjectAltName=DNS:registry.example,IP:127.0.0.1"]);
        let content = Content::default();
        content.plain("v1", &[Layer::new().file("a", "a").done()]);
        let content = content.serve();
        let tls = Tls::before(content.port(), &certificate, &key);
        Self { _dir: dir, authority: authority.certificate, content, tls }
    }

    /// A host that trusts the authority for `registry`, in an environment with these variables.
    fn host(&self, registry: &str, variables: &[(&str, &str)]) -> Host {
        let mut host = Host::new();
        let directory = host.dir.path().join("certs.d").join(registry);
        fs::create_dir_all(&directory).unwrap();
        fs::copy(&self.authority, directory.join("ca.crt")).unwrap();
        host.registries.client.proxies = Proxies::in_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
        });
        host
    }
}

/// Starts a proxy that connects to `port` whoever is asked for.
fn proxy(port: u16) -> Server {
    Server::start(move |mut request| {
        let there = TcpStream::connect(("127.0.0.1", port))?;
        request.stream.write_all(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: test\r\n\r\n")?;
        let (mut from, mut to) = (there.try_clone()?, request.stream.try_clone()?);
        let back = thread::spawn(move || {
            let copied = io::copy(&mut from, &mut to);
            to.shutdown(Shutdown::Both).and(copied.map(drop))
        });
        let (mut from, mut to) = (request.stream, there);
        let copied = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        back.join().unwrap().and(copied.map(drop))
    })
}

/// Goes between a client that speaks TLS and `there`, one thread for each direction.
fn tunnel(client: TcpStream, config: Arc<ServerConfig>, port: u16) -> io::Result<()> {
    let mut outer = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, client);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        outer.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    assert!(head.starts_with(format!("CONNECT {NAME} ").as_bytes()));
    outer.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    outer.flush()?;
    let there = TcpStream::connect(("127.0.0.1", port))?;
    let StreamOwned { conn, sock } = outer;
    let conn = Arc::new(Mutex::new(conn));
    let (back, mut from, mut to) = (conn.clone(), there.try_clone()?, sock.try_clone()?);
    let returning = thread::spawn(move || {
        let mut bytes = [0; 4096];
        loop {
            let n = from.read(&mut bytes)?;
            let mut conn = back.lock().unwrap();
            if n == 0 {
                conn.send_close_notify();
                conn.write_tls(&mut to)?;
                return to.shutdown(Shutdown::Write);
            }
            conn.writer().write_all(&bytes[..n])?;
            while conn.wants_write() {
                conn.write_tls(&mut to)?;
            }
        }
    });
    let (mut from, mut to, mut bytes) = (sock, there, [0; 4096]);
    loop {
        let n = from.read(&mut bytes)?;
        let (mut rest, mut plain) = (&bytes[..n], Vec::new());
        let mut conn = conn.lock().unwrap();
        while !rest.is_empty() {
            conn.read_tls(&mut rest)?;
            let state = conn.process_new_packets().map_err(io::Error::other)?;
            let begin = plain.len();
            plain.resize(begin + state.plaintext_bytes_to_read(), 0);
            conn.reader().read_exact(&mut plain[begin..])?;
        }
        drop(conn);
        to.write_all(&plain)?;
        if n == 0 {
            to.shutdown(Shutdown::Write)?;
            return returning.join().unwrap();
        }
    }
}

#[test]
fn a_proxy_that_speaks_tls_and_that_this_machine_trusts() {
    if !require("openssl") {
        return;
    }
    let (site, dir) = (Site::new(), tempfile::tempdir().unwrap());
    let authority = Authority::make(dir.path(), "proxies");
    let (certificate, key) = authority.sign("proxy", &["subjectAltName=IP:127.0.0.1"]);
    let (chain, key) = identity(&certificate, &key);
    let config = versions(ALL_VERSIONS).with_no_client_auth().with_single_cert(chain, key).unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let setting = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let registry = site.tls.port();
    // It listens as long as this process lives.
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(move || tunnel(client, config, registry));
        }
    });
    let directory = dir.path().join("certs.d").join(NAME);
    fs::create_dir_all(&directory).unwrap();
    fs::copy(&site.authority, directory.join("ca.crt")).unwrap();
    let said = pull_apart(
        dir.path(),
        &format!("{NAME}/app:v1"),
        &authority.certificate,
        &[("https_proxy", &setting), ("no_proxy", ""), ("NO_PROXY", "")],
    );
    assert_eq!(said, "pulled");
}

fn line<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))
}

#[test]
fn a_registry_behind_a_proxy_with_a_login() {
    if !require("openssl") {
        return;
    }
    let site = Site::new();
    let proxy = proxy(site.tls.port());
    let setting = format!("http://m%65:p%40w@127.0.0.1:{}", proxy.port());
    // What is for http:// alone has no say in what is asked by https://.
    let variables = [("HTTP_PROXY", "http://127.0.0.1:9"), ("HTTPS_PROXY", &setting), ("NO_PROXY", "example:1,.org")];
    let host = site.host(NAME, &variables);
    host.image(&format!("{NAME}/app:v1"));
    assert!(proxy.hits() > 2, "one connection per request");
    for head in proxy.heads() {
        assert!(head.starts_with(&format!("CONNECT {NAME} HTTP/1.1\r\n")), "{head}");
        assert_eq!(line(&head, "proxy-authorization"), Some("Proxy-Authorization: Basic bWU6cEB3"));
    }
    assert!(site.content.heads().iter().all(|head| line(head, "proxy-authorization").is_none()));
    // This host is not asked through another.
    let (hits, here) = (proxy.hits(), format!("127.0.0.1:{}", site.tls.port()));
    site.host(&here, &variables).image(&format!("{here}/app:v1"));
    assert_eq!(proxy.hits(), hits);
}

#[test]
fn what_a_proxy_refuses_is_told_without_its_password() {
    if !require("openssl") {
        return;
    }
    let site = Site::new();
    for (status, said, hits) in [
        (407, ", which wants another login than it was given, or one at all", 1),
        (403, ", which answers 403", 1),
        (503, ", which answers 503", 4),
    ] {
        let proxy = Server::raw(format!("HTTP/1.1 {status} X\r\nProxy-Authenticate: Basic realm=x\r\n\r\n"));
        let host = site.host(NAME, &[("https_proxy", &format!("me:secret@127.0.0.1:{}", proxy.port()))]);
        let refusal = host.refusal(&format!("{NAME}/app:v1"));
        let through = format!("through the proxy 127.0.0.1:{} (https_proxy){said}", proxy.port());
        assert!(refusal.contains(&format!("cannot connect to {NAME} {through}")), "{refusal}");
        let told = host.recorder.0.lock().unwrap().join("\n");
        assert!(!refusal.contains("secret") && !told.contains("secret"), "{refusal} {told}");
        assert_eq!(proxy.hits(), hits, "{status}");
    }
    let gone = proxy(1).port();
    let host = site.host(NAME, &[("ALL_PROXY", &format!("http://me:secret@127.0.0.1:{gone}"))]);
    let refusal = host.refusal(&format!("{NAME}/app:v1"));
    assert!(refusal.contains(&format!("through the proxy 127.0.0.1:{gone} (ALL_PROXY): ")), "{refusal}");
    assert!(!refusal.contains("secret"), "{refusal}");
}

#[test]
fn a_setting_that_names_no_proxy_is_named_without_its_password() {
    let server = Content::default().serve();
    for (value, why) in [
        ("socks5://me:secret@127.0.0.1:1080", "SOCKS is not spoken here"),
        ("http://me:secret@", "it has no host"),
        ("http://me:secret@127.0.0.1:port", "its port is no port"),
    ] {
        let mut host = Host::new();
        host.registries.client.proxies =
            Proxies::in_environment(|name| (name == "ALL_PROXY").then(|| value.to_owned().into()));
        let error = host.pull(&format!("{NAME}/app:v1")).unwrap_err();
        assert!(chain(&error).contains(&format!("ALL_PROXY names no proxy: {why}")), "{}", chain(&error));
        assert!(!chain(&error).contains("secret") && !format!("{error:?}").contains("secret"), "{error:?}");
        // Who needs none is not kept from anything.
        assert!(host.refusal(&reference(&server, "v1")).contains("has no app:v1"));
    }
}

#[test]
fn a_proxy_that_speaks_tls_is_not_vouched_for_by_who_vouches_for_the_registry() {
    if !require("openssl") {
        return;
    }
    let site = Site::new();
    // The registry's certificate is good for this address as well.
    let host = site.host(NAME, &[("HTTPS_PROXY", &format!("https://127.0.0.1:{}", site.tls.port()))]);
    let refusal = host.refusal(&format!("{NAME}/app:v1"));
    let through = format!("through the proxy 127.0.0.1:{} (HTTPS_PROXY): ", site.tls.port());
    assert!(refusal.contains(&through), "{refusal}");
    assert!(refusal.contains("its certificate is signed by no authority that is trusted here"), "{refusal}");
    assert_eq!(site.content.hits(), 0);
}
