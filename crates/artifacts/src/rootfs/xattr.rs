//! Which extended attributes an ext4 inode can hold, and in which form.
//!
//! The check stands here, before anything is written, because the filesystem writer finds an attribute that does not
//! fit only when it seals the whole image, and then names no entry.

use super::{
    entry::Xattr,
    error::{Refusal, quoted},
    path::utf8,
};

/// Bytes an inode of 256 bytes has for attributes, after the magic number.
const INODE_AREA: usize = 256 - 128 - 32 - 4;
/// Bytes of one block, and of its header together with the terminator.
const BLOCK: usize = 4096;
const BLOCK_HEADER: usize = 32 + 4;
/// Longest attribute name below its namespace.
const NAME_MAX: usize = 255;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The attributes as they go to disk: the last of each name, known namespaces only, access control lists in ext4's
/// own encoding, and small enough for the inode and one block.
pub(super) fn checked(given: Vec<Xattr>) -> Result<Vec<Xattr>, Refusal> {
    if given.is_empty() {
        return Ok(given);
    }
    let mut kept: Vec<Xattr> = Vec::with_capacity(given.len());
    for mut attr in given {
        utf8(&attr.name)?;
        if attr.name == ACL_ACCESS || attr.name == ACL_DEFAULT {
            attr.value = acl_to_disk(&attr.value)?;
        }
        namespace(&attr.name)?;
        match kept.iter_mut().find(|known| known.name == attr.name) {
            Some(known) => known.value = attr.value,
            None => kept.push(attr),
        }
    }
    fits(&kept)?;
    Ok(kept)
}

/// ext4's number for the namespace of `name`, and the part of the name it stores.
fn namespace(name: &[u8]) -> Result<(u8, &[u8]), Refusal> {
    if name == ACL_ACCESS {
        return Ok((2, b""));
    }
    if name == ACL_DEFAULT {
        return Ok((3, b""));
    }
    for (number, prefix) in [(1, b"user." as &[u8]), (4, b"trusted."), (6, b"security.")] {
        if let Some(rest) = name.strip_prefix(prefix)
            && (1..=NAME_MAX).contains(&rest.len())
            && !rest.contains(&0)
        {
            return Ok((number, rest));
        }
    }
    Err(Refusal::XattrNamespace(quoted(name)))
}

/// Attributes are laid out in the order of (namespace, name length, name): as long as they fit in the inode, then all
/// others in one block.
fn fits(attrs: &[Xattr]) -> Result<(), Refusal> {
    let mut sizes = Vec::with_capacity(attrs.len());
    for attr in attrs {
        let (number, rest) = namespace(&attr.name)?;
        let bytes = 16 + rest.len().next_multiple_of(4) + attr.value.len().next_multiple_of(4);
        sizes.push(((number, rest.len(), rest), bytes));
    }
    sizes.sort_unstable();
    let mut sizes = sizes.into_iter().map(|(_, bytes)| bytes).peekable();
    let mut inode = 4;
    while let Some(bytes) = sizes.next_if(|bytes| inode + bytes <= INODE_AREA) {
        inode += bytes;
    }
    let block: usize = sizes.sum();
    if block + BLOCK_HEADER > BLOCK { Err(Refusal::XattrTooLarge(inode - 4 + block)) } else { Ok(()) }
}

/// Whether the attributes need a block of their own.
pub(super) fn needs_block(attrs: &[Xattr]) -> bool {
    // An upper bound is good enough: it only makes the image one block larger than it must be.
    let bytes: usize = attrs.iter().map(|attr| 24 + attr.name.len() + attr.value.len()).sum();
    bytes + 4 > INODE_AREA
}

/// Translates an access control list from the form of `getxattr(2)` (version 2, 8 bytes per entry) into the one ext4
/// keeps on disk (version 1, 4 bytes for entries without an id).
fn acl_to_disk(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    const WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
    let (version, entries) = value.split_first_chunk::<4>().ok_or(Refusal::Acl)?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return Err(Refusal::Acl);
    }
    let mut disk = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == USER || tag == GROUP {
            disk.extend_from_slice(entry);
        } else if WITHOUT_ID.contains(&tag) {
            disk.extend_from_slice(&entry[..4]);
        } else {
            return Err(Refusal::Acl);
        }
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(name: &str, value: &[u8]) -> Xattr {
        Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() }
    }

    #[test]
    fn namespaces() {
        for name in ["user.a", "trusted.overlay.opaque", "security.capability"] {
            assert!(checked(vec![attr(name, b"v")]).is_ok(), "{name}");
        }
        for name in ["", "user.", "system.data", "os2.a", "nonsense"] {
            assert!(matches!(checked(vec![attr(name, b"v")]), Err(Refusal::XattrNamespace(_))), "{name}");
        }
        assert_eq!(
            checked(vec![Xattr { name: b"user.\xff".to_vec(), value: Vec::new() }]).unwrap_err(),
            Refusal::NotUtf8
        );
    }

    #[test]
    fn the_last_of_one_name_wins() {
        let kept = checked(vec![attr("user.a", b"1"), attr("user.b", b"2"), attr("user.a", b"3")]).unwrap();
        assert_eq!(kept, [attr("user.a", b"3"), attr("user.b", b"2")]);
    }

    #[test]
    fn the_limit_is_the_one_of_the_writer() {
        // 4096 - header 32 - terminator 4 - entry 16 - name 4
        assert!(checked(vec![attr("user.abcd", &vec![7; 4040])]).is_ok());
        assert!(matches!(checked(vec![attr("user.abcd", &vec![7; 4041])]), Err(Refusal::XattrTooLarge(_))));
        let many = (0..60).map(|n| attr(&format!("user.{n:04}"), &[7; 50])).collect();
        assert!(matches!(checked(many), Err(Refusal::XattrTooLarge(_))));
    }

    #[test]
    fn access_control_lists_change_form() {
        let entry =
            |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let given = [
            2_u32.to_le_bytes().to_vec(),
            entry(0x01, 7, u32::MAX),
            entry(0x02, 4, 1000),
            entry(0x04, 5, u32::MAX),
            entry(0x10, 5, u32::MAX),
            entry(0x20, 0, u32::MAX),
        ]
        .concat();
        let disk = acl_to_disk(&given).unwrap();
        assert_eq!(disk.len(), 4 + 4 * 4 + 8);
        assert_eq!(disk[..8], [1, 0, 0, 0, 1, 0, 7, 0]);
        assert_eq!(disk[8..16], [2, 0, 4, 0, 0xe8, 3, 0, 0]);
        for bad in [b"" as &[u8], &[1, 0, 0, 0], &[2, 0, 0, 0, 1], &[2, 0, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(acl_to_disk(bad).unwrap_err(), Refusal::Acl);
        }
    }
}
