//! The programs that belong together: shim and agent, of this version.

use super::{Check, Host, Look, fail, is_executable, pass};
use banger_proto::api::host::Finding;
use std::{path::Path, process::Stdio, time::Duration};

const NAME: &str = "banger's programs";
/// How long a program of ours may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct OwnPrograms;

impl Check for OwnPrograms {
    fn look<'a>(&'a self, host: &'a Host) -> Look<'a> {
        Box::pin(async {
            let (shim, agent) = (&host.programs.shim, &host.programs.agent);
            for program in [shim, agent] {
                if !is_executable(program) {
                    return vec![missing(program)];
                }
            }
            vec![judge(shim, version(shim).await.as_deref())]
        })
    }
}

fn missing(program: &Path) -> Finding {
    let mut finding = fail(NAME, format!("{} is not there, or not executable", program.display()));
    finding.hints.push("install banger again: its programs belong into one directory".into());
    finding
}

fn judge(shim: &Path, found: Option<&str>) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    match found {
        Some(version) if version == ours => pass(NAME, format!("shim and agent are there, version {ours}")),
        found => {
            let is = found.map_or_else(|| "does not say its version".to_owned(), |found| format!("is version {found}"));
            let mut finding = fail(NAME, format!("{} {is}, the daemon is {ours}", shim.display()));
            finding.hints.push("install banger again: its programs belong together".into());
            finding
        }
    }
}

/// The last word of its first line.
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
        assert_eq!(bench.look(&OwnPrograms).await[0].0, Verdict::Pass);
        bench.install("banger-shim", "banger-shim 0.0.0-other");
        let (verdict, text) = bench.look(&OwnPrograms).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("0.0.0-other"), "{text}");
        std::fs::remove_file(&bench.host.programs.agent).unwrap();
        let (verdict, text) = bench.look(&OwnPrograms).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("banger-vsock-agent"), "{text}");
    }
}
