//! Component tests: the real agent as an ordinary process, on a socketpair.

#![expect(unreachable_pub, reason = "the client is shared with an example")]
#![expect(clippy::unwrap_used, reason = "a test may panic anywhere, its helpers too")]

mod archive;
mod client;
mod exec;
mod http;
mod linkage;
mod power;
mod workspace;

use banger_proto::agent::boot::{BootConfig, Init};
use client::Agent;
use std::{
    future::Future,
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::watch, task::LocalSet};

/// An agent for one test.
struct Hosted {
    agent: Agent,
    child: Child,
    /// Directory for the test's files and the agent's configuration.
    dir: TempDir,
}

/// Options of a hosted agent.
struct Options {
    /// Acknowledgement of power events; see [`Agent::connect`].
    acknowledge: watch::Receiver<bool>,
    /// Arguments for the agent.
    also: &'static [&'static str],
    config: fn(&mut BootConfig),
}

impl Default for Options {
    fn default() -> Self {
        Self { acknowledge: watch::Sender::new(true).subscribe(), also: &[], config: |_| {} }
    }
}

impl Hosted {
    async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    async fn start_with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = BootConfig {
            image: banger_proto::agent::boot::ImageDefaults::default(),
            version: 1,
            hostname: "hosted".into(),
            init: Init::Auto,
            mounts: vec![],
            machine_id: String::new(),
            resolv_conf: None,
            env: [("VM".to_owned(), "vm value".to_owned())].into(),
            workdir: None,
            user: None,
            network: None,
        };
        (options.config)(&mut config);
        let path = dir.path().join("config.json");
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
            .args(["hosted", "--fd", &theirs.as_raw_fd().to_string(), "--config"])
            .arg(path)
            .args(options.also)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop(theirs);
        ours.set_nonblocking(true).unwrap();
        let agent = Agent::connect(UnixStream::from_std(ours).unwrap(), options.acknowledge).await;
        Self { agent, child, dir }
    }

    /// Waits for the agent's process to end by itself.
    async fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_until("the agent to exit", || child.try_wait().unwrap()).await.code()
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a test on one thread and fails it when it hangs.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("a hang") });
}

/// Waits until `fact` returns a value, and returns it; on timeout panics with what it waited for.
async fn wait_until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6_000 {
        if let Some(found) = fact() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain for: {what}");
}
