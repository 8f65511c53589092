//! Metadata of an entry: everything besides its name and content.

/// Point in time, as both tar and ext4 represent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// Earliest time an ext4 inode holds: 1901-12-13T20:45:52Z.
    pub const MIN: Self = Self { secs: -(1 << 31), nanos: 0 };
    /// Latest time an ext4 inode holds: 2446-05-10T22:38:55Z.
    pub const MAX: Self = Self { secs: (1 << 34) - (1 << 31) - 1, nanos: 999_999_999 };

    /// Returns the time of whole seconds since the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }

    /// Returns the nearest time an ext4 inode can hold. Unclamped, a time outside the range would wrap around.
    pub(super) fn clamped(self) -> Self {
        Self { secs: self.secs, nanos: self.nanos.min(999_999_999) }.clamp(Self::MIN, Self::MAX)
    }
}

/// Extended attribute, with the full name a program would use (`security.capability`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Xattr {
    /// Name with its namespace.
    pub name: Vec<u8>,
    /// Value as `getxattr(2)` returns it.
    pub value: Vec<u8>,
}

/// Owner, permissions, time and extended attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with set-uid, set-gid and sticky (`0o7777`); other bits are ignored.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, also used for the other three times of the inode. Clamped to what ext4 holds.
    pub mtime: Timestamp,
    /// Extended attributes; of two with the same name the later wins.
    pub xattrs: Vec<Xattr>,
}

impl Meta {
    /// Returns metadata owned by root, without extended attributes.
    pub fn root(mode: u16, mtime: Timestamp) -> Self {
        Self { mode, mtime, ..Self::default() }
    }
}

/// Entry that is neither directory, file nor link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Character device; major at most 4,095, minor at most 1,048,575.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Block device, with the same limits.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_clamped_to_what_an_inode_holds() {
        assert_eq!(Timestamp::from_secs(i64::MIN).clamped(), Timestamp::MIN);
        assert_eq!(Timestamp::from_secs(i64::MAX).clamped(), Timestamp::MAX);
        let now = Timestamp { secs: 1_700_000_000, nanos: 5 };
        assert_eq!(now.clamped(), now);
        assert_eq!(Timestamp { secs: 0, nanos: u32::MAX }.clamped().nanos, 999_999_999);
    }
}
