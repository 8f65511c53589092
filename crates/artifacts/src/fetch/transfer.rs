//! Network side of a download: a thread that connects, follows redirects, reads and hashes.
//!
//! It reports to the reader through a short queue, so it is never far ahead, and ends when the reader is gone.

use super::{
    Address, AddressError, Client, FetchError, Refused, Request,
    failure::{self, Attempt},
    refusal::{EXCERPT, MAX_VALUE, SHOWN},
};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};
use ureq::{
    Agent,
    config::Config,
    http::{Response, StatusCode, header},
    unversioned::{
        resolver::DefaultResolver,
        transport::{ConnectProxyConnector, Connector as _, TcpConnector},
    },
};

/// Upper bound of redirects.
const MAX_REDIRECTS: usize = 5;
/// Upper bound of the bytes of a response's head.
const MAX_HEAD: usize = 32 << 10;
/// Size of a chunk in bytes.
const CHUNK: usize = 128 << 10;
/// Upper bound of the chunks in the queue.
const QUEUE: usize = 8;

/// Events reported by the thread.
pub(super) enum Event {
    /// Head of a successful response.
    Head(Head),
    /// Another status, with the part of its page that was read so far. More such events may follow; [`Self::Failed`] is
    /// the last.
    Refused(Box<Refused>),
    /// Next bytes: the first so many of the buffer, which is to be given back ([`Transfer::recycle`]).
    Chunk(Vec<u8>, usize),
    /// End of the body, with the SHA-256 of all chunks, unless the request is unhashed.
    End(String),
    /// Failure; no event follows.
    Failed(FetchError),
}

/// Head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Address that sent it, after all redirects.
    pub address: Address,
    /// Length of the body, if the server announced it.
    pub length: Option<u64>,
    /// First byte of the body: the requested one, or 0 if the server sends everything.
    pub from: u64,
    /// `Content-Type`.
    pub media_type: Option<String>,
    /// `Docker-Content-Digest`, of a registry.
    pub digest: Option<String>,
}

/// Running transfer; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Transfer {
    events: Receiver<Event>,
    spent: mpsc::Sender<Vec<u8>>,
    stop: Stop,
}

/// Interrupts the thread's network calls.
#[derive(Debug, Clone, Default)]
struct Stop(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    agent: Option<Agent>,
}

impl Transfer {
    /// Starts the request.
    pub(super) fn start(request: Request, client: &Client) -> Result<Self, FetchError> {
        let (events, receiver) = sync_channel(QUEUE);
        let (spent, empty) = mpsc::channel();
        let stop = Stop::default();
        let sender = Sender { events, empty, stop: stop.clone(), client: client.clone(), received: 0 };
        let thread = thread::Builder::new().name("download".into());
        thread.spawn(move || sender.run(&request)).map_err(FetchError::Thread)?;
        Ok(Self { events: receiver, spent, stop })
    }

    /// Gives a chunk back for reuse: allocating one costs more than filling it when a server sends little at a time.
    pub(super) fn recycle(&self, chunk: Vec<u8>) {
        // The thread may have ended.
        let _ = self.spent.send(chunk);
    }

    /// Returns the next event, if there is one in time.
    pub(super) fn next(&self, wait: Duration) -> Option<Event> {
        match self.events.recv_timeout(wait) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            // Happens only after the last event, or a panic.
            Err(RecvTimeoutError::Disconnected) => {
                Some(Event::Failed(FetchError::Thread(io::Error::other("it ended before the download did"))))
            }
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Stop {
    fn trigger(&self) {
        let agent = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.stopped = true;
            state.agent.take()
        };
        if let Some(agent) = agent {
            agent.shutdown();
        }
    }

    /// Registers the agent to interrupt; false if the transfer was stopped already.
    fn watch(&self, agent: &Agent) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.agent = Some(agent.clone());
        !state.stopped
    }
}

/// State of the thread.
struct Sender {
    events: SyncSender<Event>,
    empty: Receiver<Vec<u8>>,
    stop: Stop,
    client: Client,
    received: u64,
}

impl Sender {
    fn run(mut self, request: &Request) {
        let last = match self.transfer(request) {
            Ok(Some(sha256)) => Event::End(sha256),
            Ok(None) => return,
            Err(error) => Event::Failed(error),
        };
        let _ = self.events.send(last);
    }

    /// Passes on the whole body and returns its hash; `None` if the reader is gone.
    fn transfer(&mut self, request: &Request) -> Result<Option<String>, FetchError> {
        let Some((address, response)) = self.follow(request)? else { return Ok(None) };
        let head = head(address, &response, request.from);
        let body = response.into_body();
        let announced = body.content_length();
        if self.events.send(Event::Head(Head { length: announced, ..head })).is_err() {
            return Ok(None);
        }
        let mut reader = body.into_reader();
        let mut hash = Sha256::new();
        loop {
            let mut chunk = self.empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(Some(HEXLOWER.encode(&hash.finalize()))),
                Ok(n) => {
                    if request.hash {
                        hash.update(&chunk[..n]);
                    }
                    self.received += n as u64;
                    if self.events.send(Event::Chunk(chunk, n)).is_err() {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure::of_body(error.into(), announced, self.received, self.client.stall)),
            }
        }
    }

