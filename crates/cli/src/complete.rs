//! Shell completion: the shell runs this program, which asks the daemon for the names that exist.
//!
//! A key press must not have side effects: a daemon that is down is not started, a slow one is not waited for, and no
//! message is printed.

use crate::{cli::command, context::Context, exit::Error, output::printer::Printer};
use banger_proto::{
    api::{
        artifact::{Image, ImageCatalog, Kernel},
        vm::Vm,
    },
    failure::{Code, Failure},
};
use clap::ValueEnum;
use clap_complete::{
    CompleteEnv, CompletionCandidate,
    engine::{ArgValueCandidates, ArgValueCompleter, PathCompleter, ValueCompleter as _},
    env::{Bash, EnvCompleter, Fish, Zsh},
};
use serde::de::DeserializeOwned;
use std::{ffi::OsStr, time::Duration};

/// Environment variable of the completion scripts: asks for candidates instead of running a command.
const VARIABLE: &str = "BANGER_COMPLETE";
/// Time limit for the daemon's answer to a key press.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Supported shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Prints candidates and ends the process if a completion script started it.
pub(crate) fn answer_shell() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(command).var(VARIABLE).bin("banger").completer("banger").complete();
    }
}

/// Returns the script that makes `shell` ask `banger` for candidates.
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
        vms.into_iter().map(|vm| candidate(vm.name.as_str(), &describe(&vm))).collect()
    })
}

/// Completes one end of a copy: paths on this host, and names of VMs with the colon that a path in them follows.
pub(crate) fn endpoints() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let mut candidates = PathCompleter::any().complete(typed);
        // A VM's name has neither. Paths in the guest are not completed.
        if let Some(typed) = typed.to_str().filter(|typed| !typed.contains(['/', ':'])) {
            let vms: Vec<Vm> = ask("/v1/vms");
            let vms = vms.into_iter().filter(|vm| vm.name.as_str().starts_with(typed));
            candidates.extend(vms.map(|vm| candidate(&format!("{}:", vm.name), &describe(&vm))));
        }
        candidates
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

/// Completes names of images that catalogs offer.
pub(crate) fn available_images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let catalogs: Vec<ImageCatalog> = ask("/v1/image-catalogs");
        let offered = catalogs.into_iter().flat_map(|catalog| catalog.images);
        offered.map(|image| candidate(image.name.as_str(), &image.description.unwrap_or_default())).collect()
    })
}

/// Completes names of kernels on this host.
pub(crate) fn kernels() -> ArgValueCandidates {
    kernels_from("/v1/kernels", true)
}

/// Completes names of kernels on this host and in the catalogs.
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

fn describe(vm: &Vm) -> String {
    format!("{}, {}", vm.state, vm.image)
}

fn candidate(name: &str, help: &str) -> CompletionCandidate {
    let help: String = crate::output::escape::escape(help).into_owned();
    CompletionCandidate::new(name).help(Some(help.into()))
}

/// Fetches the list at `path` from the running daemon; empty on any failure.
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
