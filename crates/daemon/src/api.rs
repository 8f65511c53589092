//! The HTTP API of `banger_proto::api` over the daemon's unix socket.
//!
//! Decides how requests come in and answers go out: who may connect, how large a body may be, how progress streams, how
//! a failure looks. What a request means is decided by the service it is handed to.

mod accept;
mod answer;
mod document;
mod host;

use crate::{config::Config, store::Store};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use banger_proto::{api::MAX_REQUEST, layout::Layout};
use std::{sync::Arc, time::Instant};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use document::document;

/// What the handlers work with: the services and a few facts about this daemon.
#[derive(Debug)]
pub struct Context {
    layout: Layout,
    config: Config,
    store: Store,
    stop: CancellationToken,
    started: Instant,
}

impl Context {
    /// Puts a context together. `stop` ends the daemon when it fires.
    pub fn new(layout: Layout, config: Config, store: Store, stop: CancellationToken, started: Instant) -> Self {
        Self { layout, config, store, stop, started }
    }
}

type Shared = Arc<Context>;

/// Serves until `stop` fires. Requests in flight get a moment to end; streams do not.
pub async fn serve(listener: UnixListener, context: Context, stop: CancellationToken) {
    accept::serve(listener, router(Arc::new(context)), stop).await;
}

fn router(context: Shared) -> Router {
    Router::new()
        .route("/v1/version", get(host::version))
        .route("/v1/daemon", get(host::daemon))
        .route("/v1/daemon/stop", post(host::stop))
        .route("/v1/config", get(host::config))
        .route("/v1/openapi.json", get(host::openapi))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(context)
}
