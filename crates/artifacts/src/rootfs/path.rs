//! Validation of path names in an image.

use super::error::EntryError;

/// Longest path, in bytes.
const PATH_MAX: usize = 4096;
/// Longest component, in bytes.
const NAME_MAX: usize = 255;

/// Returns the checked components of a relative path. `.` and empty components (`./a`, `a//b`, `a/`) are dropped, so
/// the root itself has none.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, EntryError> {
    if path.is_empty() {
        return Err(EntryError::Empty);
    }
    if path.len() > PATH_MAX {
        return Err(EntryError::PathTooLong(path.len()));
    }
    if path[0] == b'/' {
        return Err(EntryError::Absolute);
    }
    if path.contains(&0) {
        return Err(EntryError::Nul);
    }
    let mut parts = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(EntryError::ParentDir),
            _ if part.len() > NAME_MAX => return Err(EntryError::NameTooLong(part.len())),
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// Returns `bytes` unchanged, if they are UTF-8, as the names of attributes must be.
pub(super) fn utf8(bytes: &[u8]) -> Result<&[u8], EntryError> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(EntryError::NotUtf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths() {
        assert_eq!(components(b"./usr//bin/ls").unwrap(), [b"usr" as &[u8], b"bin", b"ls"]);
        assert_eq!(components(b"a/").unwrap(), [b"a"]);
        assert_eq!(components(b"caf\xe9").unwrap(), [b"caf\xe9"]);
        assert!(components(b"./").unwrap().is_empty());
        assert!(components(b".").unwrap().is_empty());
    }

    #[test]
    fn hostile_paths() {
        let long = vec![b'x'; 256];
        for (path, why) in [
            (b"" as &[u8], EntryError::Empty),
            (b"/etc", EntryError::Absolute),
            (b"a/../b", EntryError::ParentDir),
            (b"..", EntryError::ParentDir),
            (b"a\0b", EntryError::Nul),
            (&long, EntryError::NameTooLong(256)),
        ] {
            assert_eq!(components(path).unwrap_err(), why);
        }
        assert_eq!(components(&b"x/".repeat(2049)).unwrap_err(), EntryError::PathTooLong(4098));
        assert_eq!(components(&vec![b'x'; 255]).unwrap().len(), 1);
    }
}
