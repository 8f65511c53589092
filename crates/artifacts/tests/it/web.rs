//! Web server on loopback that does what a test wants, and is correct only where told to be.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

/// Request.
pub(crate) struct Request {
    /// Number of requests before it.
    pub(crate) number: usize,
    pub(crate) path: String,
    pub(crate) stream: TcpStream,
}

pub(crate) struct Server {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that calls `answer` for each request, in a thread of its own; the connection closes when it
    /// returns.
    pub(crate) fn start(answer: impl Fn(Request) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_with_heads(move |request, _| answer(request))
    }

    /// Like [`Self::start`], for answers that depend on the request.
    pub(crate) fn start_with_heads(answer: impl Fn(Request, String) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (hits, stop, heads) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (counter, stopped, seen, answer) = (hits.clone(), stop.clone(), heads.clone(), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let (answer, seen) = (answer.clone(), seen.clone());
                std::thread::spawn(move || {
                    let Ok(head) = head(&stream) else { return };
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(head.clone());
                    // A client that goes away is none of the server's business.
                    let _ = answer(Request { number, path, stream }, head);
                });
            }
        });
        Self { address, hits, stop, heads, thread: Some(thread) }
    }

    /// Answers everything with `bytes` as they are.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |mut request| request.stream.write_all(&bytes))
    }

    /// Answers everything with `body`, in a correct response.
    pub(crate) fn serving(body: impl Into<Vec<u8>>) -> Self {
        Self::raw(ok(&body.into()))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the number of connections so far.
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// Returns the requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Request {
    /// Sends nothing more, until the client gives up.
    pub(crate) fn stall(&mut self) -> io::Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map(drop)
    }
}

fn head(stream: &TcpStream) -> io::Result<String> {
    let mut head = String::new();
    // Byte by byte, so that what follows the head is still there.
    let mut lines = BufReader::with_capacity(1, stream.take(64 << 10));
    while lines.read_line(&mut head)? > 2 {}
    Ok(head)
}

/// Returns a correct response.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

pub(crate) fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}
