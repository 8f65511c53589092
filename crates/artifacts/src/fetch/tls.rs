//! TLS over ureq's connections.
//!
//! ureq takes neither a verifier nor certificates to show that are chosen in the handshake, so [`Connector`] does here
//! what its own connector does.

use super::{
    Address, TlsError, Trust,
    client_certificate::{Shown, Wallet},
    failure::of_tls,
    verifier::Verifier,
};
use rustls::{ALL_VERSIONS, ClientConfig, ClientConnection, StreamOwned, crypto::ring, pki_types::ServerName};
use std::{
    fmt,
    io::{self, Read as _, Write as _},
    sync::{Arc, Mutex},
};
use ureq::{
    Error,
    http::Uri,
    unversioned::transport::{
        Buffers, ConnectionDetails, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
        time::{Duration, Instant},
    },
};

/// Wraps connections to `https` addresses in TLS and verifies who answers.
#[derive(Debug)]
pub(super) struct Connector {
    target: Address,
    config: Arc<ClientConfig>,
}

impl Connector {
    /// A connector with these certificates for `target`, which keeps what it was that the server was shown.
    pub(super) fn new(target: &Address, trust: &Trust, shown: Arc<Mutex<Shown>>) -> Result<Self, rustls::Error> {
        Ok(Self { target: target.clone(), config: config(trust, shown)? })
    }

    /// Begins TLS with the host of `uri`: the target, or the proxy that leads to it. The target's certificates are not
    /// the proxy's.
    fn begin(&self, uri: &Uri) -> Result<ClientConnection, Error> {
        let config =
            if uri == self.target.uri() { self.config.clone() } else { config(&Trust::default(), Arc::default())? };
        let host = uri.host().ok_or(Error::HostNotFound)?;
        // An IPv6 address is in brackets in an address, and in none here.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| rustls::Error::UnsupportedNameType)?;
        Ok(ClientConnection::new(config, name)?)
    }
}

fn config(trust: &Trust, shown: Arc<Mutex<Shown>>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(trust.trusted(), &provider)?;
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(ALL_VERSIONS)?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(config.with_client_cert_resolver(Arc::new(Wallet::new(trust.clients(), shown)))))
}

impl<In: Transport> ureq::unversioned::transport::Connector<In> for Connector {
    type Out = Either<In, Encrypted>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let mut connection = self.begin(details.uri)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(remaining(details));
        if let Err(error) = connection.complete_io(&mut socket) {
            return Err(if details.uri == self.target.uri() { error.into() } else { of_proxy(error) });
        }
        let config = details.config;
        Ok(Some(Either::B(Encrypted {
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

/// The failure of a handshake with a proxy, which is not to be taken for one with the target.
fn of_proxy(error: io::Error) -> Error {
    let error = of_tls(error);
    Error::ConnectProxyFailed(error.map_or_else(|error| error.to_string(), |error| TlsError::from(&error).to_string()))
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

impl Encrypted {
    /// Returns what the server sent before it closed the connection, if that was an alert.
    fn alert(&mut self) -> Option<rustls::Error> {
        let StreamOwned { conn, sock } = &mut self.stream;
        while conn.read_tls(sock).is_ok_and(|read| read > 0) {
            if let Err(error) = conn.process_new_packets() {
                return Some(error);
            }
        }
        None
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        // A server that refuses a client certificate says so and closes the connection, maybe before it was asked.
        written.map_err(|error| self.alert().map_or_else(|| error.into(), Error::from))
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
