//! The wire is yamux: the reference implementation understands us, and we it.

use crate::{check_pattern, on_one_thread, send_pattern};
use banger_proto::agent::link::{ACCEPTED, HELLO};
use std::future::poll_fn;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::UnixStream,
    sync::oneshot,
};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

#[test]
fn the_reference_implementation_is_a_host() {
    on_one_thread(async {
        let (mut pipe, guest_pipe) = UnixStream::pair().unwrap();
        let mut sessions = crate::guest_on(guest_pipe);
        pipe.write_all(&[&HELLO[..], &[5; 16]].concat()).await.unwrap();
        pipe.read_exact(&mut [0; 32]).await.unwrap();
        let mut connection = Connection::new(pipe.compat(), Config::default(), Mode::Client);
        let outbound = poll_fn(|cx| connection.poll_new_outbound(cx)).await.unwrap();
        let (inbound_sender, inbound) = oneshot::channel();
        tokio::spawn(async move {
            let mut inbound_sender = Some(inbound_sender);
            while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
                if let Some(sender) = inbound_sender.take() {
                    drop(sender.send(stream));
                }
            }
        });
        let (guest, mut from_host) = sessions.recv().await.unwrap();

        // The reference implementation opens.
        let mut outbound = outbound.compat();
        outbound.write_all(&33_u32.to_be_bytes()).await.unwrap();
        let accepted = from_host.next().await.unwrap();
        assert_eq!(accepted.port(), 33);
        let accepted = accepted.accept().await;
        assert_eq!(outbound.read_u8().await.unwrap(), ACCEPTED);
        let ((our_read, our_write), (their_read, their_write)) = (split(accepted), split(outbound));
        let ((), (), ours, theirs) = tokio::join!(
            send_pattern(our_write, 3_000_000),
            send_pattern(their_write, 3_000_000),
            check_pattern(our_read),
            check_pattern(their_read),
        );
        assert_eq!((ours, theirs), (3_000_000, 3_000_000));

        // We open.
        let dial = tokio::task::spawn_local(async move { guest.dial(44).await });
        let mut inbound = inbound.await.unwrap().compat();
        assert_eq!(inbound.read_u32().await.unwrap(), 44);
        inbound.write_u8(ACCEPTED).await.unwrap();
        let dialed = dial.await.unwrap().unwrap();
        let ((), read) = tokio::join!(send_pattern(dialed, 1_000_000), check_pattern(inbound));
        assert_eq!(read, 1_000_000);
    });
}
