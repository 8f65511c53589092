//! Token service for `docker-registry`: its tokens are signed, and valid for one repository and its actions.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use crate::{
    tls::Tls,
    web::{Server, ok},
};
use banger_artifacts::program::Program;
use banger_testkit::{Private, certificate};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

const ISSUER: &str = "the test";
const SERVICE: &str = "registry";

pub(super) struct Service {
    server: Server,
    /// Address it is reached at.
    realm: String,
    given: Arc<AtomicUsize>,
    certificate: PathBuf,
}

impl Service {
    pub(super) fn start(dir: &Path) -> Self {
        let (certificate, key) = certificate(dir, "token", &["-newkey", "rsa:2048", "-subj", "/CN=the test"]);
        let given = Arc::new(AtomicUsize::new(0));
        let (counter, chain) = (given.clone(), x5c(&certificate));
        // It gives nobody else anything.
        let login = format!("authorization: Basic {}", Private::AUTH);
        let server = Server::start_with_heads(move |mut request, head| {
            let known = head.lines().any(|line| line.eq_ignore_ascii_case(&login));
            let Some(access) = access(&request.path).filter(|_| known) else {
                return request.stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
            };
            counter.fetch_add(1, Ordering::SeqCst);
            let token = token(&access, &chain, &key);
            request.stream.write_all(&ok(json!({"token": token, "expires_in": 300}).to_string().as_bytes()))
        });
        let realm = server.url("/token");
        Self { server, realm, given, certificate }
    }

    /// Makes it reachable through `tls`, as `name`.
    pub(super) fn behind(self, tls: &Tls, name: &str) -> Self {
        Self { realm: format!("https://{name}:{}/token", tls.port()), ..self }
    }

    /// Returns its address without TLS.
    pub(super) fn port(&self) -> u16 {
        self.server.port()
    }

    /// Returns the configuration of a registry that trusts it.
    pub(super) fn configuration(&self) -> String {
        let (realm, bundle) = (&self.realm, self.certificate.display());
        format!(
            "auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {bundle}}}}}\n"
        )
    }

    /// Returns how many tokens it gave.
    pub(super) fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

/// Parses `?scope=repository:NAME:ACTIONS`.
fn access(path: &str) -> Option<Value> {
    let query = path.split_once('?')?.1;
    let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope="))?;
    let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    let mut parts = scope.splitn(3, ':');
    let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
    Some(json!([{"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}]))
}

/// Returns the certificate in the form of a token.
fn x5c(certificate: &Path) -> String {
    let text = fs::read_to_string(certificate).unwrap();
    text.lines().filter(|line| !line.starts_with("-----")).collect()
}

fn token(access: &Value, chain: &str, key: &Path) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [chain]});
    let claims = json!({"iss": ISSUER, "aud": SERVICE, "sub": "me", "iat": now, "nbf": now - 60, "exp": now + 300,
        "jti": now.to_string(), "access": access});
    let signed = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mut openssl = Command::new(Program::find("openssl").unwrap())
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
    let signature = openssl.wait_with_output().unwrap().stdout;
    assert!(STANDARD.encode(&signature).len() > 100, "a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
