//! A connection in between that is not to be relied on.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
};

/// Passes connections on to a port of this host; of what comes back, each gets so much and no more.
#[derive(Debug, Clone, Copy)]
pub struct Relay {
    port: u16,
}

impl Relay {
    /// Each connection ends after `most` bytes of answers.
    #[track_caller]
    pub fn dropping(to: u16, most: u64) -> Self {
        Self::start(to, most, |client| {
            let _ = client.shutdown(Shutdown::Both);
        })
    }

    /// After `most` bytes of answers `then` is called, and nothing more comes until the client goes away.
    #[track_caller]
    pub fn stalling(to: u16, most: u64, then: impl Fn() + Send + Sync + 'static) -> Self {
        Self::start(to, most, move |mut client| {
            then();
            let _ = std::io::copy(&mut client, &mut std::io::sink());
        })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(self) -> u16 {
        self.port
    }

    /// It ends with the test's process: nothing but the test knows its port.
    #[track_caller]
    fn start(to: u16, most: u64, at_the_end: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let at_the_end = Arc::new(at_the_end);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let at_the_end = at_the_end.clone();
                std::thread::spawn(move || {
                    if pass(&client, to, most).unwrap_or(false) {
                        at_the_end(client);
                    }
                });
            }
        });
        Self { port }
    }
}

/// Passes one connection on; whether it came to what it may get.
fn pass(mut client: &TcpStream, to: u16, most: u64) -> std::io::Result<bool> {
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    let (mut questions, mut ear) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        // Either side may go away.
        let _ = std::io::copy(&mut questions, &mut ear);
        let _ = ear.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 16 << 10];
    let mut left = most;
    while left > 0 {
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let got = server.read(&mut buffer[..want])?;
        if got == 0 {
            client.shutdown(Shutdown::Both)?;
            return Ok(false);
        }
        client.write_all(&buffer[..got])?;
        left -= got as u64;
    }
    let _ = server.shutdown(Shutdown::Both);
    Ok(true)
}
