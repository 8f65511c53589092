//! There is room for images and for what guests write.

use super::{Check, Host, Look, fail, pass, warn};
use banger_proto::{api::host::Finding, size::ByteSize};
use std::path::Path;

const NAME: &str = "disk space";
/// Below this not even a small image fits.
const NONE: ByteSize = ByteSize::mib(256);
/// Below this the default kernel and image, and a guest that builds something, are a tight fit.
const LITTLE: ByteSize = ByteSize::gib(4);

pub(super) struct DiskSpace;

impl Check for DiskSpace {
    fn look<'a>(&'a self, host: &'a Host) -> Look<'a> {
        let found = [&host.layout.state, &host.layout.cache].map(|place| {
            let existing = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
            let free = rustix::fs::statvfs(existing).ok().map(|fs| ByteSize(fs.f_bavail.saturating_mul(fs.f_frsize)));
            judge(place, free)
        });
        let [state, cache] = found;
        // Usually it is one file system: say it once.
        let same = state.verdict == cache.verdict;
        Box::pin(std::future::ready(if same { vec![state] } else { vec![state, cache] }))
    }
}

fn judge(place: &Path, free: Option<ByteSize>) -> Finding {
    let place = place.display();
    let mut finding = match free {
        None => warn(NAME, format!("it cannot be told how much is free for {place}")),
        Some(free) if free < NONE => fail(NAME, format!("{free} are free for {place}")),
        Some(free) if free < LITTLE => warn(NAME, format!("{free} are free for {place}")),
        Some(free) => return pass(NAME, format!("{free} are free for {place}")),
    };
    finding.hints.push("banger system df shows what takes room and what can be given back".into());
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::api::host::Verdict;

    #[test]
    fn little_room_is_a_warning_and_none_a_failure() {
        let verdict = |free| judge("/s".as_ref(), free).verdict;
        assert_eq!(verdict(Some(ByteSize::gib(9))), Verdict::Pass);
        assert_eq!(verdict(Some(ByteSize::gib(3))), Verdict::Warn);
        assert_eq!(verdict(Some(ByteSize::mib(9))), Verdict::Fail);
        assert_eq!(verdict(None), Verdict::Warn);
    }
}
