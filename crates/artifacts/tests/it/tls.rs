//! TLS proxy for a server without TLS.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use rustls::{
    ALL_VERSIONS, ConfigBuilder, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion, WantsVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use std::{
    io::{self, Read, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// Proxy that forwards requests without a body, one per connection, until it is dropped.
pub(crate) struct Tls {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    plain: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// Answer to a request without TLS, which is given the request's head and the proxy's port; `None` leaves it to TLS.
type Plain = dyn Fn(&str, u16) -> Option<Vec<u8>> + Send + Sync;

impl Tls {
    /// Listens on loopback with this certificate and key, in front of `port`.
    pub(crate) fn before(port: u16, certificate: &Path, key: &Path) -> Self {
        Self::with(port, certificate, key, |_, _| None)
    }

    /// Does the same, and answers requests without TLS by `plain`.
    pub(crate) fn with(
        port: u16,
        certificate: &Path,
        key: &Path,
        plain: impl Fn(&str, u16) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (chain, key) = identity(certificate, key);
        let config = versions(ALL_VERSIONS).with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::start(port, config, Arc::new(plain))
    }

    /// Listens with a configuration of its own.
    pub(crate) fn configured(port: u16, config: ServerConfig) -> Self {
        Self::start(port, config, Arc::new(|_: &str, _| None))
    }

    fn start(port: u16, config: ServerConfig, plain: Arc<Plain>) -> Self {
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, heads) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // One that was gone before it was accepted.
                let Ok(stream) = stream else { continue };
                let (config, plain, heads) = (config.clone(), plain.clone(), heads.clone());
                // A client that goes away, or trusts nobody here, is none of the server's business.
                std::thread::spawn(move || drop(serve(stream, config, port, address.port(), &*plain, &heads)));
            }
        });
        Self { address, stop, plain: seen, thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Heads of the requests that came without TLS; those of which nothing was read are empty.
    pub(crate) fn plain(&self) -> Vec<String> {
        self.plain.lock().unwrap().clone()
    }
}

/// Reads a server's certificate and key.
pub(crate) fn identity(certificate: &Path, key: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_file(key).unwrap())
}

/// Beginning of a configuration.
pub(crate) fn versions(versions: &[&'static SupportedProtocolVersion]) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap()
}

fn serve(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    port: u16,
    own: u16,
    plain: &Plain,
    heads: &Mutex<Vec<String>>,
) -> io::Result<()> {
    // A record of a handshake begins so, and no request does.
    let mut first = [0];
    stream.peek(&mut first)?;
    if first == [0x16] {
        return pass(stream, config, port);
    }
    if plain("", own).is_none() {
        heads.lock().unwrap().push(String::new());
        return pass(stream, config, port);
    }
    let head = head(&mut stream)?;
    heads.lock().unwrap().push(head.clone());
    stream.write_all(&plain(&head, own).unwrap_or_default())
}

fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn pass(stream: TcpStream, config: Arc<ServerConfig>, port: u16) -> io::Result<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream);
    let head = head(&mut client)?;
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
