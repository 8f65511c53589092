//! Check: which VMM a VM would run on, with which accelerator, and why.

use super::{Check, Host, fail, pass, warn};
use crate::failures::Explain as _;
use banger_machine::vmm::{
    host::{HostFacts, Probe},
    kvm_probe::KvmFinding,
    select::{self, Choice, NoVmm, OLDEST_FIRECRACKER, select},
};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;
use std::path::Path;

const NAME: &str = "virtual machines";

pub(super) struct VmmCheck;

impl Check for VmmCheck {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async {
            let config = host.config.as_ref().ok();
            let probe = Probe {
                shim: host.programs.shim.clone(),
                qemu: config.and_then(|config| config.qemu_bin.value.clone()),
                firecracker: config.and_then(|config| config.firecracker_bin.value.clone()),
                // No cached finding is used, since it may be just what the user asks about; and nothing is written.
                cache: None,
            };
            match HostFacts::probe(&probe).await {
                Ok(mut facts) => {
                    let wanted = config.and_then(|config| config.vmm.value.named());
                    let mut now = kvm(&facts.kvm);
                    let believed = HostFacts::cached_kvm(&host.layout.cache, &host.system("/dev/kvm"));
                    let old = believed.filter(|believed| *believed != facts.kvm);
                    let is_seen = !matches!(facts.kvm, KvmFinding::Untried { .. });
                    let outdated = old.as_ref().filter(|_| is_seen);
                    let outdated = outdated.map(|old| differs(old, &HostFacts::cache_path(&host.layout.cache)));
                    if !is_seen && old == Some(KvmFinding::Usable) {
                        // A start does not probe again: it believes an earlier success.
                        now.hints = vec!["end what keeps KVM busy, such as another hypervisor".into()];
                    }
                    // A VM runs on what the daemon would find.
                    facts.kvm = old.unwrap_or(facts.kvm);
                    let mut found = vec![chosen(select(wanted, &facts)), now];
                    found.extend(outdated);
                    found.extend(firecracker(&facts));
                    found
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
            let failure = none.explain();
            let mut finding = fail(NAME, failure.message);
            finding.causes = failure.causes;
            finding.hints = failure.hints;
            finding
        }
    }
}

/// Whether an installed Firecracker may be used; nothing if there is none.
fn firecracker(facts: &HostFacts) -> Option<Finding> {
    match select::firecracker(facts) {
        Ok((program, version)) => {
            let when = if facts.kvm == KvmFinding::Usable { "chosen by itself" } else { "used where it is asked for" };
            Some(pass(NAME, format!("Firecracker {version} is supported, and {when} ({})", program.display())))
        }
        Err(NoVmm::Missing { .. }) => None,
        Err(unfit) => {
            let mut finding = warn(NAME, format!("Firecracker is not used: {unfit}"));
            finding.hints.push(format!(
                "install a Firecracker from {OLDEST_FIRECRACKER} on that is neither 1.16.0 nor 1.16.1; firecracker_bin \
                 in config.toml names another program"
            ));
            Some(finding)
        }
    }
}

/// The daemon uses an earlier result that differs from this one.
fn differs(kept: &KvmFinding, file: &Path) -> Finding {
    let mut finding = warn(NAME, format!("VMs run by what was found earlier in this boot of the host: {kept}"));
    finding.hints.push(format!("rm {}", file.display()));
    finding
}

/// Without KVM everything works, but about ten times slower.
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
        KvmFinding::Untried { .. } => slow(
            format!("no KVM now: {found}"),
            "end what keeps KVM busy, such as another hypervisor; each start tries it again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_host_without_a_vmm_is_told_what_to_install() {
        let mut bench = Bench::new();
        bench.write("qemu.toml", "");
        let missing = bench.temp.path().join("no-qemu");
        let text = format!("qemu_bin = {missing:?}");
        let file = crate::config::File::parse(&text, "/c".as_ref()).unwrap();
        bench.host.config = Ok(crate::config::Config::resolve(file, |_| None, crate::config::Host::detect()).unwrap());
        let (verdict, text) = bench.run(&VmmCheck).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("no-qemu"), "{text}");
        assert!(text.contains("apt install") || text.contains("qemu_bin"), "{text}");
    }

    #[tokio::test]
    async fn a_firecracker_that_may_not_be_used_is_a_warning_with_those_that_may() {
        let mut bench = Bench::new();
        bench.install("firecracker", "");
        let told = async |bench: &mut Bench, version: &str| {
            let program = bench.install("firecracker", &format!("Firecracker v{version}"));
            let file = crate::config::File::parse(&format!("firecracker_bin = {program:?}"), "/c".as_ref()).unwrap();
            bench.host.config =
                Ok(crate::config::Config::resolve(file, |_| None, crate::config::Host::detect()).unwrap());
            bench.run(&VmmCheck).await.into_iter().find(|(_, text)| text.contains("\"Firecracker ")).unwrap()
        };
        for (version, why) in [("1.11.0", "1.12.0 is the oldest"), ("1.16.0", "after a restore"), ("1.16.1", "hang")] {
            let (verdict, text) = told(&mut bench, version).await;
            assert!(verdict == Verdict::Warn && text.contains(why) && text.contains("install a"), "{text}");
        }
        let (verdict, text) = told(&mut bench, "1.15.1").await;
        assert!(verdict == Verdict::Pass && text.contains("1.15.1 is supported"), "{text}");
    }

    /// Bench with QEMU chosen, whatever Firecracker the host has, and this result of the KVM probe.
    fn with_qemu(bench: &mut Bench, probe: &str) {
        let qemu = bench.install("qemu-system-x86_64", "QEMU emulator version 7.2.22");
        bench.install("banger-shim", probe);
        bench.write("dev/kvm", "");
        let file = crate::config::File::parse(&format!("qemu_bin = {qemu:?}\nvmm = \"qemu\""), "/c".as_ref()).unwrap();
        bench.host.config = Ok(crate::config::Config::resolve(file, |_| None, crate::config::Host::detect()).unwrap());
    }

    #[tokio::test]
    async fn what_the_daemon_believes_of_kvm_is_said_where_it_is_not_so_any_more() {
        let mut bench = Bench::new();
        with_qemu(&mut bench, r#"{"kvm":"usable"}"#);
        let outdated =
            |found: &[(Verdict, String)]| found.iter().any(|(_, text)| text.contains("earlier in this boot"));
        let found = bench.run(&VmmCheck).await;
        assert!(found[0].1.contains("qemu/kvm") && !outdated(&found), "{found:?}");
        let device = bench.host.system("/dev/kvm");
        HostFacts::write_cached_kvm(
            &bench.host.layout.cache,
            &device,
            KvmFinding::Broken { reason: "so it was".into() },
        )
        .unwrap();
        let found = bench.run(&VmmCheck).await;
        assert!(found[0].1.contains("qemu/tcg") && found[0].1.contains("so it was"), "{found:?}");
        assert!(found[1].1.contains("KVM runs guest code"), "{found:?}");
        let (verdict, text) = &found[2];
        assert!(*verdict == Verdict::Warn && outdated(&found) && text.contains("rm "), "{text}");
        // With another device the daemon does not believe the earlier result either.
        std::fs::remove_file(&device).unwrap();
        bench.write("dev/kvm", "another");
        assert!(bench.run(&VmmCheck).await[0].1.contains("qemu/kvm"));
    }

    #[tokio::test]
    async fn a_kvm_that_is_busy_now_is_not_said_to_be_tried_by_starts_that_believe_in_it() {
        let mut bench = Bench::new();
        with_qemu(&mut bench, r#"{"kvm":"untried","reason":"EBUSY"}"#);
        let (busy, again) = ("end what keeps KVM busy", "each start tries it again");
        let device = bench.host.system("/dev/kvm");
        let broken = KvmFinding::Broken { reason: "so it was".into() };
        for (believed, chosen, is_tried) in
            [(None, "qemu/tcg", true), (Some(broken), "qemu/tcg", true), (Some(KvmFinding::Usable), "qemu/kvm", false)]
        {
            if let Some(believed) = believed {
                HostFacts::write_cached_kvm(&bench.host.layout.cache, &device, believed).unwrap();
            }
            let found = bench.run(&VmmCheck).await;
            assert!(found[0].1.contains(chosen), "{found:?}");
            let (verdict, text) = &found[1];
            assert!(*verdict == Verdict::Warn && text.contains("EBUSY") && text.contains(busy), "{text}");
            assert_eq!(text.contains(again), is_tried, "{text}");
        }
    }

    #[test]
    fn a_kvm_that_does_not_work_is_a_warning_with_a_way_out() {
        for (finding, hint) in [
            (KvmFinding::Absent, "nested virtualization"),
            (KvmFinding::Denied, "usermod"),
            (KvmFinding::Broken { reason: "exit 17".into() }, "provider"),
            (KvmFinding::Untried { reason: "EBUSY".into() }, "each start tries it again"),
        ] {
            let found = kvm(&finding);
            assert!(found.verdict == Verdict::Warn && found.hints[0].contains(hint), "{found:?}");
        }
        assert_eq!(kvm(&KvmFinding::Usable).verdict, Verdict::Pass);
    }
}
