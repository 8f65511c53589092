//! Check: programs of the host that banger runs, each with its purpose.

use super::{Check, Host, fail, pass, warn};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;

const NAME: &str = "programs";

/// How badly a missing program is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// No VM starts.
    Always,
    /// One feature does not work.
    Sometimes,
}

/// Program, Debian package, importance, purpose.
const PROGRAMS: [(&str, &str, Need, &str); 7] = [
    ("mke2fs", "e2fsprogs", Need::Always, "every VM's work disk"),
    ("apt-get", "apt", Need::Sometimes, "pulling the default kernel and image"),
    ("depmod", "kmod", Need::Sometimes, "pulling a distribution's kernel"),
    ("mmdebstrap", "mmdebstrap", Need::Sometimes, "building a Debian image"),
    ("newuidmap", "uidmap", Need::Sometimes, "building a Debian image without root"),
    ("git", "git", Need::Sometimes, "workspaces"),
    ("ssh", "openssh-client", Need::Sometimes, "vm ssh"),
];

pub(super) struct HostPrograms;

impl Check for HostPrograms {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let missing: Vec<Finding> = PROGRAMS
            .into_iter()
            .filter(|(program, ..)| host.program(program).is_none())
            .map(|(program, package, need, purpose)| {
                let message = format!("{program} is not installed: {purpose} needs it");
                let mut finding = if need == Need::Always { fail(NAME, message) } else { warn(NAME, message) };
                finding.hints.push(format!("sudo apt install {package}"));
                finding
            })
            .collect();
        let all = PROGRAMS.map(|(program, ..)| program).join(", ");
        let found = if missing.is_empty() { vec![pass(NAME, format!("all there: {all}"))] } else { missing };
        Box::pin(std::future::ready(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn each_missing_program_has_its_package() {
        let bench = Bench::new();
        let found = bench.run(&HostPrograms).await;
        assert_eq!(found.len(), PROGRAMS.len(), "{found:?}");
        assert!(found[0].0 == Verdict::Fail && found[0].1.contains("apt install e2fsprogs"), "{found:?}");
        assert!(found[1..].iter().all(|(verdict, _)| *verdict == Verdict::Warn));
        for (program, ..) in PROGRAMS {
            bench.install(program, "");
        }
        assert_eq!(bench.run(&HostPrograms).await[0].0, Verdict::Pass);
    }
}
