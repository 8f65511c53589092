//! Check: a VM of the default size can start now.

use super::{Check, Host, pass, warn};
use crate::config;
use banger_proto::{api::host::Finding, size::ByteSize};
use futures_util::future::BoxFuture;

const NAME: &str = "memory";

pub(super) struct Memory;

impl Check for Memory {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let text = std::fs::read_to_string(host.system("/proc/meminfo")).unwrap_or_default();
        let wanted = host.config.as_ref().map_or(ByteSize::gib(2), |config| config.memory.value);
        let free = config::parse_memory(&text, "MemAvailable:");
        Box::pin(std::future::ready(vec![judge(wanted, free)]))
    }
}

fn judge(wanted: ByteSize, free: Option<ByteSize>) -> Finding {
    match free {
        None => {
            let mut finding = warn(NAME, "/proc/meminfo does not say what is free: starts are not checked against it");
            finding.hints.push("mount -t proc proc /proc".into());
            finding
        }
        Some(free) if free < wanted => {
            let mut finding = warn(NAME, format!("{free} are free, and a VM of the default size has {wanted}"));
            finding.hints.push("banger ps shows what runs; banger vm stop NAME frees it".into());
            finding.hints.push("`vm_defaults.memory` in config.toml, or --memory, makes VMs smaller".into());
            finding
        }
        Some(free) => pass(NAME, format!("{free} are free, a VM of the default size has {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_host_that_is_full_is_found() {
        let bench = Bench::new();
        assert_eq!(bench.run(&Memory).await[0].0, Verdict::Warn, "no /proc");
        bench.write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1024 kB\n");
        let (verdict, text) = bench.run(&Memory).await.remove(0);
        assert!(verdict == Verdict::Warn && text.contains("1 MiB are free"), "{text}");
        bench.write("proc/meminfo", "MemAvailable:   99999999999 kB\n");
        assert_eq!(bench.run(&Memory).await[0].0, Verdict::Pass);
    }
}
