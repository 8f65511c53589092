//! Whom a server's certificate makes trusted.
//!
//! webpki's rules, and besides: a server may show one of the trusted certificates itself, and not only one that a
//! trusted authority signed. `openssl req -x509` marks the certificates it makes as an authority's, and that is how
//! private registries are usually set up. OpenSSL, Go and browsers accept a server's certificate that is one of the
//! trusted ones; webpki refuses every authority's as a server's.

use super::purpose;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, ExtendedKeyPurpose, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use std::{collections::HashSet, sync::Arc};

/// Verifier of servers' certificates.
#[derive(Debug)]
pub(super) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    /// The trusted certificates, byte for byte.
    trusted: HashSet<Vec<u8>>,
}

impl Verifier {
    /// Trusts these certificates, of which hosts have some that cannot be parsed; those are not trusted.
    pub(super) fn new(certificates: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let webpki = webpki.map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { webpki, trusted: certificates.iter().map(|one| one.to_vec()).collect() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // webpki looks at the dates before it finds this, so they are right; the rest is still to be checked.
            Err(error) if is_for_want_of_an_authority(&error) && self.trusted.contains(end_entity.as_ref()) => {
                match purpose::is_for_servers(end_entity) {
                    Some(true) => {}
                    Some(false) => return Err(wrong_purpose()),
                    None => return Err(CertificateError::BadEncoding.into()),
                }
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether webpki refused a certificate for nothing but that it is an authority's, or that nobody it knows signed it.
fn is_for_want_of_an_authority(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(OtherError(source))) => {
            matches!(source.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

fn wrong_purpose() -> Error {
    let (required, presented) = (ExtendedKeyPurpose::ServerAuth, Vec::new());
    CertificateError::InvalidPurposeContext { required, presented }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_testkit::{Authority, certificate};
    use rustls::{crypto::ring, pki_types::pem::PemObject as _};

    /// A certificate as `openssl req -x509` makes it, for `localhost`.
    fn usual(name: &str) -> CertificateDer<'static> {
        with(name, &[])
    }

    fn with(name: &str, extensions: &[&str]) -> CertificateDer<'static> {
        let dir = tempfile::tempdir().unwrap();
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"];
        let extensions = extensions.iter().chain(&["subjectAltName=DNS:localhost"]).flat_map(|one| ["-addext", *one]);
        let (file, _) = certificate(dir.path(), name, &of.into_iter().chain(extensions).collect::<Vec<_>>());
        CertificateDer::from_pem_file(file).unwrap()
    }

    fn verifier(trusted: &CertificateDer<'static>) -> Verifier {
        Verifier::new(std::slice::from_ref(trusted), &Arc::new(ring::default_provider())).unwrap()
    }

    #[test]
    fn a_certificate_of_an_old_version_is_called_that() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::make(dir.path(), "ours");
        let trusted = CertificateDer::from_pem_file(&authority.certificate).unwrap();
        let old = CertificateDer::from_pem_file(authority.sign("localhost", &[]).0).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        for trusted in [trusted, old.clone()] {
            let error = verifier(&trusted).verify_server_cert(&old, &[], &name, &[], UnixTime::now()).unwrap_err();
            let error = crate::fetch::TlsError::from(&error);
            assert!(error.to_string().contains("X.509 version 1, which has no names"), "{error}");
        }
    }

    #[test]
    fn a_trusted_certificate_is_a_servers_only_if_it_is_for_servers() {
        let name = ServerName::try_from("localhost").unwrap();
        for (extensions, good) in [
            (&["extendedKeyUsage=serverAuth"][..], true),
            (&["extendedKeyUsage=clientAuth,serverAuth"], true),
            (&["extendedKeyUsage=clientAuth"], false),
            (&["extendedKeyUsage=clientAuth", "basicConstraints=critical,CA:FALSE"], false),
        ] {
            let trusted = with("trusted", extensions);
            let verified = verifier(&trusted).verify_server_cert(&trusted, &[], &name, &[], UnixTime::now());
            assert_eq!(verified.is_ok(), good, "{extensions:?}: {verified:?}");
            if let Err(error) = verified {
                let error = crate::fetch::TlsError::from(&error);
                assert!(error.to_string().contains("not for servers"), "{error}");
            }
        }
    }

    #[test]
    fn a_trusted_certificate_is_accepted_as_a_servers_own_but_only_for_its_name_and_its_time() {
        let (trusted, other) = (usual("trusted"), usual("other"));
        let verifier = verifier(&trusted);
        let verify = |certificate: &CertificateDer<'_>, name: &'static str, now: UnixTime| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(certificate, &[], &name, &[], now).map(drop)
        };
        let now = UnixTime::now();
        let refused = |result: Result<(), Error>| match result {
            Err(Error::InvalidCertificate(why)) => why,
            other => panic!("{other:?}"),
        };
        verify(&trusted, "localhost", now).unwrap();
        assert!(is_for_want_of_an_authority(&refused(verify(&other, "localhost", now)).into()));
        let why = refused(verify(&trusted, "elsewhere", now));
        assert!(matches!(why, CertificateError::NotValidForNameContext { .. }), "{why:?}");
        let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs() + 9 * 86_400));
        let why = refused(verify(&trusted, "localhost", later));
        assert!(matches!(why, CertificateError::ExpiredContext { .. }), "{why:?}");
    }
}
