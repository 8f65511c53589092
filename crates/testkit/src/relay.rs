//! An unreliable proxy.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// Forwards connections to a port of this host; after a number of bytes of answers something happens.
#[derive(Debug, Clone, Copy)]
pub struct Relay {
    port: u16,
}

impl Relay {
    /// Ends each connection after `most` bytes of answers.
    #[track_caller]
    pub fn dropping(to: u16, most: u64) -> Self {
        Self::start(to, most, |client, server| {
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        })
    }

    /// Calls `then` after `most` bytes of answers, and sends nothing more until the client closes.
    #[track_caller]
    pub fn stalling(to: u16, most: u64, then: impl Fn() + Send + Sync + 'static) -> Self {
        Self::start(to, most, move |mut client, server| {
            let _ = server.shutdown(Shutdown::Both);
            then();
            let _ = std::io::copy(&mut client, &mut std::io::sink());
        })
    }

    /// Stops after `most` bytes of answers until the returned guard is dropped, and then sends the rest.
    #[track_caller]
    pub fn holding(to: u16, most: u64) -> (Self, Hold) {
        let hold = Hold::default();
        let held = hold.0.clone();
        let relay = Self::start(to, most, move |client, server| {
            let (dropped, changed) = &*held;
            let waiting = dropped.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(waiting, |dropped| !*dropped));
            // Either side may go away.
            let _ = pass(&client, &server, u64::MAX);
        });
        (relay, hold)
    }

    /// Port on 127.0.0.1.
    pub fn port(self) -> u16 {
        self.port
    }

    /// The relay ends with the test's process: nothing but the test knows its port.
    #[track_caller]
    fn start(to: u16, most: u64, at_the_end: impl Fn(TcpStream, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let at_the_end = Arc::new(at_the_end);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let at_the_end = at_the_end.clone();
                std::thread::spawn(move || {
                    let Ok(server) = connect(&client, to) else { return };
                    if pass(&client, &server, most).unwrap_or(false) {
                        at_the_end(client, server);
                    }
                });
            }
        });
        Self { port }
    }
}

/// Guard whose drop lets [`Relay::holding`] continue.
#[derive(Debug, Default)]
pub struct Hold(Arc<(Mutex<bool>, Condvar)>);

impl Drop for Hold {
    fn drop(&mut self) {
        let (dropped, changed) = &*self.0;
        *dropped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// Connects to the server and forwards all requests.
fn connect(client: &TcpStream, to: u16) -> std::io::Result<TcpStream> {
    let server = TcpStream::connect(("127.0.0.1", to))?;
    let (mut questions, mut ear) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        // Either side may go away.
        let _ = std::io::copy(&mut questions, &mut ear);
        let _ = ear.shutdown(Shutdown::Write);
    });
    Ok(server)
}

/// Forwards `most` bytes of answers; returns whether there were as many.
fn pass(mut client: &TcpStream, mut server: &TcpStream, most: u64) -> std::io::Result<bool> {
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
    Ok(true)
}
