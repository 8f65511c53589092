//! The hybrid-vsock handshake.

use crate::on_one_thread;
use banger_link::vsock::{ConnectError, client_handshake, connect, server_accept, server_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

#[test]
fn what_follows_the_handshake_is_not_swallowed() {
    on_one_thread(async {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let (connected, ()) = tokio::join!(client_handshake(&mut client, 1024), async {
            assert_eq!(server_port(&mut server).await.unwrap(), Some(1024));
            server_accept(&mut server, 1_073_741_824).await.unwrap();
            server.write_all(b"and more").await.unwrap();
        });
        connected.unwrap();
        let mut more = [0; 8];
        client.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"and more");
    });
}

#[test]
fn a_closed_connection_is_a_refused_port() {
    on_one_thread(async {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let (connected, ()) = tokio::join!(client_handshake(&mut client, 5), async {
            server_port(&mut server).await.unwrap();
            drop(server);
        });
        assert!(matches!(connected, Err(ConnectError::Refused(5))), "{connected:?}");
    });
}

#[test]
fn nonsense_is_bounded_on_both_sides() {
    on_one_thread(async {
        for answer in ["OK\n", "OK x\n", "NO 1\n", &"O".repeat(100_000)] {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            server.write_all(answer.as_bytes()).await.unwrap();
            let connected = client_handshake(&mut client, 5).await;
            assert!(matches!(connected, Err(ConnectError::BadAnswer)), "{connected:?}");
        }
        for request in ["CONNECT \n", "CONNECT x\n", "CONNECT 4294967296\n", "connect 1\n", &"C".repeat(100_000), ""] {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(server_port(&mut server).await.unwrap(), None, "{request:.20}");
        }
    });
}

#[test]
fn a_missing_socket_is_told_apart() {
    on_one_thread(async {
        let connected = connect(std::path::Path::new("/nonexistent/vsock.sock"), 5).await;
        assert!(matches!(connected, Err(ConnectError::Socket(_))), "{connected:?}");
    });
}
