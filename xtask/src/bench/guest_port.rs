//! stdin and stdout joined to a TCP port in a guest: what `ssh` needs as its `ProxyCommand`, with nothing of banger's
//! CLI in the way.

use anyhow::{Context, Result, ensure};
use banger_proto::agent::link::AGENT_PORT;
use std::{
    io::{Read, Write, copy, stdin, stdout},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
};

/// Longest answer to a request, in bytes.
const MAX_HEAD: usize = 4096;

/// Joins until the guest has nothing more to say.
pub(crate) fn join(socket: &Path, port: u16) -> Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    let hybrid = ask(&mut stream, &format!("CONNECT {AGENT_PORT}\n"), "\n")?;
    ensure!(hybrid.starts_with("OK "), "the VM's socket answered {hybrid:?}");
    let target = format!("127.0.0.1:{port}");
    let http = ask(&mut stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"), "\r\n\r\n")?;
    ensure!(http.starts_with("HTTP/1.1 200"), "the agent answered {http:?}");
    let mut writer = stream.try_clone()?;
    // Not joined: a read of stdin may last longer than anybody wants to wait.
    std::thread::spawn(move || {
        let _ = copy(&mut stdin().lock(), &mut writer);
        let _ = writer.shutdown(Shutdown::Write);
    });
    let mut stdout = stdout().lock();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => stdout.write_all(&chunk[..count]).and_then(|()| stdout.flush())?,
        }
    }
}

/// Sends a request and reads up to the end of the answer's head, and no further.
fn ask(stream: &mut UnixStream, request: &str, end: &str) -> Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(end.as_bytes()) {
        ensure!(head.len() < MAX_HEAD, "an answer without an end");
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer")?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