    /// Returns the response after all redirects, and the address that sent it.
    fn follow(&self, request: &Request) -> Result<Option<(Address, Response<ureq::Body>)>, FetchError> {
        let first = &request.address;
        let (mut address, mut left) = (first.clone(), false);
        for _ in 0..=MAX_REDIRECTS {
            // Nobody it was led away to decides what the first host is asked with credentials.
            left |= !address.same_host(first);
            // A certificate configured for a host is trusted for that host, and for no other it redirects to.
            let trust = request.trust.as_ref().filter(|_| address.same_name(first));
            let attempt = Attempt::new(&address, trust, &self.client)?;
            let agent = self.agent(&attempt)?;
            if !self.stop.watch(&agent) {
                return Ok(None);
            }
            let response = send(&agent, request, &address, left).map_err(|error| attempt.failure(error))?;
            let status = response.status();
            if status == StatusCode::OK || (status == StatusCode::PARTIAL_CONTENT && starts_at(&response, request.from))
            {
                return Ok(Some((address, response)));
            }
            let location = response.headers().get(header::LOCATION).filter(|_| is_redirect(status));
            let Some(location) = location else { return Err(attempt.refusal(self.refused(address.clone(), response))) };
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let next = match request.form {
                // A form may hold a secret, and is not sent again to a host that the response names.
                Some(_) => Err(AddressError::Posted),
                None => address.redirected(&location),
            };
            address = match next {
                Ok(next) => next,
                Err(source) => {
                    let location = location.chars().take(SHOWN).collect();
                    return Err(FetchError::Redirect { address, location, source });
                }
            };
        }
        Err(FetchError::Redirects { address: first.clone(), max: MAX_REDIRECTS })
    }

    /// Creates a client for one request. Its state (certificates, a connection) is dropped with it.
    fn agent(&self, attempt: &Attempt<'_>) -> Result<Agent, FetchError> {
        let (client, address) = (&self.client, attempt.address);
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .max_response_header_size(MAX_HEAD)
            .input_buffer_size(CHUNK)
            .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
            // The hash is that of the file's own bytes.
            .accept_encoding("identity")
            .timeout_resolve(Some(client.connect))
            .timeout_connect(Some(client.connect))
            .timeout_send_request(Some(client.stall))
            .timeout_recv_response(Some(client.stall))
            .timeout_per_read(Some(client.stall));
        let proxy = attempt.proxy.map(|proxy| proxy.inner.clone());
        let config = config.https_only(address.is_https()).proxy(proxy).build();
        let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        if !address.is_https() {
            return Ok(Agent::with_parts(config, connector, DefaultResolver::default()));
        }
        let tls = attempt.connector()?;
        Ok(Agent::with_parts(config, connector.chain(tls), DefaultResolver::default()))
    }

    /// Reads the page of an unsuccessful response and returns the error. The page may arrive slowly: the reader decides
    /// how long it waits.
    fn refused(&self, address: Address, response: Response<ureq::Body>) -> FetchError {
        let mut refused = Refused::head(address, response.status(), response.headers());
        let mut reader = response.into_body().into_reader();
        let (mut page, mut have) = ([0; EXCERPT], 0);
        while have < EXCERPT && self.events.send(Event::Refused(Box::new(refused.clone()))).is_ok() {
            match reader.read(&mut page[have..]) {
                // The end of the page adds nothing.
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            refused.page(&page[..have]);
        }
        FetchError::Status(Box::new(refused))
    }
}

/// Sends a request to its address, or to one it is redirected to after it may have `left` the host.
fn send(agent: &Agent, request: &Request, address: &Address, left: bool) -> Result<Response<ureq::Body>, ureq::Error> {
    let headers = |mut builder: ureq::http::request::Builder| {
        if let Some(accept) = &request.accept {
            builder = builder.header(header::ACCEPT, accept);
        }
        // Credentials are for the requested host, not for the storage server it redirects to.
        if let Some(secret) = request.authorization.as_ref().filter(|_| !left) {
            builder = builder.header(header::AUTHORIZATION, secret.reveal());
        }
        if request.from > 0 {
            builder = builder.header(header::RANGE, format!("bytes={}-", request.from));
        }
        builder.uri(address.uri())
    };
    match &request.form {
        None => agent.run(headers(ureq::http::Request::get(address.uri())).body(())?),
        Some(form) => {
            let post = headers(ureq::http::Request::post(address.uri()))
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            agent.run(post.body(form.reveal().to_owned())?)
        }
    }
}

/// Whether a partial response begins at the requested byte: `bytes FROM-TO/ALL`.
fn starts_at(response: &Response<ureq::Body>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    from > 0 && start == Some(from)
}

fn head(address: Address, response: &Response<ureq::Body>, from: u64) -> Head {
    let text = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.chars().take(MAX_VALUE).collect())
    };
    Head {
        address,
        length: None,
        from: if response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 },
        media_type: text("content-type"),
        digest: text("docker-content-digest"),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
