//! Extended attributes that an ext4 inode can hold, and their encoding.
//!
//! They are checked here, before anything is written, so that an error names the entry it belongs to. Attributes of
//! namespaces that Linux does not store on an ext4 (`com.apple.provenance`, `system.nfs4_acl`) belong to the machine
//! that packed them, and are left out.

use super::{
    entry::Xattr,
    error::{EntryError, quoted},
    path::utf8,
};
use mkext4::{csum, spec::XATTR_MAGIC};

/// Room for attributes in an inode of 256 bytes, after the magic number, in bytes.
const INODE_AREA: usize = 256 - 128 - 32 - 4;
/// Size of one block in bytes, and of its header with the terminator.
const BLOCK: usize = 4096;
const BLOCK_HEADER: usize = 32 + 4;
/// Longest attribute name without its namespace, in bytes.
const NAME_MAX: usize = 255;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Returns the attributes in the form they are stored in: the last of each name, known namespaces only, access control
/// lists in ext4's own encoding. Refuses what does not fit the inode and one block.
pub(super) fn check(given: Vec<Xattr>) -> Result<Vec<Xattr>, EntryError> {
    if given.is_empty() {
        return Ok(given);
    }
    let mut kept: Vec<Xattr> = Vec::with_capacity(given.len());
    for mut attr in given.into_iter().filter(|attr| is_known(&attr.name)) {
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
    check_fit(&kept)?;
    Ok(kept)
}

/// Namespaces whose names have a suffix, and ext4's numbers for them.
const NAMESPACES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];

/// Whether a name belongs to a namespace that ext4 stores.
fn is_known(name: &[u8]) -> bool {
    [ACL_ACCESS, ACL_DEFAULT].contains(&name) || NAMESPACES.iter().any(|(_, prefix)| name.starts_with(prefix))
}

/// Returns ext4's number for the namespace of `name`, and the part of the name that is stored.
fn namespace(name: &[u8]) -> Result<(u8, &[u8]), EntryError> {
    if name == ACL_ACCESS {
        return Ok((2, b""));
    }
    if name == ACL_DEFAULT {
        return Ok((3, b""));
    }
    for (number, prefix) in NAMESPACES {
        if let Some(rest) = name.strip_prefix(prefix)
            && (1..=NAME_MAX).contains(&rest.len())
            && !rest.contains(&0)
        {
            return Ok((number, rest));
        }
    }
    Err(EntryError::XattrName(quoted(name)))
}

/// Attribute in the form it is stored in.
struct Attribute<'a> {
    namespace: u8,
    name: &'a [u8],
    value: &'a [u8],
}

impl Attribute<'_> {
    /// Returns the sizes of the entry and of the value, in bytes.
    fn sizes(&self) -> (usize, usize) {
        (16 + self.name.len().next_multiple_of(4), self.value.len().next_multiple_of(4))
    }

    fn size(&self) -> usize {
        let (entry, value) = self.sizes();
        entry + value
    }
}

/// Splits the attributes, in the order of (namespace, name length, name), into as many of the first as fit the inode
/// and all others. If the others are too large for a block, whatever fits the inode is put there, regardless of what
/// precedes it.
fn split(attrs: &[Xattr]) -> Result<(Vec<Attribute<'_>>, Vec<Attribute<'_>>), EntryError> {
    let mut all = Vec::with_capacity(attrs.len());
    for attr in attrs {
        let (namespace, name) = namespace(&attr.name)?;
        all.push(Attribute { namespace, name, value: &attr.value });
    }
    all.sort_unstable_by_key(|attr| (attr.namespace, attr.name.len(), attr.name));
    let mut room = INODE_AREA - 4;
    let mut has_room = |attr: &Attribute<'_>| {
        let left = room.checked_sub(attr.size());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let first = all.iter().take_while(|attr| has_room(attr)).count();
    if fits_block(&all[first..]) {
        let rest = all.split_off(first);
        return Ok((all, rest));
    }
    let mut number = 0;
    Ok(all.into_iter().partition(|attr| {
        number += 1;
        number <= first || has_room(attr)
    }))
}

