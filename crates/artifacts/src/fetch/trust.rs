//! Certificates for a request: who is trusted, and what is shown to a server that asks who the client is.

use super::client_certificate::ClientCertificate;
use rustix::fs::OFlags;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Largest file with certificates or a key, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Certificates, loaded once for many requests.
#[derive(Clone, Default)]
pub struct Trust(Arc<Inner>);

#[derive(Clone, Default)]
struct Inner {
    /// Trusted besides those of this host.
    also: Vec<CertificateDer<'static>>,
    clients: Vec<ClientCertificate>,
    passed_over: Vec<PassedOver>,
    /// All that are trusted, loaded when they are first needed.
    trusted: OnceLock<Vec<CertificateDer<'static>>>,
}

/// File that was to be used and cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is passed over: {why}", path.display())]
pub struct PassedOver {
    /// Path.
    pub path: PathBuf,
    /// Reason.
    pub why: String,
}

impl PassedOver {
    /// A file that is not used for this reason.
    pub fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), why: why.into() }
    }
}

impl Trust {
    /// Trusts those this host trusts (its administrator may have changed them), and those in these files; a file that
    /// cannot be read is passed over.
    pub fn of_host(also: &[impl AsRef<Path>]) -> Self {
        let mut inner = Inner::default();
        for path in also {
            match certificates(path.as_ref()) {
                Ok(more) => inner.also.extend(more),
                Err(unfit) => inner.passed_over.push(unfit),
            }
        }
        Self(Arc::new(inner))
    }

    /// Shows this certificate to a server that asks for one, unless it or its key cannot be read.
    #[must_use]
    pub fn client(mut self, certificate: &Path, key: &Path) -> Self {
        match ClientCertificate::load(certificate, key) {
            Ok(client) => Arc::make_mut(&mut self.0).clients.push(client),
            Err(unfit) => return self.without(unfit),
        }
        self
    }

    /// Remembers a file that is not used.
    #[must_use]
    pub fn without(mut self, unfit: PassedOver) -> Self {
        Arc::make_mut(&mut self.0).passed_over.push(unfit);
        self
    }

    /// Returns the files that are not used.
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.0.passed_over
    }

    pub(super) fn clients(&self) -> &[ClientCertificate] {
        &self.0.clients
    }

    /// Returns all trusted certificates.
    pub(super) fn trusted(&self) -> &[CertificateDer<'static>] {
        self.0.trusted.get_or_init(|| {
            let mut found = rustls_native_certs::load_native_certs().certs;
            found.extend(self.0.also.iter().cloned());
            found
        })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { also, clients, passed_over, .. } = &*self.0;
        let [also, clients, passed_over] = [also.len(), clients.len(), passed_over.len()];
        write!(f, "Trust({also} besides the host's, {clients} to show, {passed_over} passed over)")
    }
}

/// Reads a file that may be anybody's.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PassedOver> {
    let failed = |error: io::Error| PassedOver::new(path, format!("it cannot be read: {error}"));
    // Opening must not block on a fifo without a writer.
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = file.map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(PassedOver::new(path, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(PassedOver::new(path, format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// Reads a file with one certificate or more.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PassedOver> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(PassedOver::new(path, "it has no certificate in PEM in it")),
        Ok(found) => Ok(found),
        Err(_) => Err(PassedOver::new(path, "it is malformed")),
    }
}
