//! Tests of registries on loopback that speak TLS, which a client finds out.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::Layer,
    registry::{Content, Host, chain},
};
use crate::{
    tls::Tls,
    web::{Server, ok, redirect},
};
use banger_testkit::{Private, require};
use serde_json::json;
use std::{
    io::Write as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Not a test by itself: child process that pulls with the certificates its parent says this host trusts.
#[test]
fn loopback_child() {
    let Ok(reference) = std::env::var("BANGER_TEST_REFERENCE") else { return };
    let root = std::env::var("BANGER_TEST_ROOT").unwrap();
    let said = match Host::within(Path::new(&root)).pull(&reference) {
        Ok(_) => "pulled".to_owned(),
        Err(error) => chain(&error),
    };
    std::fs::write(Path::new(&root).join("said"), said).unwrap();
}

/// Runs a pull of `reference` by a host in `dir`, in a process whose host trusts `certificate` and whose environment
/// has these variables besides; returns what came of it.
pub(super) fn pull_apart(dir: &Path, reference: &str, certificate: &Path, variables: &[(&str, &str)]) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "oci::loopback::loopback_child"])
        .env("BANGER_TEST_REFERENCE", reference)
        .env("BANGER_TEST_ROOT", dir)
        .env("SSL_CERT_FILE", certificate)
        .env_remove("SSL_CERT_DIR")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    std::fs::read_to_string(dir.join("said")).unwrap()
}

/// Pulls `app:v1` from a registry on `port`, with a login, on a host that trusts `certificate`; returns what came of
/// it.
fn pull(port: u16, certificate: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let login = json!({"auths": {format!("127.0.0.1:{port}"): {"auth": Private::AUTH}}});
    std::fs::write(dir.path().join("auth.json"), login.to_string()).unwrap();
    pull_apart(dir.path(), &format!("127.0.0.1:{port}/app:v1"), certificate, &[])
}

fn has_login(head: &str) -> bool {
    head.to_lowercase().contains("authorization:")
}

