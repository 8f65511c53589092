//! Check: there is room for images and for the files of guests.

use super::{Check, Host, fail, pass, warn};
use banger_proto::{api::host::Finding, size::ByteSize};
use futures_util::future::BoxFuture;
use std::{os::unix::fs::MetadataExt as _, path::Path};

const NAME: &str = "disk space";
/// With less, not even a small image fits.
const NONE: ByteSize = ByteSize::mib(256);
/// With less, the default kernel and image and a guest that builds something hardly fit.
const LITTLE: ByteSize = ByteSize::gib(4);

pub(super) struct DiskSpace;

impl Check for DiskSpace {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let [state, cache] = [&host.layout.state, &host.layout.cache].map(|place| Room::at(place));
        Box::pin(std::future::ready(findings(&state, &cache)))
    }
}

/// Free space of the file system a directory is on, or will be on.
struct Room<'a> {
    place: &'a Path,
    /// Device number of the file system, if known.
    device: Option<u64>,
    free: Option<ByteSize>,
}

impl<'a> Room<'a> {
    fn at(place: &'a Path) -> Self {
        let existing = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let free = rustix::fs::statvfs(existing).ok().map(|fs| ByteSize(fs.f_bavail.saturating_mul(fs.f_frsize)));
        Self { place, device: existing.metadata().ok().map(|place| place.dev()), free }
    }
}

/// Usually all directories are on one file system, which is reported once. Different file systems are each reported,
/// even with equal numbers: room on one does not help the other.
fn findings(state: &Room<'_>, cache: &Room<'_>) -> Vec<Finding> {
    let same = state.device.is_some() && state.device == cache.device;
    let rooms = if same { vec![state] } else { vec![state, cache] };
    rooms.into_iter().map(|room| judge(room.place, room.free)).collect()
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

    #[test]
    fn each_of_two_file_systems_is_said_and_one_only_once() {
        let room = |place: &'static str, device, free| Room { place: Path::new(place), device, free };
        let said = |state: Room<'_>, cache: Room<'_>| {
            findings(&state, &cache).into_iter().map(|found| (found.verdict, found.message)).collect::<Vec<_>>()
        };
        let (little, much) = (Some(ByteSize::mib(9)), Some(ByteSize::gib(9)));
        let found = said(room("/s", Some(1), little), room("/a", Some(2), little));
        let full = |place: &str| (Verdict::Fail, format!("{} are free for {place}", ByteSize::mib(9)));
        assert_eq!(found, [full("/s"), full("/a")]);
        assert_eq!(said(room("/s", Some(1), little), room("/a", Some(1), little)), [full("/s")]);
        let verdicts = |found: Vec<(Verdict, String)>| found.into_iter().map(|found| found.0).collect::<Vec<_>>();
        let found = said(room("/s", Some(1), much), room("/a", Some(2), little));
        assert_eq!(verdicts(found), [Verdict::Pass, Verdict::Fail]);
        // A directory whose file system is unknown is never left out.
        assert_eq!(verdicts(said(room("/s", None, None), room("/a", None, None))), [Verdict::Warn, Verdict::Warn]);
    }
}
