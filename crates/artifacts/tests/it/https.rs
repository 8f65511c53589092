//! Tests of failures of TLS, with real certificates: what they are about is said in words.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{tls::Tls, web::Server};
use banger_artifacts::{
    fetch::{BodyLength, Client, FetchError, Request, Trust},
    job::{Cancel, Job, Silent},
};
use banger_testkit::{Authority, certificate, require};
use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Extension of a certificate for the tests' server.
const HERE: &str = "subjectAltName=IP:127.0.0.1";

fn get(port: u16, trusted: &[&Path]) -> Result<Vec<u8>, FetchError> {
    let minute = Duration::from_secs(60);
    let client = Client { connect: minute, stall: minute, ..Client::default() };
    let address = format!("https://127.0.0.1:{port}/file").parse().unwrap();
    let (request, cancel) = (Request::new(address).trust(Some(Trust::of_host(trusted))), Cancel::default());
    let mut body = client.ask(&request, BodyLength::UpTo(9), &Job { progress: &Silent, cancel: &cancel })?;
    let mut bytes = Vec::new();
    let _ = body.read_to_end(&mut bytes);
    body.finish().map(|_| bytes)
}

/// Asks a server with this certificate, and returns what the failure says, without the server's port.
fn said((certificate, key): &(PathBuf, PathBuf), trusted: &[&Path]) -> String {
    let server = Server::serving("here");
    let tls = Tls::before(server.port(), certificate, key);
    match get(tls.port(), trusted) {
        Ok(bytes) => String::from_utf8(bytes).unwrap(),
        Err(error) => {
            assert!(matches!(error, FetchError::Tls { .. }), "{error:?}");
            assert_eq!(server.hits(), 0, "nothing is sent to who is not trusted");
            text(&error, tls.port())
        }
    }
}

fn text(error: &FetchError, port: u16) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {cause}").replace(&format!("127.0.0.1:{port}"), "HOST")
}

#[test]
fn certificates_that_are_not_good_enough() {
    if !require("openssl") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::make(temp.path(), "ours"), Authority::make(temp.path(), "theirs"));
    let trusted = [ours.certificate.as_path()];
    let good = ours.sign("good", &[HERE, "extendedKeyUsage=serverAuth"]);
    assert_eq!(said(&good, &trusted), "here");
    assert_eq!(
        said(&theirs.sign("foreign", &[HERE]), &trusted),
        "cannot trust HOST: its certificate is signed by no authority that is trusted here"
    );
    let old = ours.sign_for("old", &[HERE], ["20190102030405Z", "20200102030405Z"]);
    assert_eq!(said(&old, &trusted), "cannot trust HOST: its certificate expired at 2020-01-02T03:04:05Z");
    let new = ours.sign_for("new", &[HERE], ["20980102030405Z", "20990102030405Z"]);
    let text = said(&new, &trusted);
    let begin =
        "cannot trust HOST: its certificate is not valid before 2098-01-02T03:04:05Z, and this host's clock says 2";
    assert!(text.starts_with(begin), "{text}");
    let other = ours.sign("other", &["subjectAltName=DNS:reg.example,DNS:*.reg.example,IP:10.0.0.1"]);
    assert_eq!(
        said(&other, &trusted),
        "cannot trust HOST: its certificate is for reg.example, *.reg.example, 10.0.0.1, and for nothing else"
    );
    let unnamed = ours.sign("127.0.0.1", &["basicConstraints=CA:FALSE"]);
    assert!(said(&unnamed, &trusted).contains("its certificate is for no name and no address"));
    let client = ours.sign("client", &[HERE, "extendedKeyUsage=clientAuth"]);
    assert_eq!(
        said(&client, &trusted),
        "cannot trust HOST: its certificate is not for servers: its extended key usage has no serverAuth, only clientAuth"
    );
    let signing = ours.sign("signing", &[HERE, "extendedKeyUsage=codeSigning"]);
    assert!(said(&signing, &trusted).ends_with("has no serverAuth"));
}

#[test]
fn certificates_that_are_trusted_themselves() {
    if !require("openssl") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let made = |name: &str, extensions: &[&str]| {
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"];
        let extensions: Vec<&str> = extensions.iter().flat_map(|one| ["-addext", one]).collect();
        certificate(temp.path(), name, &[&of[..], &extensions].concat())
    };
    // As usual recipes make it, and others.
    let usual = made("usual", &[HERE]);
    let other = made("other", &[HERE]);
    let server = made("server", &[HERE, "basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth"]);
    assert_eq!(said(&usual, &[&usual.0]), "here");
    assert_eq!(said(&server, &[&server.0]), "here");
    assert_eq!(
        said(&usual, &[&other.0]),
        "cannot trust HOST: its certificate is an authority's own (it may have signed itself), and not one of those \
         trusted here"
    );
    // One that somebody signed who is not trusted here.
    let theirs = Authority::make(temp.path(), "theirs").sign("leaf", &[HERE]);
    assert_eq!(said(&theirs, &[&theirs.0]), "here");
    // A trusted one is trusted for its names and its purpose.
    let elsewhere = made("elsewhere", &["subjectAltName=DNS:reg.example"]);
    assert!(said(&elsewhere, &[&elsewhere.0]).contains("is for reg.example, and for nothing else"));
    for extensions in [&["extendedKeyUsage=clientAuth", HERE][..], &["extendedKeyUsage=codeSigning", HERE]] {
        let client = made("client", extensions);
        assert!(said(&client, &[&client.0]).contains("its certificate is not for servers"));
    }
}

#[test]
fn alerts_of_a_server() {
    if !require("openssl") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let authority = Authority::make(temp.path(), "ours");
    for (alert, words) in [
        (40, "there are no algorithms that both sides accept, or it misses something (handshake_failure)"),
        (70, "it speaks no version of TLS that is spoken here (1.2 and 1.3 are) (protocol_version)"),
        (112, "it knows no host of this name (unrecognized_name)"),
        (80, "it failed itself (internal_error)"),
        (199, "alert 199"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Its greeting, which is one record.
            let mut head = [0; 5];
            stream.read_exact(&mut head).unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).unwrap();
        });
        let error = get(port, &[&authority.certificate]).unwrap_err();
        answering.join().unwrap();
        assert_eq!(text(&error, port), format!("cannot speak TLS with HOST: it ended the handshake: {words}"));
    }
}