/// Registry without TLS that gives `v1` to those with the `Authorization` header `wanted`.
fn registry(wanted: &'static str, challenge: impl Fn() -> String + Send + Sync + 'static) -> Server {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done(), Layer::new().file("b", "b").done()]);
    Server::start_with_heads(move |mut request, head| {
        if head.lines().any(|line| line.eq_ignore_ascii_case(&format!("authorization: {wanted}"))) {
            return content.answer(request);
        }
        if request.path.starts_with("/token") {
            return request.stream.write_all(&ok(br#"{"token":"TOKEN"}"#));
        }
        let challenge = challenge();
        let answer = format!("HTTP/1.1 401 X\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
        request.stream.write_all(answer.as_bytes())
    })
}

/// Answer to a request without TLS that a server gives at `port`.
type Plain = fn(&str, u16) -> Option<Vec<u8>>;

const WAYS: [(&str, Plain); 6] = [
    ("an alert", |_, _| None),
    ("another alert", |_, _| Some(vec![0x15, 3, 1, 0, 2, 2, 70])),
    ("no word", |_, _| Some(Vec::new())),
    ("no HTTP", |_, _| Some(b"\0\x01what?\r\n\r\n".to_vec())),
    ("a bad request", |_, _| {
        let page = "Client sent an HTTP request to an HTTPS server.\n";
        Some(format!("HTTP/1.0 400 Bad Request\r\n\r\n{page}").into_bytes())
    }),
    ("a redirect", |head, port| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        Some(redirect(&format!("https://127.0.0.1:{port}{path}")))
    }),
];

#[test]
fn tls_is_found_out_with_the_first_request_and_kept_to() {
    if !require("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = Private::make(dir.path());
    for (way, plain) in WAYS {
        let registry = registry("Basic bWU6cHc=", || "Basic realm=\"r\"".into());
        let tls = Tls::with(registry.port(), &own.certificate, &own.key, plain);
        assert_eq!(pull(tls.port(), &own.certificate), "pulled", "{way}");
        assert_eq!(tls.plain().len(), 1, "{way}: {:?}", tls.plain());
        assert!(!tls.plain().iter().any(|head| has_login(head)), "{way}: {:?}", tls.plain());
        assert!(registry.heads().iter().filter(|head| has_login(head)).count() > 3, "{way}");
    }
}

#[test]
fn a_registry_that_does_not_know_of_its_tls_is_asked_for_tokens_by_tls() {
    if !require("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = Private::make(dir.path());
    for (way, plain) in WAYS {
        let realm = Arc::new(std::sync::OnceLock::<u16>::new());
        let port = realm.clone();
        let registry = registry("Bearer TOKEN", move || {
            format!("Bearer realm=\"http://127.0.0.1:{}/token\"", port.get().unwrap())
        });
        let tls = Tls::with(registry.port(), &own.certificate, &own.key, plain);
        realm.set(tls.port()).unwrap();
        assert_eq!(pull(tls.port(), &own.certificate), "pulled", "{way}");
        assert_eq!(tls.plain().len(), 1, "{way}: {:?}", tls.plain());
        let tokens = registry.heads().into_iter().filter(|head| head.starts_with("GET /token"));
        assert!(tokens.into_iter().all(|head| head.contains(Private::AUTH)), "{way}");
    }
}

#[test]
fn a_token_service_that_has_certificates_is_asked_by_tls_whatever_the_registry_calls_it() {
    if !require("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = Private::make(dir.path());
    let service = Server::serving(br#"{"token":"TOKEN"}"#);
    let tls = Tls::before(service.port(), &own.certificate, &own.key);
    let realm = format!("http://127.0.0.1:{}/token", tls.port());
    let registry = registry("Bearer TOKEN", move || format!("Bearer realm=\"{realm}\""));
    let host = Host::new();
    let login = json!({"auths": {format!("127.0.0.1:{}", registry.port()): {"auth": Private::AUTH}}});
    std::fs::write(host.dir.path().join("auth.json"), login.to_string()).unwrap();
    let certificates = host.dir.path().join(format!("certs.d/127.0.0.1:{}", tls.port()));
    std::fs::create_dir_all(&certificates).unwrap();
    std::fs::copy(&own.certificate, certificates.join("ca.crt")).unwrap();
    host.image(&super::registry::reference(&registry, "v1"));
    assert_eq!(tls.plain(), Vec::<String>::new());
    assert!(service.heads()[0].contains(Private::AUTH));
}

#[test]
fn tls_that_is_found_out_in_the_middle_of_a_pull_is_kept_to() {
    if !require("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = Private::make(dir.path());
    let registry = registry("Basic bWU6cHc=", || "Basic realm=\"r\"".into());
    // It asks for the login without TLS, and leads whoever has said it to TLS from then on.
    let asked = AtomicBool::new(false);
    let tls = Tls::with(registry.port(), &own.certificate, &own.key, move |head, port| {
        if !head.is_empty() && !asked.swap(true, Ordering::SeqCst) {
            let head = "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=r\r\nContent-Length: 0\r\n\r\n";
            return Some(head.as_bytes().to_vec());
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        Some(redirect(&format!("https://127.0.0.1:{port}{path}")))
    });
    assert_eq!(pull(tls.port(), &own.certificate), "pulled");
    assert_eq!(tls.plain().len(), 2, "{:?}", tls.plain());
}

#[test]
fn tls_that_is_not_trusted_is_what_the_failure_is_about() {
    if !require("openssl") {
        return;
    }
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, others) = (Private::make(dir.path()), Private::make(other.path()));
    for (way, plain) in WAYS {
        let registry = registry("Basic bWU6cHc=", || "Basic realm=\"r\"".into());
        let tls = Tls::with(registry.port(), &own.certificate, &own.key, plain);
        let said = pull(tls.port(), &others.certificate);
        assert!(said.contains(&format!("cannot trust 127.0.0.1:{}", tls.port())), "{way}: {said}");
        assert_eq!((registry.hits(), tls.plain().len()), (0, 1), "{way}");
    }
}

#[test]
fn what_is_no_tls_either_fails_as_it_did() {
    let host = Host::new();
    for (answer, said) in [
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", "answers 400 Bad Request: \"no\""),
        ("\0\0\r\n\r\n", "does not answer as a web server does"),
        ("", "cannot connect to 127.0.0.1"),
    ] {
        let server = Server::raw(answer);
        let refusal = host.refusal(&super::registry::reference(&server, "v1"));
        assert!(refusal.contains(said), "{refusal}");
    }
    // Who has answered without TLS once is not asked by TLS because of a bad request.
    let server = Server::start(|mut request| match request.number {
        0 => request.stream.write_all(b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"),
        _ => request.stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    });
    host.refusal(&super::registry::reference(&server, "v1"));
    assert_eq!(server.hits(), 2);
}
