//! Certificates made by `openssl`, signed by themselves or by an authority, and the configuration of a private registry
//! that uses one and knows one user.
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

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate.
    pub certificate: PathBuf,
    key: PathBuf,
    dir: PathBuf,
}

impl Authority {
    /// Moments between which a certificate is valid that is neither too old nor too new.
    const NOW: [&str; 2] = ["20200101000000Z", "20990101000000Z"];
    const CONFIGURATION: &str = "[ca]\ndefault_ca = here\n[here]\ndatabase = index.txt\nrand_serial = yes\npolicy = any\n\
        [any]\ncommonName = optional\n";

    /// Makes the authority `name` in a directory of its own in `dir`.
    #[track_caller]
    pub fn make(dir: &Path, name: &str) -> Self {
        let dir = dir.join(format!("authority-{name}"));
        fs::create_dir(&dir).expect("the authority's directory");
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", &format!("/CN={name}")];
        let (certificate, key) = certificate(&dir, name, &of);
        fs::write(dir.join("ca.cnf"), Self::CONFIGURATION).expect("the authority's configuration");
        fs::write(dir.join("index.txt"), "").expect("the authority's list");
        // The same name may be signed again.
        fs::write(dir.join("index.txt.attr"), "unique_subject = no\n").expect("how the list is kept");
        Self { certificate, key, dir }
    }

    /// Signs a certificate with these extensions (`subjectAltName=DNS:localhost`); returns it and its key.
    #[track_caller]
    pub fn sign(&self, name: &str, extensions: &[&str]) -> (PathBuf, PathBuf) {
        self.sign_for(name, extensions, Self::NOW)
    }

    /// Signs one that is valid between two moments (`YYYYMMDDHHMMSSZ`).
    #[track_caller]
    pub fn sign_for(&self, name: &str, extensions: &[&str], [from, to]: [&str; 2]) -> (PathBuf, PathBuf) {
        let path = |extension: &str| self.dir.join(format!("{name}.{extension}"));
        let (key, request, list, signed) = (path("key"), path("csr"), path("ext"), path("crt"));
        fs::write(&list, extensions.join("\n")).expect("the extensions");
        let openssl = |args: &[&str], files: &[(&str, &Path)]| {
            let mut command = Command::new("openssl");
            command.args(args).current_dir(&self.dir);
            for (option, path) in files {
                command.arg(option).arg(path);
            }
            let made = command.output().expect("openssl, which scripts/setup.sh --test installs");
            assert!(made.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&made.stderr));
        };
        let new = ["req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        let subject = format!("/CN={name}");
        openssl(&[&new[..], &["-subj", &subject]].concat(), &[("-keyout", &key), ("-out", &request)]);
        let ca = ["ca", "-batch", "-notext", "-config", "ca.cnf", "-md", "sha256", "-outdir", "."];
        openssl(
            &[&ca[..], &["-startdate", from, "-enddate", to]].concat(),
            &[
                ("-cert", &self.certificate),
                ("-keyfile", &self.key),
                ("-extfile", &list),
                ("-in", &request),
                ("-out", &signed),
            ],
        );
        (signed, key)
    }
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
