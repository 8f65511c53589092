//! Well-formed and hostile archives.

use super::{pax::written, *};

fn header(kind: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    header
}

/// Builds an archive of raw headers with their content, including the end marker.
fn archive(entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, content) in entries {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// Returns an extension header with these records.
fn pax(records: &[u8]) -> (Header, &[u8]) {
    (header(EntryType::XHeader, "x", records.len() as u64), records)
}

fn walk(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes, Limits { entries: 100, bytes: 1 << 20 });
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        found.push((entry, content));
    }
    Ok(found)
}

fn message(bytes: &[u8]) -> String {
    let error = walk(bytes).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

#[test]
fn contents_and_padding_are_kept_apart() {
    let bytes = archive(&[
        (header(EntryType::Regular, "a", 3), b"abc"),
        (header(EntryType::Regular, "b", 512), &[7; 512]),
        (header(EntryType::Directory, "c/", 0), b""),
    ]);
    let found = walk(&bytes).unwrap();
    assert_eq!(found[0].1, b"abc");
    assert_eq!(found[1].1, [7; 512]);
    assert_eq!((found[2].0.path.as_slice(), &found[2].0.kind), (&b"c/"[..], &EntryKind::Dir));
}

#[test]
fn unread_content_is_skipped() {
    let bytes =
        archive(&[(header(EntryType::Regular, "a", 1000), &[1; 1000]), (header(EntryType::Regular, "b", 1), b"x")]);
    let mut reader = Reader::new(&bytes[..], Limits::NONE);
    reader.next_entry().unwrap();
    let mut some = [0; 10];
    reader.read_exact(&mut some).unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"b");
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn pax_and_gnu_headers_change_the_next_entry_only() {
    let long = "d/".repeat(200);
    let records = [written("uid", b"70000"), written("mtime", b"12.5"), written("SCHILY.xattr.u", b"a\n=\0")].concat();
    let bytes = archive(&[
        (header(EntryType::XHeader, "x", records.len() as u64), &records),
        (header(EntryType::GNULongName, "l", 401), &[long.as_bytes(), &[0]].concat()),
        (header(EntryType::Regular, "short", 0), b""),
        (header(EntryType::GNULongLink, "k", 6), b"target"),
        (header(EntryType::Symlink, "link", 0), b""),
    ]);
    let found = walk(&bytes).unwrap();
    let first = &found[0].0;
    assert_eq!(first.path, long.as_bytes());
    assert_eq!((first.meta.uid, first.meta.mtime), (70_000, Timestamp { secs: 12, nanos: 500_000_000 }));
    assert_eq!(first.meta.xattrs[0].value, b"a\n=\0");
    let second = &found[1].0;
    assert_eq!(second.kind, EntryKind::Symlink(b"target".to_vec()));
    assert_eq!((second.meta.uid, second.meta.xattrs.len()), (0, 0));
}

#[test]
fn a_pax_size_is_the_size() {
    let bytes = archive(&[
        pax(&written("size", b"3")),
        (header(EntryType::Regular, "a", 0), b"abc"),
        (header(EntryType::Regular, "b", 0), b""),
    ]);
    let found = walk(&bytes).unwrap();
    assert_eq!((found[0].1.as_slice(), found.len()), (&b"abc"[..], 2));
}

#[test]
fn numbers_beyond_octal() {
    let mut big = header(EntryType::Regular, "a", 0);
    big.set_uid(4_000_000_000);
    big.as_old_mut().mtime = [0xFF; 12];
    big.set_cksum();
    let meta = &walk(&archive(&[(big, b"")])).unwrap()[0].0.meta;
    assert_eq!((meta.uid, meta.mtime.secs), (4_000_000_000, -1));
}

#[test]
fn devices_have_numbers_and_others_no_content() {
    let mut null = header(EntryType::Char, "null", 0);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    null.set_cksum();
    let mut link = header(EntryType::Link, "link", 5000);
    link.as_old_mut().linkname[..1].copy_from_slice(b"a");
    link.set_cksum();
    let found = walk(&archive(&[(null, b""), (link, b"")])).unwrap();
    assert_eq!(found[0].0.kind, EntryKind::Node(Node::CharDevice { major: 1, minor: 3 }));
    assert_eq!((&found[1].0.kind, found[1].0.size), (&EntryKind::HardLink(b"a".to_vec()), 0));
}

#[test]
fn a_cut_archive_is_an_error_wherever_it_is_cut() {
    let whole = archive(&[(header(EntryType::Regular, "a", 600), &[1; 600])]);
    for length in [0, 1, 511, 512, 513, 1111, 1112, 1535, 1536, 1600] {
        let mut reader = Reader::new(&whole[..length], Limits::NONE);
        let outcome = (|| {
            while reader.next_entry()?.is_some() {}
            Ok::<(), TarError>(())
        })();
        assert!(matches!(outcome, Err(TarError::Damaged { .. })), "cut at {length}: {outcome:?}");
    }
}

#[test]
fn an_open_ended_archive_may_end_after_any_whole_entry() {
    let whole = archive(&[(header(EntryType::Regular, "a", 600), &[1; 600])]);
    for (length, good) in
        [(0, true), (512, false), (1111, false), (1112, true), (1300, true), (1536, true), (2048, true)]
    {
        let mut reader = Reader::new(&whole[..length], Limits::NONE).open_ended();
        let outcome = (|| {
            while reader.next_entry()?.is_some() {}
            Ok::<(), TarError>(())
        })();
        assert_eq!(outcome.is_ok(), good, "cut at {length}: {outcome:?}");
    }
}

#[test]
fn damage_is_named() {
    let mut flipped = archive(&[(header(EntryType::Regular, "a", 0), b"")]);
    flipped[0] ^= 1;
    assert!(message(&flipped).contains("checksum is wrong"));

    let huge = archive(&[(header(EntryType::GNULongName, "l", 2 << 20), b"")]);
    assert!(message(&huge).contains("over 1 MiB"));

    let endless: Vec<_> = (0..200).map(|_| (header(EntryType::GNULongName, "l", 1), &b"x"[..])).collect();
    assert!(message(&archive(&endless)).contains("more extension headers than any needs"));
    // Extension headers do not count as entries; their size counts like content.
    let extended = |entries, length: usize| -> Vec<_> {
        let records = vec![b'x'; length].leak();
        let one = || (header(EntryType::GNULongName, "l", length as u64), &*records);
        (0..entries).flat_map(|_| [one(), one(), (header(EntryType::Regular, "a", 0), &b""[..])]).collect()
    };
    assert_eq!(walk(&archive(&extended(100, 1))).unwrap().len(), 100);
    assert!(message(&archive(&extended(101, 1))).contains("more than 100 entries"));
    assert_eq!(walk(&archive(&extended(2, 250 << 10))).unwrap().len(), 2);
    assert!(message(&archive(&extended(3, 250 << 10))).contains("more than 1048576 bytes"));

    let bomb = archive(&[(header(EntryType::Regular, "bomb", 8 << 20), b"")]);
    assert!(message(&bomb).contains("more than 1048576 bytes"));

    for (size, refusal) in
        [(u64::MAX, "a PAX size is not a number"), (i64::MAX.unsigned_abs(), "more than 1048576 bytes")]
    {
        let size = size.to_string();
        let overflow = archive(&[pax(&written("size", size.as_bytes())), (header(EntryType::Regular, "a", 0), b"")]);
        assert!(message(&overflow).contains(refusal), "{}", message(&overflow));
    }

    let sparse = archive(&[pax(&written("GNU.sparse.major", b"1")), (header(EntryType::Regular, "a", 0), b"")]);
    assert!(message(&sparse).contains("sparse"));

    let global =
        archive(&[(header(EntryType::XGlobalHeader, "g", 8), b"8 uid=5\n"), (header(EntryType::Regular, "a", 0), b"")]);
    assert!(message(&global).contains("global"));
    let comment = archive(&[
        (header(EntryType::XGlobalHeader, "g", 13), &written("comment", b"x")),
        (header(EntryType::Regular, "a", 0), b""),
    ]);
    assert_eq!(walk(&comment).unwrap().len(), 1);

    let unknown = archive(&[(header(EntryType::new(b'V'), "label", 0), b"")]);
    assert!(message(&unknown).contains("unknown type"));

    let one = archive(&[(header(EntryType::Regular, "a", 0), b"")]);
    let lone = [&one[..2 * BLOCK], &one].concat();
    assert!(message(&lone).contains("behind one block of zeros"), "{}", message(&lone));
    for end in [BLOCK, BLOCK + 7] {
        assert_eq!(walk(&one[..BLOCK + end]).unwrap().len(), 1, "nothing is behind it");
    }
    assert_eq!(walk(&[&one[..], b"whatever"].concat()).unwrap().len(), 1, "what is behind two is not of it");

    let dangling = archive(&[(header(EntryType::GNULongName, "l", 1), b"x")]);
    assert!(message(&dangling).contains("after an extension header"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
    /// Any damage to an archive ends the walk with entries or an error; checksums turn most damage into an error.
    #[test]
    fn damage_never_panics(changes in proptest::collection::vec((0_usize..6000, proptest::num::u8::ANY), 0..4), cut in 0_usize..8000) {
        let records = [written("path", b"long/path"), written("SCHILY.xattr.user.a", b"b"), written("mtime", b"-1.5")].concat();
        let mut bytes = archive(&[
            (header(EntryType::Regular, "a", 700), &[1; 700]),
            pax(&records),
            (header(EntryType::Regular, "b", 3), b"abc"),
            (header(EntryType::GNULongName, "l", 300), &[b'n'; 300]),
            (header(EntryType::Symlink, "c", 0), b""),
        ]);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        // Repaired checksums let the damage reach the fields behind them.
        for block in bytes.chunks_exact_mut(BLOCK) {
            if block[257..262] == *b"ustar" {
                let mut header = Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let _ = walk(&bytes);
    }
}
