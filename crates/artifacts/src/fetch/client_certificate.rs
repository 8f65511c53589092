//! Client certificates: what is shown to a server that asks who the client is.

use super::trust::{PassedOver, certificates, read};
use rustls::{
    DistinguishedName, InconsistentKeys, SignatureScheme,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Certificate of a client, with its key.
#[derive(Debug, Clone)]
pub(super) struct ClientCertificate {
    path: PathBuf,
    key: Arc<CertifiedKey>,
}

/// What a server was shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Shown {
    /// It asked for no certificate.
    #[default]
    Unasked,
    /// It asked, and there was none for it.
    Nothing,
    /// The certificate in this file.
    Certificate(PathBuf),
}

/// Answer to a server that asks for a certificate.
#[derive(Debug)]
pub(super) struct Wallet {
    certificates: Vec<ClientCertificate>,
    shown: Arc<Mutex<Shown>>,
}

impl ClientCertificate {
    /// Loads a certificate, with those of the authorities between it and a known one, and its key.
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Self, PassedOver> {
        let chain = certificates(certificate)?;
        let unfit = |why: &str| PassedOver::new(key, why);
        let text = read(key)?;
        let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            let encrypted = String::from_utf8_lossy(&text).contains("ENCRYPTED");
            unfit(if encrypted { "it is encrypted with a password" } else { "it has no private key in it" })
        })?;
        let secret = ring::default_provider().key_provider.load_private_key(secret);
        let key = CertifiedKey::new(chain, secret.map_err(|_| unfit("its key is of a kind that cannot be used"))?);
        // Of a certificate that cannot be read here, such as one of X.509 version 1, the server may think otherwise.
        if let Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = key.keys_match() {
            return Err(unfit(&format!("it is not the key of {}", certificate.display())));
        }
        Ok(Self { path: certificate.to_owned(), key: Arc::new(key) })
    }

    fn can_sign(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }

    /// Whether one of these authorities signed it, or signed one that did.
    fn is_of(&self, authorities: &[&[u8]]) -> bool {
        self.key.cert.iter().any(|certificate| {
            let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
            let issuer = DistinguishedName::in_sequence(certificate.issuer());
            authorities.contains(&issuer.as_ref())
        })
    }
}

impl Wallet {
    pub(super) fn new(certificates: &[ClientCertificate], shown: Arc<Mutex<Shown>>) -> Self {
        Self { certificates: certificates.to_vec(), shown }
    }
}

impl ResolvesClientCert for Wallet {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut fit: Vec<_> = self.certificates.iter().filter(|one| one.can_sign(schemes)).collect();
        // The server's list is a hint, which not every server fills in well: one of its authorities comes first.
        fit.sort_by_key(|one| !one.is_of(authorities));
        let chosen = fit.first();
        let shown = chosen.map_or(Shown::Nothing, |one| Shown::Certificate(one.path.clone()));
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        chosen.map(|one| one.key.clone())
    }

    fn has_certs(&self) -> bool {
        !self.certificates.is_empty()
    }
}
