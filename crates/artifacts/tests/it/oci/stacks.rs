//! Random stacks of layers: every kind of entry, in every form of header.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::xattrs::Xattr;
use proptest::prelude::*;
use tar::{EntryType, Header};

/// Bounds of the machine's own times; times in layers are never between them.
pub(super) const PRESENT: i64 = 1_700_000_000;
pub(super) const FUTURE: i64 = 1 << 32;

#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) path: String,
    pub(super) what: What,
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    pub(super) mtime: i64,
    /// Attributes, if the header form and the kind of entry can have them.
    pub(super) xattrs: Vec<Xattr>,
    pub(super) style: Style,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Dir,
    File(Vec<u8>),
    Symlink(String),
    Link(String),
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
    Whiteout,
    Opaque,
}

/// Form of the header.
#[derive(Debug, Clone, Copy)]
pub(super) enum Style {
    Ustar,
    Gnu,
    /// PAX records for the path, a link's target, a time with a fraction and attributes.
    Pax,
}

fn path() -> impl Strategy<Value = String> {
    // Two of one name still fit into a header, of the other none does; one name is no UTF-8.
    let (long, longer) = (Just("long".repeat(20)).boxed(), Just("longer".repeat(38)).boxed());
    let odd = Just("\u{e9}\u{ff}".to_owned()).boxed();
    let part = prop_oneof![16 => "[a-c]".boxed(), 2 => long, 1 => longer, 2 => odd];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

/// Content: mostly small, or several blocks with a hole.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let blocks = (1..40_usize, any::<u8>()).prop_map(|(kilobytes, byte)| {
        let mut content = vec![byte; kilobytes * 1000];
        let len = content.len();
        content[len / 4..len / 2].fill(0);
        content
    });
    prop_oneof![6 => prop::collection::vec(any::<u8>(), 0..6), 1 => blocks]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => Just(What::Dir),
        6 => content().prop_map(What::File),
        2 => path().prop_map(What::Symlink),
        2 => "/[a-c](/[a-c])?".prop_map(What::Symlink),
        3 => path().prop_map(What::Link),
        3 => Just(What::Fifo),
        2 => (0..300_u32, 0..70_000_u32).prop_map(|(major, minor)| What::Char(major, minor)),
        2 => (0..300_u32, 0..70_000_u32).prop_map(|(major, minor)| What::Block(major, minor)),
        3 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ];
    let style = prop_oneof![Just(Style::Ustar), Just(Style::Gnu), Just(Style::Pax)];
    let owner = prop_oneof![Just((0, 0)), (0..70_000_u64, 0..70_000_u64), Just((4_000_000_000, 3_999_999_999))];
    // Until now, and after 2106, when 32 bits are no longer enough. Those between the reader of names does not
    // understand.
    let mtime = prop_oneof![6 => 1..PRESENT, 1 => FUTURE..FUTURE + (1 << 31)];
    // Now and then it is the root itself.
    let place = prop_oneof![30 => (path(), what), 1 => Just((ROOT.to_owned(), What::Dir))];
    (place, 0..0o10000_u32, owner, mtime, xattrs(), style).prop_map(
        |((path, what), mode, owner, mtime, xattrs, style)| Step { path, what, mode, owner, mtime, xattrs, style },
    )
}

/// Attribute values of any bytes, like capabilities: small ones that fit an inode, and ones that need a block.
fn xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let named = |name: &'static str, len| {
        prop::collection::vec(any::<u8>(), len).prop_map(move |value| (name.to_owned(), value)).boxed()
    };
    // The second version, with permitted and inheritable bits: the kernel takes no other bytes.
    let capability = any::<[u8; 16]>()
        .prop_map(|bits| (CAPABILITY.to_owned(), [&0x0200_0001_u32.to_le_bytes()[..], &bits].concat()));
    let one = prop_oneof![
        2 => named("user.bytes", 1..40),
        3 => named("trusted.bytes", 1..40),
        1 => named("trusted.long", 150..900),
        2 => capability.boxed(),
    ];
    // Each name once: of two records with one name the last counts, here and there.
    prop::collection::vec(one, 0..5).prop_map(|mut all| {
        all.sort();
        all.dedup_by(|one, other| one.0 == other.0);
        all
    })
}

/// File capabilities of a program.
pub(super) const CAPABILITY: &str = "security.capability";

/// Whether Linux stores an attribute of that name on that kind of entry.
fn is_kept(name: &str, kind: EntryType) -> bool {
    match kind {
        EntryType::Regular => true,
        EntryType::Directory => name != CAPABILITY,
        EntryType::Link => false,
        _ => name.starts_with("trusted."),
    }
}

