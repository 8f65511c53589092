//! `CONNECT 127.0.0.1:<port>`: a byte stream to a port of the guest, for published ports and ssh.

use super::{Context, body::Body, http::status};
use banger_link::Stream;
use banger_proto::failure::{Code, Failure};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
    task::spawn_local,
};

/// Buffer size of each direction, in bytes.
const CHUNK: usize = 32 << 10;

/// Connects and answers 200; the stream then carries the connection.
pub(super) async fn open(context: &Rc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let authority = request.uri().authority().filter(|authority| authority.host() == "127.0.0.1");
    let port = authority
        .and_then(hyper::http::uri::Authority::port_u16)
        .ok_or_else(|| Failure::new(Code::Invalid, "CONNECT goes to 127.0.0.1:<port> only"))?;
    let target = dial(port).await.map_err(|error| {
        Failure::caused_by(Code::Unavailable, format!("nothing answers on port {port} in the guest"), &error)
    })?;
    let upgrade = hyper::upgrade::on(request);
    let in_use = context.in_use();
    spawn_local(async move {
        let _in_use = in_use;
        if let Ok(upgraded) = upgrade.await
            && let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>()
        {
            relay(parts.io.into_inner(), &parts.read_buf, target).await;
        }
    });
    Ok(status(StatusCode::OK))
}

/// Connects to loopback, IPv4 first: a server may have bound either.
async fn dial(port: u16) -> std::io::Result<TcpStream> {
    match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => Ok(stream),
        Err(error) => TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| error),
    }
}

async fn relay(mut stream: Stream, early: &[u8], mut target: TcpStream) {
    let _ = target.set_nodelay(true);
    if target.write_all(early).await.is_ok() {
        // Each half closes by itself; an error on either side resets both when they are dropped.
        let _ = copy_bidirectional_with_sizes(&mut stream, &mut target, CHUNK, CHUNK).await;
    }
}
