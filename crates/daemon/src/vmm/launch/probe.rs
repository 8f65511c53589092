//! What of a monitor's confinement this host gives: one is started as every monitor is, with a program in its place that
//! does nothing.
//!
//! The probe is the hidden sub-command `banger-shim confinement-probe`: monitors are started from a process with one
//! thread, and what is asked is about whoever will be their parent.

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

/// The sub-command of `banger-shim` that runs [`ConfinementFinding::here`] and prints it as one line of JSON.
pub const SUBCOMMAND: &str = "confinement-probe";
/// After this the probe is given up. It takes some milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "confinement", rename_all = "snake_case")]
pub enum ConfinementFinding {
    /// All of it.
    Whole,
    /// Not all of it: the rest applies.
    Weaker {
        /// What is missing, and why.
        lack: String,
    },
    /// No monitor would come to run.
    Broken {
        /// What happened.
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

    /// The probe itself. Must be called before there is any thread.
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

/// A machine of which only the program is there.
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
