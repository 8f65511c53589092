//! Accepts connections: who may connect, and the limits of one connection.

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream, unix::UCred},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// Most connections served at once; more wait in the socket's backlog.
const CONNECTIONS: usize = 512;
/// How long a client may take to send a request's head, and so how long an idle connection is kept.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long requests in flight may take once the daemon is told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Pause after a failed accept, which means a shortage on the host and is not a client's fault.
const BREATHER: Duration = Duration::from_millis(100);

/// Peer of a connection, as the kernel identifies it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) UCred);

/// Accepts connections of this user until `stop` fires.
pub(super) async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let uid = rustix::process::geteuid().as_raw();
    let mut connections = JoinSet::new();
    loop {
        // A connection is accepted only with a permit, so a flood waits in the backlog.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted.and_then(|(stream, _)| stream.peer_cred().map(|peer| (stream, peer))) {
            Ok((stream, peer)) if peer.uid() == uid => {
                let connection = converse(stream, Peer(peer), router.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Ok((_, peer)) => tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused another user's connection"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
    drop(listener);
    // Idle connections end at once, requests in flight get a short time, streams are cut.
    let _ = tokio::time::timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await;
}

async fn converse(stream: UnixStream, peer: Peer, router: Router, stop: CancellationToken) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request.map(axum::body::Body::new))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
