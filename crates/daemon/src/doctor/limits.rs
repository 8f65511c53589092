//! This user may have as many open files as VMs and sessions need.

use super::{Check, Host, Look, pass, warn};
use banger_proto::api::host::Finding;
use rustix::process::{Resource, getrlimit};

const NAME: &str = "limits";
/// A shim holds some thirty descriptors, the daemon a few per VM, an exec session four.
const OPEN_FILES: u64 = 1024;

pub(super) struct Limits;

impl Check for Limits {
    fn look<'a>(&'a self, _host: &'a Host) -> Look<'a> {
        Box::pin(std::future::ready(vec![judge(getrlimit(Resource::Nofile).current)]))
    }
}

/// No limit is `None`.
fn judge(open_files: Option<u64>) -> Finding {
    match open_files {
        Some(few) if few < OPEN_FILES => {
            let message = format!("{few} open files are allowed: with many VMs or sessions some will fail");
            let mut finding = warn(NAME, message);
            finding.hints.push(format!("ulimit -n {OPEN_FILES}, then: banger daemon stop"));
            finding
        }
        Some(count) => pass(NAME, format!("{count} open files are allowed")),
        None => pass(NAME, "no limit on open files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::api::host::Verdict;

    #[test]
    fn few_open_files_are_a_warning() {
        assert_eq!(
            [Some(256), Some(1024), None].map(|count| judge(count).verdict),
            [Verdict::Warn, Verdict::Pass, Verdict::Pass]
        );
    }
}
