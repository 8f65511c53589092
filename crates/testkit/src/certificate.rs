//! Self-signed certificates made by `openssl`, and the configuration of a private registry that uses one and knows one
//! user.
//!
//! Call `require("openssl")` first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes a certificate and its key, `NAME.crt` and `NAME.key`; `of` is the end of the arguments of `openssl req`.
#[track_caller]
pub fn certificate(dir: &Path, name: &str, of: &[&str]) -> (PathBuf, PathBuf) {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2"])
        .args(of)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl, which scripts/setup.sh --test installs");
    assert!(made.status.success(), "openssl {of:?}: {}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

/// Settings of a private registry: TLS with a certificate for 127.0.0.1 that no authority signed, and a password.
#[derive(Debug)]
pub struct Private {
    /// The certificate, for clients that are to trust it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    htpasswd: PathBuf,
}

impl Private {
    /// User and password, as typed and as in a file of logins.
    pub const LOGIN: &str = "me:pw";
    /// User and password in base64.
    pub const AUTH: &str = "bWU6cHc=";
    /// User and password as the registry stores them: bcrypt, the only format it accepts.
    const HTPASSWD: &str = "me:$2b$05$w0mvG/uo2JezNRSt5RTeQeRN2U0ahsuJ8.FJqc1oHWJtcgae8cNnC\n";

    /// Creates the files in `dir`.
    #[track_caller]
    pub fn make(dir: &Path) -> Self {
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"];
        // Nothing says that it is no authority's: so openssl makes it one's, as it does for everybody who follows a
        // recipe.
        let about = ["-addext", "subjectAltName=IP:127.0.0.1"];
        let (certificate, key) = certificate(dir, "registry", &[&of[..], &about].concat());
        let htpasswd = dir.join("htpasswd");
        fs::write(&htpasswd, Self::HTPASSWD).expect("the registry's passwords");
        Self { certificate, key, htpasswd }
    }

    /// End of a registry's configuration ([`crate::Registry::start`]) for TLS alone.
    pub fn tls(&self) -> String {
        format!("  tls: {{certificate: {}, key: {}}}\n", self.certificate.display(), self.key.display())
    }

    /// End of a registry's configuration for TLS and the password.
    pub fn configuration(&self) -> String {
        format!("{}auth: {{htpasswd: {{realm: r, path: {}}}}}\n", self.tls(), self.htpasswd.display())
    }
}
