//! Moments of this host's clock as manifests write them.

use banger_proto::time;
use std::time::{SystemTime, UNIX_EPOCH};

/// Formats `time` as RFC 3339 in UTC, in whole seconds. A clock before 1970 counts as 1970.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    time::rfc3339(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
