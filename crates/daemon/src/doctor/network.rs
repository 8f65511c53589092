//! Check: requirements of the VMs' network: user namespaces, a tap device, nft, and pasta as the uplink. A VM starts
//! without any of them.

use super::{Check, Host, is_executable, pass, user_namespaces, warn};
use crate::config::Uplink;
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;
use std::{fs, path::Path};

const NAME: &str = "network";

pub(super) struct Network;

impl Check for Network {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(std::future::ready(findings(host)))
    }
}

fn findings(host: &Host) -> Vec<Finding> {
    let uplink = host.config.as_ref().map_or(Uplink::Auto, |config| config.uplink.value);
    if uplink == Uplink::Off {
        return vec![pass(NAME, "off, as the configuration says: VMs get no network card")];
    }
    let mut found = Vec::new();
    let mut lacks = |what: &str, hint: &str| {
        let mut finding = warn(NAME, format!("VMs get no network card: {what}"));
        finding.hints.push(hint.to_owned());
        found.push(finding);
    };
    if !is_executable(&host.programs.root_helper) {
        let what = format!("{} is not there, or not executable", host.programs.root_helper.display());
        lacks(&what, "install banger again: its programs belong together, in one directory");
    }
    for obstacle in user_namespaces::obstacles(host) {
        lacks(obstacle.what, obstacle.hint);
    }
    if !can_open(&host.system("/dev/net/tun")) {
        lacks("/dev/net/tun cannot be opened", "sudo modprobe tun; sudo chmod 666 /dev/net/tun");
    }
    if host.program("nft").is_none() {
        lacks("nft is not installed", "sudo apt install nftables");
    }
    if uplink == Uplink::Auto && host.program("pasta").is_none() {
        let mut finding = warn(NAME, "VMs have no way to the internet: pasta is not installed");
        finding.hints.push("sudo apt install passt".to_owned());
        found.push(finding);
    }
    if found.is_empty() {
        let reach =
            if uplink == Uplink::Auto { "VMs reach what their policies say" } else { "VMs reach each other at most" };
        found.push(pass(NAME, reach));
    }
    found
}

fn can_open(device: &Path) -> bool {
    fs::File::options().read(true).write(true).open(device).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn what_is_missing_is_named_with_what_mends_it() {
        let mut bench = Bench::new();
        bench.host.uid = 1000;
        bench.write("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        let found = bench.run(&Network).await;
        let text = format!("{found:?}");
        for word in ["AppArmor", "/dev/net/tun", "apt install nftables", "apt install passt"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(found.iter().all(|(verdict, _)| *verdict == Verdict::Warn));
        assert!(!text.contains("bangerd-root"), "{text}");
        fs::remove_file(&bench.host.programs.root_helper).unwrap();
        let found = bench.run(&Network).await;
        assert!(found[0].1.contains("bangerd-root") && found[0].1.contains("install banger again"), "{found:?}");
    }
}
