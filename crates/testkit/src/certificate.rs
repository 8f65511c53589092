//! Certificates that vouch for themselves, as `openssl` makes them, and the registry that shows one and knows one person.
//!
//! Ask for the capability `openssl` first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes a certificate as `of` says, which goes on with the arguments of `openssl req`, and its key: `NAME.crt` and
/// `NAME.key`.
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

/// What makes a registry private: TLS with a certificate of 127.0.0.1 that no authority signed, and a password.
#[derive(Debug)]
pub struct Private {
    /// The certificate, for those who are to trust it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    htpasswd: PathBuf,
}

impl Private {
    /// Who may come in, as people write it and as a file of logins has it.
    pub const LOGIN: &str = "me:pw";
    /// The same in base64.
    pub const AUTH: &str = "bWU6cHc=";
    /// The same as the registry has it: bcrypt, the only kind that it takes.
    const HTPASSWD: &str = "me:$2b$05$w0mvG/uo2JezNRSt5RTeQeRN2U0ahsuJ8.FJqc1oHWJtcgae8cNnC\n";

    /// Makes it in `dir`.
    #[track_caller]
    pub fn make(dir: &Path) -> Self {
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"];
        // Nothing says that it is no authority's: so openssl makes it one's, as it does for everybody who follows a recipe.
        let about = ["-addext", "subjectAltName=IP:127.0.0.1"];
        let (certificate, key) = certificate(dir, "registry", &[&of[..], &about].concat());
        let htpasswd = dir.join("htpasswd");
        fs::write(&htpasswd, Self::HTPASSWD).expect("the registry's passwords");
        Self { certificate, key, htpasswd }
    }

    /// What goes on with a registry's configuration ([`crate::Registry::start`]) for TLS alone.
    pub fn tls(&self) -> String {
        format!("  tls: {{certificate: {}, key: {}}}\n", self.certificate.display(), self.key.display())
    }

    /// The same, and for the password too.
    pub fn configuration(&self) -> String {
        format!("{}auth: {{htpasswd: {{realm: r, path: {}}}}}\n", self.tls(), self.htpasswd.display())
    }
}
