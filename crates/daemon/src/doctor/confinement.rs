//! Check: a VMM would be fully confined on this host. Starts a program in place of a VMM that way.

use super::{Check, Host, fail, pass, user_namespaces, warn};
use banger_machine::vmm::launch::probe::ConfinementFinding;
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;

const NAME: &str = "confinement";

pub(super) struct Confinement;

impl Check for Confinement {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async { vec![judge(host, ConfinementFinding::probe(&host.programs.shim).await)] })
    }
}

fn judge(host: &Host, found: ConfinementFinding) -> Finding {
    match found {
        ConfinementFinding::Whole => pass(
            NAME,
            "VMMs run in namespaces and a root of their own, under Landlock and a filter of system calls (one was tried)",
        ),
        ConfinementFinding::Weaker { lack } => {
            let mut finding = warn(NAME, format!("VMMs are confined less than they should be: {lack}"));
            finding.hints = user_namespaces::obstacles(host).into_iter().map(|it| it.hint.to_owned()).collect();
            if lack.contains("Landlock") {
                finding.hints.push(
                    "boot a kernel with the whole of Landlock (6.12 or newer, with landlock in its lsm= list)".into(),
                );
            }
            if finding.hints.is_empty() {
                finding.hints.push("docs/security.md says what each layer is for and what it needs of a host".into());
            }
            finding
        }
        ConfinementFinding::Broken { reason } => {
            let mut finding = fail(NAME, format!("no VMM can be started: {reason}"));
            finding.hints.push("install banger again: its programs belong together".into());
            finding
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn what_is_missing_is_a_warning_with_the_knob_that_gives_it() {
        let bench = Bench::new();
        let weaker = |lack: &str| judge(&bench.host, ConfinementFinding::Weaker { lack: lack.into() });
        let found = weaker("this host allows no namespaces of its own (user namespace: No space left on device)");
        assert!(found.verdict == Verdict::Warn && found.hints[0].contains("docs/security.md"), "{found:?}");
        bench.write("proc/sys/user/max_user_namespaces", "0\n");
        let found = weaker("this host allows no namespaces of its own; this kernel has no Landlock");
        assert!(found.hints[0].contains("sysctl user.max_user_namespaces"), "{found:?}");
        assert!(found.hints[1].contains("lsm="), "{found:?}");
        let found =
            weaker("this host allows no namespaces of its own; this kernel's Landlock does not restrict signals");
        assert!(found.message.contains("does not restrict signals"), "{found:?}");
        assert!(found.hints[1].contains("6.12"), "{found:?}");
        assert_eq!(judge(&bench.host, ConfinementFinding::Whole).verdict, Verdict::Pass);
    }

    #[tokio::test]
    async fn a_shim_that_says_something_else_is_a_failure() {
        let (verdict, text) = Bench::new().run(&Confinement).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("install banger again"), "{text}");
    }
}