/// Name of the root in a layer.
pub(super) const ROOT: &str = ".";
/// Longest path in a header, and longest end of one beside its prefix.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// Returns the bytes of a name: each character is one.
pub(super) fn raw(name: &str) -> Vec<u8> {
    name.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

/// Returns a name of these bytes.
pub(super) fn word(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn record(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let rest = 3 + key.len() + value.len();
    let length = (rest + 1..rest + 9).find(|length| rest + length.to_string().len() == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Builds a layer; the caller has to avoid entries that would make the layer itself invalid.
pub(super) fn layer(steps: &[Step]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for step in steps {
        let (directory, name) = step.path.rsplit_once('/').map_or(("", step.path.as_str()), |(d, n)| (d, n));
        let below = |name: &str| if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
        let (path, kind, link, content): (String, EntryType, &str, &[u8]) = match &step.what {
            What::Dir => (format!("{}/", step.path), EntryType::Directory, "", b""),
            What::File(bytes) => (step.path.clone(), EntryType::Regular, "", bytes),
            What::Symlink(target) => (step.path.clone(), EntryType::Symlink, target, b""),
            What::Link(target) => (step.path.clone(), EntryType::Link, target, b""),
            What::Fifo => (step.path.clone(), EntryType::Fifo, "", b""),
            What::Char(..) => (step.path.clone(), EntryType::Char, "", b""),
            What::Block(..) => (step.path.clone(), EntryType::Block, "", b""),
            What::Whiteout => (below(&format!(".wh.{name}")), EntryType::Regular, "", b""),
            What::Opaque => (format!("{}/.wh..wh..opq", step.path), EntryType::Regular, "", b""),
        };
        let mut header = if matches!(step.style, Style::Gnu) { Header::new_gnu() } else { Header::new_ustar() };
        header.set_entry_type(kind);
        header.set_mode(step.mode & 0o7777);
        // Only a record has times before 1970.
        header.set_mtime(step.mtime.unsigned_abs());
        header.set_size(content.len() as u64);
        let (path, link) = (raw(&path), raw(link));
        let big = step.owner.0 > 0o7_777_777;
        let mut in_records = (false, false);
        let mut records = Vec::new();
        if big && !matches!(step.style, Style::Gnu) {
            records.extend(record("uid", step.owner.0.to_string()));
            records.extend(record("gid", step.owner.1.to_string()));
        } else {
            header.set_uid(step.owner.0);
            header.set_gid(step.owner.1);
        }
        if let What::Char(major, minor) | What::Block(major, minor) = step.what {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        if matches!(step.style, Style::Pax) {
            records.extend(record("mtime", format!("{}.5", step.mtime)));
            // What is no UTF-8 has no place in a record.
            in_records = (path.is_ascii(), link.is_ascii() && !link.is_empty());
            if in_records.0 {
                records.extend(record("path", &path));
            }
            if in_records.1 {
                records.extend(record("linkpath", &link));
            }
            if matches!(kind, EntryType::Regular | EntryType::Directory) {
                records.extend(record("SCHILY.xattr.user.test", "value"));
                records.extend(record("SCHILY.xattr.user.other", step.mtime.to_string()));
                records.extend(record("SCHILY.xattr.trusted.test", "of the administrator"));
                // Nothing on this system keeps one of that kind.
                records.extend(record("SCHILY.xattr.com.apple.provenance", "elsewhere"));
            }
            // A whiteout is no file that could have any.
            if !matches!(step.what, What::Whiteout | What::Opaque) {
                for (name, value) in step.xattrs.iter().filter(|(name, _)| is_kept(name, kind)) {
                    records.extend(record(&format!("SCHILY.xattr.{name}"), value));
                }
            }
        }
        if !records.is_empty() {
            extension(&mut tar, &records);
        }
        let split = if matches!(step.style, Style::Gnu) { None } else { beginning(&path) };
        if path.len() > NAME && split.is_none() && !in_records.0 {
            long(&mut tar, EntryType::GNULongName, &path);
        }
        if link.len() > NAME && !in_records.1 {
            long(&mut tar, EntryType::GNULongLink, &link);
        }
        if let (Some(at), Some(ustar)) = (split, header.as_ustar_mut()) {
            ustar.prefix[..at].copy_from_slice(&path[..at]);
        }
        let end = split.map_or(path.as_slice(), |at| &path[at + 1..]);
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, end), (&mut old.linkname, link.as_slice())] {
            let fits = text.len().min(NAME);
            field[..fits].copy_from_slice(&text[..fits]);
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Returns where a path that is too long for one field is split into two, if it can be.
fn beginning(path: &[u8]) -> Option<usize> {
    let at = |at: &usize| path[*at] == b'/' && path.len() - at - 1 <= NAME && *at + 1 < path.len();
    (path.len() > NAME).then(|| (1..path.len().min(PREFIX + 1)).find(at)).flatten()
}

/// Writes the header that GNU tar puts before an entry whose path or target is too long.
fn long(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, text: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(text.len() as u64 + 1);
    header.set_cksum();
    tar.append(&header, [text, b"\0"].concat().as_slice()).unwrap();
}

fn extension(tar: &mut tar::Builder<Vec<u8>>, records: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    tar.append(&header, records).unwrap();
}

/// Returns the directories that an entry describes: the times of all others are unspecified.
pub(super) fn described(layers: &[Vec<Step>]) -> Vec<String> {
    let dirs = layers.iter().flatten().filter(|step| matches!(step.what, What::Dir));
    dirs.map(|step| step.path.clone()).collect()
}
