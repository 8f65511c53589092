//! Standard input as a channel of chunks.
//!
//! A read of stdin cannot be cancelled, so it happens in a thread that is never joined: the process exits under it.

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read},
    stdio::stdin,
};
use tokio::sync::mpsc;

/// Bytes of one chunk; with the channel's byte it fits in a message.
const CHUNK: usize = 128 << 10;
/// Chunks read ahead of the guest.
const AHEAD: usize = 2;

/// Starts to read stdin; the channel ends at its end.
pub(crate) fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    // Without a thread the guest sees an empty stdin.
    let _ = std::thread::Builder::new().name("stdin".into()).spawn(move || pump(&sender));
    receiver
}

fn pump(sender: &mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match read(stdin(), &mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            // Another process that shares this stdin made it non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stdin(), PollFlags::IN)], None);
            }
            // A closed terminal or a directory: treated as the end.
            Err(_) => return,
        }
    }
}
