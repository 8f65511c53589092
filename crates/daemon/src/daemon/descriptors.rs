//! Limit of open files of the daemon.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Soft limit to ask for. A pull holds each cached layer open, up to 127 of one image, and several pulls run beside
/// connections and streams. The usual 1,024 is not enough for eight pulls; this is enough for a hundred. The hard limit
/// itself, which can be a thousand million, is not used: programs the daemon starts inherit it, and some close as many
/// descriptors as they might have.
const ENOUGH: u64 = 16 << 10;

/// Raises the soft limit as far as the host allows.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Some(current) = raised(limit) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
}

/// Limit to ask for, if higher than the current one. `None` in a limit means unlimited.
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