fn bytes(attrs: &[Attribute<'_>]) -> usize {
    attrs.iter().map(Attribute::size).sum()
}

/// Whether these attributes fit one block.
fn fits_block(attrs: &[Attribute<'_>]) -> bool {
    bytes(attrs) + BLOCK_HEADER <= BLOCK
}

/// Checks that the attributes that do not fit the inode fit one block.
fn check_fit(attrs: &[Xattr]) -> Result<(), EntryError> {
    let (inode, block) = split(attrs)?;
    if fits_block(&block) { Ok(()) } else { Err(EntryError::XattrTooLarge(bytes(&inode) + bytes(&block))) }
}

/// Encodes checked attributes: the part in the inode, empty if there is none, and the part in a separate block, if one
/// is needed. That block has to be [`seal`]ed for its position.
pub(super) fn encode(attrs: &[Xattr]) -> Result<(Vec<u8>, Option<Vec<u8>>), EntryError> {
    let (inode, block) = split(attrs)?;
    let mut area = Vec::new();
    if !inode.is_empty() {
        area.resize(4 + INODE_AREA, 0);
        area[..4].copy_from_slice(&XATTR_MAGIC.to_le_bytes());
        // Offsets count from behind the magic number, and entries are not hashed.
        write_entries(&mut area[4..], &inode, 0);
    }
    if block.is_empty() {
        return Ok((area, None));
    }
    let mut bytes = vec![0; BLOCK];
    let hashes = write_entries(&mut bytes[32..], &block, 32);
    let head = [XATTR_MAGIC, 1, 1, csum::xattr_block_hash(hashes)];
    for (buffer, word) in bytes.chunks_exact_mut(4).zip(head) {
        buffer.copy_from_slice(&word.to_le_bytes());
    }
    Ok((area, Some(bytes)))
}

/// Sets the checksum of a block of attributes that will be block `number` of the image with this seed.
pub(super) fn seal(block: &mut [u8], number: u64, seed: u32) {
    let sum = csum::xattr_block(seed, number, block);
    block[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// Writes entries from the start of `buffer` on and values from its end backwards; `before` bytes of the block precede
/// `buffer`. Returns the hashes of the entries.
fn write_entries(buffer: &mut [u8], attrs: &[Attribute<'_>], before: usize) -> Vec<u32> {
    let (mut at, mut value_at) = (0, buffer.len());
    let mut hashes = Vec::with_capacity(attrs.len());
    for attr in attrs {
        let (entry, value) = attr.sizes();
        value_at -= value;
        buffer[value_at..value_at + attr.value.len()].copy_from_slice(attr.value);
        let hash = if before > 0 { csum::xattr_entry_hash(attr.name, attr.value) } else { 0 };
        let short = |n: usize| u16::try_from(n).expect("within a block").to_le_bytes();
        buffer[at] = u8::try_from(attr.name.len()).expect("names were checked");
        buffer[at + 1] = attr.namespace;
        buffer[at + 2..at + 4].copy_from_slice(&short(before + value_at));
        buffer[at + 8..at + 10].copy_from_slice(&short(attr.value.len()));
        buffer[at + 12..at + 16].copy_from_slice(&hash.to_le_bytes());
        buffer[at + 16..at + 16 + attr.name.len()].copy_from_slice(attr.name);
        at += entry;
        hashes.push(hash);
    }
    hashes
}

/// Converts an access control list from the form of `getxattr(2)` (version 2, 8 bytes per entry) to ext4's form on disk
/// (version 1, 4 bytes for entries without an id).
fn acl_to_disk(value: &[u8]) -> Result<Vec<u8>, EntryError> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    const WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
    let (version, entries) = value.split_first_chunk::<4>().ok_or(EntryError::Acl)?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return Err(EntryError::Acl);
    }
    let mut disk = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == USER || tag == GROUP {
            disk.extend_from_slice(entry);
        } else if WITHOUT_ID.contains(&tag) {
            disk.extend_from_slice(&entry[..4]);
        } else {
            return Err(EntryError::Acl);
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
            assert!(check(vec![attr(name, b"v")]).is_ok(), "{name}");
        }
        let kept = check(vec![attr("", b"v"), attr("com.apple.provenance", b"v"), attr("user.a", b"v")]).unwrap();
        assert_eq!(kept, [attr("user.a", b"v")]);
        for name in ["system.nfs4_acl", "system.data", "os2.a", "nonsense", "com.\u{e9}"] {
            assert_eq!(check(vec![attr(name, &[7; 5000])]).unwrap(), [], "{name}");
        }
        for name in ["user.", "user.a\0b", &format!("user.{}", "n".repeat(256))] {
            assert!(matches!(check(vec![attr(name, b"v")]), Err(EntryError::XattrName(_))), "{name}");
        }
        assert_eq!(
            check(vec![Xattr { name: b"user.\xff".to_vec(), value: Vec::new() }]).unwrap_err(),
            EntryError::NotUtf8
        );
    }

    #[test]
    fn the_last_of_one_name_wins() {
        let kept = check(vec![attr("user.a", b"1"), attr("user.b", b"2"), attr("user.a", b"3")]).unwrap();
        assert_eq!(kept, [attr("user.a", b"3"), attr("user.b", b"2")]);
    }

    #[test]
    fn the_limit_is_one_block() {
        // 4096 - header 32 - terminator 4 - entry 16 - name 4
        assert!(check(vec![attr("user.abcd", &vec![7; 4040])]).is_ok());
        assert!(matches!(check(vec![attr("user.abcd", &vec![7; 4041])]), Err(EntryError::XattrTooLarge(_))));
        // An attribute that fits only the block leaves the inode to those behind it.
        let both = vec![attr("user.a", &vec![7; 4000]), attr("user.bb", &[7; 40])];
        assert!(check(both.clone()).is_ok());
        let (inode, block) = split(&both).unwrap();
        assert_eq!([inode[0].name, block[0].name], [&b"bb"[..], b"a"]);
        // The split of attributes that fit the block never changes: an image pulled again has to be the same image.
        let small = vec![attr("user.a", &vec![7; 3000]), attr("user.bb", &[7; 40])];
        assert_eq!(split(&small).unwrap().0.len(), 0);
        let many = (0..60).map(|n| attr(&format!("user.{n:04}"), &[7; 50])).collect();
        assert!(matches!(check(many), Err(EntryError::XattrTooLarge(_))));
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
            assert_eq!(acl_to_disk(bad).unwrap_err(), EntryError::Acl);
        }
    }
}
