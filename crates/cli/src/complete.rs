//! Shell completion: the shell asks this binary, and this binary asks the daemon for live names.
//!
//! A daemon that is down is not started, a slow one is not waited for, and nothing is ever said: a key press must not
//! have side effects.

use crate::{cli::command, context::Context, exit::Error, output::printer::Printer};
use banger_proto::{
    api::{
        artifact::{Image, Kernel},
        vm::Vm,
    },
    failure::{Code, Failure},
};
use clap::ValueEnum;
use clap_complete::{
    CompleteEnv, CompletionCandidate,
    engine::ArgValueCandidates,
    env::{Bash, EnvCompleter, Fish, Zsh},
};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Set by the completion scripts; asks for candidates instead of a command.
const VARIABLE: &str = "BANGER_COMPLETE";
/// How long a key press may take.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A shell banger completes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Answers and ends the process when a completion script asked.
pub(crate) fn answer_shell() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(command).var(VARIABLE).bin("banger").completer("banger").complete();
    }
}

/// The script that makes `shell` ask `banger`.
pub fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    let mut script = Vec::new();
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    shell.write_registration(VARIABLE, "banger", "banger", "banger", &mut script)?;
    Ok(script)
}

/// Completes names of VMs.
pub(crate) fn vms() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let vms: Vec<Vm> = ask("/v1/vms");
        vms.into_iter().map(|vm| candidate(vm.name.as_str(), &format!("{}, {}", vm.state, vm.image))).collect()
    })
}

/// Completes names of images.
pub(crate) fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let images: Vec<Image> = ask("/v1/images");
        let names = |image: Image| image.names.into_iter().map(move |name| candidate(name.as_str(), &image.source));
        images.into_iter().flat_map(names).collect()
    })
}

/// Completes names of kernels on this host.
pub(crate) fn kernels() -> ArgValueCandidates {
    kernels_from("/v1/kernels", true)
}

/// Completes names of kernels the catalog offers too.
pub(crate) fn available_kernels() -> ArgValueCandidates {
    kernels_from("/v1/kernels?available=true", false)
}

fn kernels_from(path: &'static str, pulled: bool) -> ArgValueCandidates {
    ArgValueCandidates::new(move || {
        let kernels: Vec<Kernel> = ask(path);
        let wanted = kernels.into_iter().filter(|kernel| kernel.pulled || !pulled);
        wanted.map(|kernel| candidate(kernel.name.as_str(), &kernel.kernel_version)).collect()
    })
}

fn candidate(name: &str, help: &str) -> CompletionCandidate {
    let help: String = crate::output::escape::escape(help).into_owned();
    CompletionCandidate::new(name).help(Some(help.into()))
}

/// The list at `path` of the daemon that runs now; empty whenever anything is in the way.
fn ask<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let answer = || -> Result<Vec<T>, Error> {
        let context = Context::new(Printer::new(false, true))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| crate::exit::internal("cannot start the event loop", &error))?;
        runtime.block_on(async {
            let work = async {
                match context.running_daemon().await? {
                    Some(mut daemon) => daemon.get(path).await,
                    None => Ok(Vec::new()),
                }
            };
            tokio::time::timeout(ANSWER_TIMEOUT, work)
                .await
                .map_err(|_| Failure::new(Code::Timeout, "the daemon is slow"))?
        })
    };
    answer().unwrap_or_default()
}
