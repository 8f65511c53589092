//! TLS to servers that show a trusted certificate itself, and not one that a trusted authority signed.
//!
//! `openssl req -x509` marks the certificates it makes as an authority's, and that is how private registries are
//! usually set up. OpenSSL, Go and browsers accept a server's certificate that is one of the trusted ones; webpki
//! refuses every authority's as a server's. So [`Verifier`] accepts exactly this case besides webpki's, and because
//! ureq takes no verifier, [`Connector`] does what its own connector does.

use rustls::{
    ALL_VERSIONS, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme, StreamOwned,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use std::{
    collections::HashSet,
    fmt,
    io::{Read as _, Write as _},
    sync::Arc,
};
use ureq::{
    Error,
    tls::Certificate,
    unversioned::transport::{
        Buffers, ConnectionDetails, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
        time::{Duration, Instant},
    },
};

/// Wraps connections to `https` addresses in TLS and verifies who answers.
#[derive(Debug)]
pub(super) struct Connector(Arc<ClientConfig>);

impl Connector {
    /// A connector that trusts these certificates.
    pub(super) fn trusting(certificates: &[Certificate<'_>]) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        // Hosts have some that cannot be parsed; they are not trusted.
        roots.add_parsable_certificates(certificates.iter().map(|one| CertificateDer::from(one.der())));
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|_| Error::Tls("no certificate that is trusted can be used"))?;
        let trusted = certificates.iter().map(|one| one.der().to_vec()).collect();
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(ALL_VERSIONS)?;
        let verifier = Arc::new(Verifier { webpki, trusted });
        let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

impl<In: Transport> ureq::unversioned::transport::Connector<In> for Connector {
    type Out = Either<In, Encrypted>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().ok_or(Error::HostNotFound)?;
        // An IPv6 address is in brackets in an address, and in none here.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Tls("the host's name is not one"))?;
        let mut connection = ClientConnection::new(self.0.clone(), name)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(remaining(details));
        connection.complete_io(&mut socket)?;
        let config = details.config;
        Ok(Some(Either::B(Encrypted {
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

/// The time to connect that is left after the connection below TLS was made.
fn remaining(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Duration::Exact(after), Instant::Exact(since), Instant::Exact(now)) =
        (timeout.after, details.now, (details.current_time)())
    {
        timeout.after = Duration::Exact(after.saturating_sub(now.duration_since(since)));
    }
    timeout
}

/// A connection wrapped in TLS.
pub(super) struct Encrypted {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Encrypted").field(&self.stream.sock.inner()).finish()
    }
}

/// webpki's rules, and besides: a server may show one of the trusted certificates itself.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    /// The trusted certificates, byte for byte.
    trusted: HashSet<Vec<u8>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // webpki looks at the dates before it finds this, so they are right; the name is still to be compared.
            Err(error) if is_authority_as_server(&error) && self.trusted.contains(end_entity.as_ref()) => {
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
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether webpki refused a certificate for nothing but that it is an authority's.
fn is_authority_as_server(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(source))) = error else { return false };
    matches!(source.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_testkit::certificate;
    use rustls::pki_types::pem::PemObject as _;

    /// A certificate as `openssl req -x509` makes it, for `localhost`.
    fn usual(name: &str) -> CertificateDer<'static> {
        let dir = tempfile::tempdir().unwrap();
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"];
        let (file, _) =
            certificate(dir.path(), name, &[&of[..], &["-addext", "subjectAltName=DNS:localhost"]].concat());
        CertificateDer::from_pem_file(file).unwrap()
    }

    fn verifier(trusted: &CertificateDer<'_>) -> Verifier {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone().into_owned()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        Verifier { webpki, trusted: HashSet::from([trusted.to_vec()]) }
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
        let refused = |result: Result<(), rustls::Error>| match result {
            Err(rustls::Error::InvalidCertificate(why)) => why,
            other => panic!("{other:?}"),
        };
        verify(&trusted, "localhost", now).unwrap();
        assert!(is_authority_as_server(&rustls::Error::InvalidCertificate(refused(verify(&other, "localhost", now)))));
        let why = refused(verify(&trusted, "elsewhere", now));
        assert!(matches!(why, CertificateError::NotValidForNameContext { .. }), "{why:?}");
        let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs() + 9 * 86_400));
        let why = refused(verify(&trusted, "localhost", later));
        assert!(matches!(why, CertificateError::ExpiredContext { .. }), "{why:?}");
    }
}
