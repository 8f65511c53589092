//! Check: shim, agent and network helper are there and have this version.

use super::{Check, Host, fail, is_executable, pass, warn};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;
use std::{path::Path, process::Stdio, time::Duration};

const NAME: &str = "banger's programs";
/// How long one of these programs may take to print its version.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct OwnPrograms;

impl Check for OwnPrograms {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async {
            let programs = &host.programs;
            let (shim, agent, helper) =
                tokio::join!(judge(&programs.shim), judge(&programs.agent), judge(&programs.root_helper));
            let mut found: Vec<Finding> = [shim, agent].into_iter().filter_map(Result::err).map(fatal).collect();
            // VMs run without the helper, but have no network.
            found.extend(helper.err().map(|what| mended(warn(NAME, format!("VMs get no network card: {what}")))));
            if found.is_empty() {
                let ours = env!("CARGO_PKG_VERSION");
                found.push(pass(NAME, format!("shim, agent and network helper are there, version {ours}")));
            }
            found
        })
    }
}

fn fatal(what: String) -> Finding {
    mended(fail(NAME, what))
}

fn mended(mut finding: Finding) -> Finding {
    finding.hints.push("install banger again: its programs belong together, in one directory".into());
    finding
}

/// Says why a program does not belong to this version.
async fn judge(program: &Path) -> Result<(), String> {
    let shown = program.display();
    if !is_executable(program) {
        return Err(format!("{shown} is not there, or not executable"));
    }
    let ours = env!("CARGO_PKG_VERSION");
    match version(program).await {
        Some(version) if version == ours => Ok(()),
        Some(version) => Err(format!("{shown} is version {version}, the daemon is {ours}")),
        None => Err(format!("{shown} does not say its version, the daemon is {ours}")),
    }
}

/// Last word of the first line.
async fn version(program: &Path) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.split_whitespace().next_back().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_missing_or_foreign_program_is_found() {
        let bench = Bench::new();
        let (verdict, text) = bench.run(&OwnPrograms).await.remove(0);
        assert!(verdict == Verdict::Pass && text.contains("network helper"), "{text}");
        for (name, program, verdict) in [
            ("banger-shim", &bench.host.programs.shim, Verdict::Fail),
            ("banger-vsock-agent", &bench.host.programs.agent, Verdict::Fail),
            ("bangerd-root", &bench.host.programs.root_helper, Verdict::Warn),
        ] {
            bench.install(name, &format!("{name} 0.0.0-other"));
            let found = bench.run(&OwnPrograms).await;
            assert!(found.len() == 1 && found[0].0 == verdict && found[0].1.contains("0.0.0-other"), "{found:?}");
            bench.install(name, "");
            assert!(bench.run(&OwnPrograms).await[0].1.contains("does not say its version"));
            std::fs::remove_file(program).unwrap();
            let found = bench.run(&OwnPrograms).await;
            assert!(found.len() == 1 && found[0].0 == verdict && found[0].1.contains(name), "{found:?}");
            bench.install(name, &format!("{name} {}", env!("CARGO_PKG_VERSION")));
        }
    }
}
