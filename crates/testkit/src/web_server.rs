//! Serves a directory with a real web server on loopback.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Python's own server, which answers as a user's server would. It ends with its stdin, which is closed however the
/// test ends.
const SERVER: &str = "
import functools, http.server, os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// A web server; it ends when this is dropped.
#[derive(Debug)]
pub struct FileServer {
    server: Child,
    port: u16,
}

impl FileServer {
    /// Serves `directory`, which exists. `None`, with the test recorded as skipped, where there is no Python.
    #[track_caller]
    pub fn start(directory: &Path) -> Option<Self> {
        if !crate::require("scripts") {
            return None;
        }
        let mut server = Command::new("python3")
            .args(["-c", SERVER])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 can be run");
        let mut line = String::new();
        let stdout = server.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the server's port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the server said {line:?} instead of its port"));
        Some(Self { server, port })
    }

    /// URL of the file `path` in the directory.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
