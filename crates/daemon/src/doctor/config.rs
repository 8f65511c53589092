//! Check: the configuration parses. Says which rule gives a new VM its sizes.

use super::{Check, Host, fail, pass};
use crate::config::{Config, ConfigError};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;
use std::error::Error as _;

const NAME: &str = "configuration";

pub(super) struct Configuration;

impl Check for Configuration {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let found = match &host.config {
            Ok(config) => good(config),
            Err(error) => bad(error),
        };
        Box::pin(std::future::ready(vec![found]))
    }
}

fn good(config: &Config) -> Finding {
    pass(
        NAME,
        format!(
            "a new VM gets {} vcpu ({}), {} of memory ({}), a disk of {} ({})",
            config.vcpu.value,
            config.vcpu.source,
            config.memory.value,
            config.memory.source,
            config.disk_size.value,
            config.disk_size.source
        ),
    )
}

fn bad(error: &ConfigError) -> Finding {
    let mut finding = fail(NAME, error.to_string());
    finding.causes.extend(error.source().map(ToString::to_string));
    finding.hints.push("docs/configuration.md lists every key; the daemon starts once the file is right".into());
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::File, doctor::tests::Bench};
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_file_that_does_not_parse_is_named_with_its_line() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(&Configuration).await[0].0, Verdict::Pass);
        bench.host.config = Err(File::parse("\nvcpu = 1", "/c/config.toml".as_ref()).unwrap_err());
        let (verdict, text) = bench.run(&Configuration).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("line 2") && text.contains("/c/config.toml"), "{text}");
    }
}
