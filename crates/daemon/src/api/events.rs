//! Operations that stream their progress: one task each, canceled when its client disconnects.
//!
//! A daemon that is told to end closes its clients' connections. That does not cancel their operations: the work in
//! progress is left as it is, and the next daemon treats it as after a daemon that was killed.

use crate::operation::{BACKLOG, Operation, line};
use axum::{
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use banger_proto::{api::event::Event, failure::Failure};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use std::{convert::Infallible, future::Future};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Media type of an event stream.
const NDJSON: &str = "application/x-ndjson";

/// Sink for events that must arrive: it waits for a slow client, and not for one that is gone.
#[derive(Debug, Clone)]
pub(super) struct Client(mpsc::Sender<Bytes>);

impl Client {
    pub(super) async fn tell<T: Serialize>(&self, event: &Event<T>) {
        let line = line(event);
        // The client is gone.
        let _ = self.0.send(line).await;
    }
}

/// Runs `work` as an operation and streams its events. `stop` ends the daemon.
pub(super) fn stream_of<T, F>(stop: CancellationToken, work: impl FnOnce(Operation, Client) -> F) -> Response
where
    T: Serialize + Send + Sync + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let (lines, receiver) = mpsc::channel(BACKLOG);
    let operation = Operation::watched(lines.clone());
    let client = Client(lines.clone());
    let started = Event::<()>::Started { operation: operation.id().clone() };
    lines.try_send(line(&started)).expect("a new channel has room");
    let running = work(operation.clone(), client.clone());
    let span = operation.span();
    tokio::spawn(
        async move {
            tokio::pin!(running);
            let result = tokio::select! {
                result = &mut running => result,
                () = lines.closed() => {
                    if !stop.is_cancelled() {
                        tracing::info!("the client went away");
                        operation.cancel().cancel();
                    }
                    running.await
                }
            };
            let last = match result {
                Ok(result) => Event::Done { result },
                Err(mut failure) => {
                    tracing::info!(code = failure.code.as_str(), %failure, "failed");
                    failure.operation = Some(operation.id().clone());
                    Event::Failed { failure }
                }
            };
            client.tell(&last).await;
        }
        .instrument(span),
    );
    let body = stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// Whether an operation is told to stop when its client disconnects.
    async fn is_told(stop: CancellationToken) -> bool {
        let (sender, told) = oneshot::channel();
        let response = stream_of(stop, async move |operation: Operation, client: Client| {
            client.0.closed().await;
            // Waits until the operation has seen it.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let _ = sender.send(operation.cancel().is_cancelled());
            Ok(())
        });
        drop(response);
        told.await.unwrap()
    }

    #[tokio::test]
    async fn a_client_that_the_daemon_hangs_up_on_has_not_left() {
        let stop = CancellationToken::new();
        assert!(is_told(stop.clone()).await);
        stop.cancel();
        assert!(!is_told(stop).await);
    }
}
