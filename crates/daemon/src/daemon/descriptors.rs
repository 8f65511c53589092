//! How many files the daemon may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A pull holds each layer that is in the cache open, 127 of one image, and several go on at once beside connections and
/// streams: what a process is given unasked, 1,024, is not enough for eight. This is, for a hundred. It is not all that may
/// be had, which can be a thousand million: what the daemon starts inherits it, and some programs close as many
/// descriptors as they might have.
const ENOUGH: u64 = 16 << 10;

/// Asks for enough of them. A host that gives fewer gives what it does.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Some(current) = raised(limit) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
}

/// What to ask for, where that is more than there is. `None` in a limit is none.
fn raised(limit: Rlimit) -> Option<u64> {
    let most = limit.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    limit.current.is_some_and(|current| current < most).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_raised_as_far_as_it_may_be_and_never_lowered() {
        for (current, maximum, to) in [
            (Some(1024), Some(524_288), Some(ENOUGH)),
            (Some(1024), None, Some(ENOUGH)),
            (Some(1024), Some(4096), Some(4096)),
            (Some(4096), Some(4096), None),
            (Some(ENOUGH), None, None),
            (Some(1 << 20), Some(1 << 20), None),
            (None, None, None),
        ] {
            assert_eq!(raised(Rlimit { current, maximum }), to, "{current:?} {maximum:?}");
        }
    }
}
