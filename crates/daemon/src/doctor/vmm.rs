//! Which monitor a VM would run on, with what, and why.

use super::{Check, Host, Look, fail, pass, warn};
use crate::vmm::{
    host::{HostFacts, Probe},
    kvm_probe::KvmFinding,
    select::{Choice, NoVmm, select},
};
use banger_proto::{api::host::Finding, failure::Failure};

const NAME: &str = "virtual machines";

pub(super) struct Monitor;

impl Check for Monitor {
    fn look<'a>(&'a self, host: &'a Host) -> Look<'a> {
        Box::pin(async {
            let config = host.config.as_ref().ok();
            let probe = Probe {
                shim: host.programs.shim.clone(),
                qemu: config.and_then(|config| config.qemu_bin.value.clone()),
                firecracker: config.and_then(|config| config.firecracker_bin.value.clone()),
                // What was found earlier may be what somebody asks the doctor about; and nothing is written.
                cache: None,
            };
            match HostFacts::probe(&probe).await {
                Ok(facts) => {
                    let wanted = config.and_then(|config| config.vmm.value);
                    vec![chosen(select(wanted, &facts)), kvm(&facts.kvm)]
                }
                Err(error) => {
                    let mut finding = fail(NAME, format!("this host cannot be probed: {error}"));
                    finding.hints.push("/proc must be mounted".into());
                    vec![finding]
                }
            }
        })
    }
}

fn chosen(choice: Result<Choice, NoVmm>) -> Finding {
    match choice {
        Ok(choice) => {
            let program = choice.program.display();
            pass(NAME, format!("{}/{}: {} ({program})", choice.vmm, choice.accelerator, choice.reason))
        }
        Err(none) => {
            let failure = Failure::from(none);
            let mut finding = fail(NAME, failure.message);
            finding.causes = failure.causes;
            finding.hints = failure.hints;
            finding
        }
    }
}

/// Without KVM everything works, some ten times slower.
fn kvm(found: &KvmFinding) -> Finding {
    let slow = |message: String, hint: &str| {
        let mut finding = warn(NAME, message);
        finding.hints.push(hint.to_owned());
        finding
    };
    match found {
        KvmFinding::Usable => pass(NAME, "KVM runs guest code (a probe executed an instruction)"),
        KvmFinding::Absent => slow(
            format!("no KVM: {found}"),
            "enable virtualization in the firmware, or nested virtualization in the cloud's settings; else VMs are slow",
        ),
        KvmFinding::Denied => slow(format!("no KVM: {found}"), "sudo usermod -aG kvm $USER, then log in again"),
        KvmFinding::Broken { .. } => slow(
            format!("no KVM: {found}"),
            "this host only pretends to have KVM: ask its provider for nested virtualization; else VMs are slow",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_host_without_a_monitor_is_told_what_to_install() {
        let mut bench = Bench::new();
        bench.write("qemu.toml", "");
        let missing = bench.temp.path().join("no-qemu");
        let text = format!("qemu_bin = {missing:?}");
        let file = crate::config::File::parse(&text, "/c".as_ref()).unwrap();
        bench.host.config = Ok(crate::config::Config::resolve(file, |_| None, crate::config::Host::look()).unwrap());
        let (verdict, text) = bench.look(&Monitor).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("no-qemu"), "{text}");
        assert!(text.contains("apt install") || text.contains("qemu_bin"), "{text}");
    }

    #[test]
    fn a_kvm_that_does_not_work_is_a_warning_with_a_way_out() {
        for (finding, hint) in [
            (KvmFinding::Absent, "nested virtualization"),
            (KvmFinding::Denied, "usermod"),
            (KvmFinding::Broken { reason: "exit 17".into() }, "provider"),
        ] {
            let found = kvm(&finding);
            assert!(found.verdict == Verdict::Warn && found.hints[0].contains(hint), "{found:?}");
        }
        assert_eq!(kvm(&KvmFinding::Usable).verdict, Verdict::Pass);
    }
}
