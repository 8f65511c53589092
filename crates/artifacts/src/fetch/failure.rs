//! What went wrong with a request: ureq's errors and what was seen of the handshake, as errors of this crate.

use super::{
    Address, Client, FetchError, TlsError, Trust, client_certificate::Shown, proxy::Proxy, tls::Connector,
    tls_error::is_about_client,
};
use std::{
    error::Error,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use ureq::Timeout;

/// Statuses of web servers that ask for a client certificate in the handshake and miss it in the request: nginx's own,
/// and what it sends for them.
const CERTIFICATE_STATUSES: [u16; 3] = [400, 495, 496];

/// One connection to one address.
pub(super) struct Attempt<'a> {
    pub(super) address: &'a Address,
    /// Certificates for this host, besides those of this one.
    trust: Option<&'a Trust>,
    shown: Arc<Mutex<Shown>>,
    /// Proxy it goes through.
    pub(super) proxy: Option<&'a Proxy>,
    stall: Duration,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(address: &'a Address, trust: Option<&'a Trust>, client: &'a Client) -> Result<Self, FetchError> {
        let proxy = client.proxies.of(address)?;
        Ok(Self { address, trust, shown: Arc::default(), proxy, stall: client.stall })
    }

    /// Returns the TLS of the connection.
    pub(super) fn connector(&self) -> Result<Connector, FetchError> {
        let of_host = Trust::default();
        let trust = self.trust.unwrap_or(&of_host);
        if trust.trusted().is_empty() {
            return Err(FetchError::NoCertificates);
        }
        let connector = Connector::new(self.address, trust, self.shown.clone());
        connector.map_err(|error| self.untrusted(&error))
    }

    /// Returns the error of a missing response.
    pub(super) fn failure(&self, error: ureq::Error) -> FetchError {
        let host = || self.address.host().to_owned();
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed => self.unconnected(error.into()),
            ureq::Error::ConnectProxyFailed(why) => self.refused_by_proxy(why),
            ureq::Error::Timeout(_) => FetchError::Stalled { waited: self.stall, received: 0 },
            ureq::Error::Rustls(error) => self.tls(&error),
            ureq::Error::Io(source) => match of_tls(source) {
                Ok(error) => self.tls(&error),
                // It may have ended the connection before what it said about that could be read.
                Err(source) if self.shown() == Shown::Nothing => self.unidentified(source),
                Err(source) => self.unconnected(source),
            },
            other => FetchError::Protocol { host: host(), source: other.into() },
        }
    }

    /// Returns the error of a response with an error status.
    pub(super) fn refusal(&self, error: FetchError) -> FetchError {
        match &error {
            FetchError::Status(refused)
                if CERTIFICATE_STATUSES.contains(&refused.code) && self.shown() == Shown::Nothing =>
            {
                self.unidentified(error.into())
            }
            _ => error,
        }
    }

    fn unconnected(&self, source: Box<dyn Error + Send + Sync>) -> FetchError {
        let host = self.address.host().to_owned();
        match self.proxy {
            None => FetchError::Connect { host, source },
            Some(proxy) => {
                let (variable, proxy) = (proxy.variable, proxy.host.clone());
                FetchError::Proxy { host, proxy, variable, code: None, source: Some(source) }
            }
        }
    }

    /// Returns the error of a proxy that connects to nobody. ureq says why in words only, with the status at the end.
    fn refused_by_proxy(&self, why: String) -> FetchError {
        let status = why.rsplit('/').next().and_then(|status| status.parse().ok());
        match self.unconnected(why.into()) {
            FetchError::Proxy { host, proxy, variable, source, .. } => {
                let source = source.filter(|_| status.is_none());
                FetchError::Proxy { host, proxy, variable, code: status, source }
            }
            other => other,
        }
    }

    fn tls(&self, error: &rustls::Error) -> FetchError {
        if matches!(error, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) {
            return FetchError::PlainText { host: self.address.host().to_owned() };
        }
        if is_about_client(error) && self.shown() != Shown::Unasked {
            return self.unidentified(TlsError::from(error).into());
        }
        self.untrusted(error)
    }

    fn untrusted(&self, error: &rustls::Error) -> FetchError {
        FetchError::Tls { host: self.address.host().to_owned(), source: error.into() }
    }

    fn unidentified(&self, source: Box<dyn Error + Send + Sync>) -> FetchError {
        let shown = if let Shown::Certificate(path) = self.shown() { Some(path) } else { None };
        let passed_over = self.trust.map(Trust::passed_over).unwrap_or_default().to_vec();
        FetchError::ClientCertificate { host: self.address.host().to_owned(), shown, passed_over, source }
    }

    fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the error of a body that ended early, after `received` of the announced bytes.
pub(super) fn of_body(error: ureq::Error, announced: Option<u64>, received: u64, stall: Duration) -> FetchError {
    match (error, announced) {
        (ureq::Error::Timeout(_), _) => FetchError::Stalled { waited: stall, received },
        (ureq::Error::Io(error), Some(expected)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            FetchError::Short { received, expected }
        }
        (ureq::Error::Io(error), _) => FetchError::Broken { received, source: unwrap_io(error) },
        (error, _) => FetchError::Broken { received, source: error.into() },
    }
}

/// Takes the error of TLS out of one of the connection; what it is otherwise, without what only wraps it.
pub(super) fn of_tls(error: io::Error) -> Result<rustls::Error, Box<dyn Error + Send + Sync>> {
    unwrap_io(error).downcast().map(|error| *error)
}

/// Returns the error inside an I/O error that only wraps it.
fn unwrap_io(error: io::Error) -> Box<dyn Error + Send + Sync> {
    if error.get_ref().is_some() {
        return error.into_inner().expect("it was there a line before");
    }
    error.into()
}
