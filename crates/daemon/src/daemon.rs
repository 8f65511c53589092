//! The daemon as a process: directories, lock, log, composition, serving, shutdown.
//!
//! [`run`] is all of `bangerd`. The value it builds is a composition root: nothing below can reach it. The services
//! decide what a request means; this module decides only the order in which a daemon starts and stops.

mod descriptors;
pub(crate) mod directories;
mod lock;
mod log;
mod memory;
pub mod ready;
mod signals;
mod socket;

use crate::{
    api::{self, Context},
    config::{Config, ConfigError, File, Host},
    store::{Store, StoreError},
    wire::{Programs, wire_services},
};
use banger_machine::{failpoint, socket_path::WatchedSocket};
use banger_proto::{failure::Failure, layout::Layout};
use std::{io, path::PathBuf, sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;

pub use lock::Lock;

/// Why a daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not even `HOME` says where files go.
    #[error("neither HOME nor BANGER_HOME says where banger's files are")]
    NoHome,
    /// `--ready-fd` does not name an open file descriptor.
    #[error("--ready-fd does not name an open file descriptor")]
    BadReadyFd,
    /// A directory belongs to another user, is a link, or is open to others.
    #[error("{} cannot be used: {rule}", path.display())]
    NotOurs {
        /// Path of the directory.
        path: PathBuf,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// Another daemon has this state directory; the lock file says which.
    #[error("another daemon holds {}", path.display())]
    Held {
        /// Path of the lock file.
        path: PathBuf,
    },
    /// A daemon of another state directory has this run directory.
    #[error("a daemon of another state directory holds {}", path.display())]
    RunHeld {
        /// Path of the run directory.
        path: PathBuf,
    },
    /// A step on the file system or a socket failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// Path of the file or socket.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A service cannot be opened, or state left by earlier daemons cannot be read.
    #[error("the daemon's services cannot be started")]
    Services(#[source] Box<Failure>),
    /// The async runtime cannot be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl StartError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// Runs a daemon until it is told to stop. VMs keep running afterwards.
///
/// `ready` is notified when requests are answered. Call it before any thread exists: it sets the process's umask.
pub fn run(ready: &mut ready::Ready) -> Result<(), StartError> {
    let started = Instant::now();
    memory::keep_small();
    descriptors::raise();
    // Files created from here on are the user's alone, sockets included.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    let uid = rustix::process::geteuid();
    let env = |key: &str| std::env::var_os(key);
    let layout = Layout::resolve(env, uid.as_raw()).ok_or(StartError::NoHome)?;
    directories::make(&layout, uid)?;
    let mut lock = Lock::take(&layout)?;
    let config = Config::resolve(File::read(&layout.config_file())?, env, Host::detect())?;
    log::start(&layout.daemon_log(), config.log_level.value)?;
    let store = Store::open(&layout.database())?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(1 << 20)
        .build()
        .map_err(StartError::Runtime)?;
    let mut bound = None;
    let served = runtime.block_on(async {
        let failed = |failure| StartError::Services(Box::new(failure));
        let stop = signals::stop().map_err(StartError::Runtime)?;
        let services = wire_services(&layout, &config, &store, Programs::find()).map_err(failed)?;
        services.network.load_addresses().await.map_err(failed)?;
        tokio::select! {
            reconciled = services.vms.reconcile() => reconciled.map_err(failed)?,
            // Adoption may be waiting for a silent shim. The network is left running: not all VMs on it may be known
            // yet.
            () = stop.cancelled() => return Ok(()),
        }
        services.network.take_over();
        let network = services.network.clone();
        let images = services.images.clone();
        services.vms.start_expiry();
        let listener = socket::bind(&layout.daemon_socket())?;
        failpoint::hit("serve.bound").await;
        let watched = Arc::new(WatchedSocket::at(layout.daemon_socket()));
        bound = Some(watched.clone());
        tokio::spawn(follow(watched, stop.clone()));
        lock.publish()?;
        failpoint::hit("serve.published").await;
        let context = Context::new(layout.clone(), config, services, stop.clone(), started);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "serving");
        ready.serving(&layout.daemon_log());
        images.verify_in_background(stop.clone());
        api::serve(listener, context, stop).await;
        network.stop_if_unused().await;
        Ok(())
    });
    // Running tasks are not waited for: VMs go on without a daemon, and unfinished downloads leave nothing behind.
    runtime.shutdown_background();
    tracing::info!("gone; VMs keep running");
    lock.leave(bound.as_deref());
    served
}

/// Ends a daemon whose socket has vanished: clients would wait in vain for the holder of its lock.
async fn follow(socket: Arc<WatchedSocket>, stop: CancellationToken) {
    tokio::select! {
        () = socket.vanished() => {
            tracing::warn!("its socket is gone: it makes room for a daemon that can be found");
            stop.cancel();
        }
        () = stop.cancelled() => {}
    }
}
