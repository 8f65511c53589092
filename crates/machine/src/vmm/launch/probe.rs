//! Tests how far this host can confine a VMM: starts a program that does nothing in the same way as a VMM.
//!
//! The probe is the hidden subcommand `banger-shim confinement-probe`, because VMMs are started from a process with a
//! single thread, and because the result depends on the parent process.

use super::{Launch, Launched};
use crate::vmm::{
    LaunchError,
    confine::{Reach, Rules},
    plan::{Console, KernelFile, LaunchPlan},
};
use banger_proto::{
    api::vm::{Accelerator, Vmm},
    size::ByteSize,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Subcommand of `banger-shim` that runs [`ConfinementFinding::here`] and prints it as one line of JSON.
pub const SUBCOMMAND: &str = "confinement-probe";
/// The probe is abandoned after this time. It takes some milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Result of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "confinement", rename_all = "snake_case")]
pub enum ConfinementFinding {
    /// The confinement is complete.
    Whole,
    /// Parts of the confinement are missing; the rest applies.
    Weaker {
        /// The missing parts, and the reasons.
        lack: String,
    },
    /// No VMM could be started.
    Broken {
        /// The error.
        reason: String,
    },
}

impl ConfinementFinding {
    /// Runs the probe in a process of its own. `shim` is the `banger-shim` executable.
    pub async fn probe(shim: &Path) -> Self {
        let mut command = Command::new(shim);
        command.arg(SUBCOMMAND).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let broken = |reason: String| Self::Broken { reason };
        match tokio::time::timeout(TIMEOUT, command.output()).await {
            Err(_) => broken("the probe does not return".into()),
            Ok(Err(error)) => broken(format!("the probe cannot be run: {error}")),
            Ok(Ok(output)) => serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| broken(format!("the probe ended with {}", output.status))),
        }
    }

    /// Runs the probe in this process, which must have a single thread.
    pub fn here() -> Result<Self, LaunchError> {
        Ok(launch_once()?.map_or(Self::Whole, |lack| Self::Weaker { lack }))
    }
}

fn launch_once() -> Result<Option<String>, LaunchError> {
    let failed = |source| LaunchError::Prepare { what: "probe", source };
    let program = std::env::current_exe().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut rules = Rules::default();
        rules.allow_program(&program).map_err(failed)?.allow("/dev/null", Reach::Device);
        let plan = empty_plan(program);
        let Launched { mut child, unconfined, .. } = Launch {
            plan: &plan,
            rules: &rules,
            args: &|_| vec!["--version".into()],
            inherited: Vec::new(),
            nic: None,
            stdout: None,
        }
        .spawn()?;
        let status = child.wait().await.map_err(failed)?;
        if status.success() { Ok(unconfined) } else { Err(failed(io::Error::other(format!("it ended with {status}")))) }
    })
}

/// A plan with nothing but a program.
fn empty_plan(program: PathBuf) -> LaunchPlan {
    let nowhere = || PathBuf::from("/dev/null");
    LaunchPlan {
        id: "000000000000".parse().expect("an id"),
        name: "probe".parse().expect("a name"),
        vmm: Vmm::Qemu,
        accelerator: Accelerator::Tcg,
        program,
        vcpu: 1,
        memory: ByteSize::mib(1),
        kernel: KernelFile { path: nowhere(), pvh: true, acpi: true, mmio_cmdline: false, hz: None, vsock: true },
        initramfs: nowhere(),
        kernel_args: Vec::new(),
        tsc_khz: None,
        disks: Vec::new(),
        console: Console { path: nowhere(), cap: ByteSize(0) },
        state_dir: nowhere(),
        run_dir: nowhere(),
        network: None,
        ports: Vec::new(),
    }
}
