//! Tests of the image builder with real `e2fsck`, `debugfs` and an independent reader.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use crate::ext4::{Image, check};
use banger_artifacts::{
    job::{Cancel, Job, Silent},
    rootfs::{EntryError, Format, Limits, Meta, Node, RootfsBuilder, RootfsError, Timestamp, Xattr},
};
use banger_testkit::require;
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 123_456_789 };

fn format() -> Format {
    Format { label: "test".into(), epoch: 1_700_000_000, ..Format::default() }
}

fn builder(dir: &Path) -> RootfsBuilder {
    RootfsBuilder::new(dir, Limits::default(), &Cancel::default()).unwrap()
}

fn finish(builder: RootfsBuilder, dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    builder.finish(&path, &format(), &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap();
    check(&path);
    path
}

fn meta(mode: u16) -> Meta {
    Meta::root(mode, NOW)
}

#[test]
fn every_kind_of_entry_arrives() {
    if !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut b = builder(dir.path());
    b.dir(b"./", Meta { uid: 7, ..meta(0o711) }).unwrap();
    let big = vec![0x5A; 3 << 20];
    b.file(b"usr/bin/big", Meta { uid: 100_000, gid: 200_000, ..meta(0o6755) }, big.len() as u64, &mut &big[..])
        .unwrap();
    b.file(b"empty", meta(0o600), 0, &mut &b""[..]).unwrap();
    b.hard_link(b"usr/bin/twin", b"usr/bin/big").unwrap();
    b.symlink(b"bin", b"usr/bin", meta(0o777)).unwrap();
    b.symlink(b"long", &b"x/".repeat(1500), meta(0o777)).unwrap();
    b.node(b"dev/null", Node::CharDevice { major: 1, minor: 3 }, meta(0o666)).unwrap();
    b.node(b"dev/odd", Node::BlockDevice { major: 259, minor: 70_000 }, meta(0o660)).unwrap();
    b.node(b"run/pipe", Node::Fifo, meta(0o600)).unwrap();
    b.node(b"run/sock", Node::Socket, meta(0o600)).unwrap();
    b.dir(b"usr", meta(0o750)).unwrap();
    let image = Image::open(&finish(b, dir.path(), "image"));

    assert_eq!(image.read("/usr/bin/big"), big);
    assert_eq!(image.read("/bin/twin"), big);
    assert_eq!(image.read("/empty"), b"");
    let expected = [
        ("/", "directory", 0o711, 7, 0),
        ("/usr", "directory", 0o750, 0, 0),
        ("/usr/bin", "directory", 0o755, 0, 0),
        ("/usr/bin/big", "regular", 0o6755, 100_000, 200_000),
        ("/bin", "symlink", 0o777, 0, 0),
        ("/dev/null", "character", 0o666, 0, 0),
        ("/dev/odd", "block", 0o660, 0, 0),
        ("/run/pipe", "FIFO", 0o600, 0, 0),
        ("/run/sock", "socket", 0o600, 0, 0),
    ];
    for (path, kind, mode, uid, gid) in expected {
        let stat = image.stat(path);
        assert!(stat.contains(&format!("Type: {kind}")), "{path}: {stat}");
        assert!(stat.contains(&format!("Mode:  0{mode:o}   Flags")), "{path}: {stat}");
        assert!(stat.contains(&format!("User: {uid:>5}   Group: {gid:>5}")), "{path}: {stat}");
    }
    assert!(image.stat("/usr/bin/twin").contains("Links: 2"));
    assert!(image.stat("/dev/null").contains("Device major/minor number: 01:03"));
    assert!(image.stat("/dev/odd").contains("Device major/minor number: 259:70000"));
    // Seconds in hex and, in the extra field, nanoseconds shifted by the two epoch bits.
    assert!(image.stat("/empty").contains(&format!("mtime: 0x{:08x}:{:08x}", NOW.secs, NOW.nanos << 2)));
    assert_eq!(image.link("/long").len(), 3000);
}

fn build(format: &Format, add: impl FnOnce(&mut RootfsBuilder)) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = builder(dir.path());
    add(&mut builder);
    let path = dir.path().join("image");
    builder.finish(&path, format, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap();
    (dir, path)
}

fn file(builder: &mut RootfsBuilder, path: &str, content: &[u8]) {
    builder.file(path.as_bytes(), meta(0o644), content.len() as u64, &mut &content[..]).unwrap();
}

#[test]
fn order_does_not_matter_and_metadata_does() {
    let forth = |b: &mut RootfsBuilder| {
        b.dir(b"etc", meta(0o700)).unwrap();
        file(b, "etc/a", b"a");
        file(b, "b", b"b");
    };
    let back = |b: &mut RootfsBuilder| {
        file(b, "b", b"old");
        file(b, "b", b"b");
        file(b, "etc/a", b"a");
        b.dir(b"etc", meta(0o700)).unwrap();
    };
    let (one, other) = (build(&format(), forth), build(&format(), back));
    let bytes = std::fs::read(&one.1).unwrap();
    assert!(bytes == std::fs::read(&other.1).unwrap(), "the same tree gave other bytes");
    let later = Format { epoch: 1, ..format() };
    assert!(bytes != std::fs::read(build(&later, forth).1).unwrap());
    let other = Format { salt: b"another".to_vec(), ..format() };
    assert!(bytes != std::fs::read(build(&other, forth).1).unwrap());
}

#[test]
fn attributes_arrive_and_too_large_ones_name_their_entry() {
    if !require("e2fsck") {
        return;
    }
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() };
    let acl = [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 232, 3, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    let xattrs = vec![
        xattr("security.capability", &[1, 0, 0, 2, 10, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        xattr("user.large", &[b'x'; 3000]),
        xattr("system.posix_acl_access", &acl),
        xattr("user.empty", b""),
    ];
    let (_dir, path) = build(&format(), |b| {
        b.file(b"ping", Meta { xattrs: xattrs.clone(), ..meta(0o755) }, 0, &mut &b""[..]).unwrap();
        b.dir(b".", Meta { xattrs: vec![xattr("user.root", b"r")], ..meta(0o755) }).unwrap();
    });
    check(&path);
    let listed = Image::open(&path).debugfs("ea_list /ping");
    for shown in
        ["security.capability (20) = 01 00 00 02 0a 20 00 00", "user.large (3000)", "user.empty (0)", "user::rwx"]
    {
        // e2fsprogs shows access control lists in one of two ways.
        let acl_shown = shown == "user::rwx" && listed.contains("system.posix_acl_access");
        assert!(listed.contains(shown) || acl_shown, "{shown}: {listed}");
    }

    let dir = tempfile::tempdir().unwrap();
    let too_large = Meta { xattrs: vec![xattr("user.huge", &[0; 5000])], ..meta(0o644) };
    let error = builder(dir.path()).file(b"etc/huge", too_large, 0, &mut &b""[..]).unwrap_err();
    assert!(
        matches!(&error, RootfsError::Entry { entry, why: EntryError::XattrTooLarge(_) } if entry == "\"etc/huge\""),
        "{error:?}"
    );
}

#[test]
fn a_bad_entry_is_named_and_limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |why: &dyn Fn(&mut RootfsBuilder) -> Result<(), RootfsError>| match why(&mut builder(dir.path())) {
        Err(RootfsError::Entry { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let empty = || &b""[..];
    assert_eq!(refused(&|b| b.file(b"../x", meta(0), 0, &mut empty())), EntryError::ParentDir);
    assert_eq!(refused(&|b| b.dir(b"/x", meta(0))), EntryError::Absolute);
    assert_eq!(refused(&|b| b.symlink(b"x", b"", meta(0))), EntryError::LinkTarget(0));
    assert_eq!(refused(&|b| b.symlink(b"x", &[b'x'; 4096], meta(0))), EntryError::LinkTarget(4096));
    assert_eq!(refused(&|b| b.symlink(b"x", b"a\0b", meta(0))), EntryError::Nul);
    assert_eq!(refused(&|b| b.file(b".", meta(0), 0, &mut empty())), EntryError::Empty);
    assert_eq!(refused(&|b| b.file(b"x", meta(0), 5, &mut &b"abc"[..])), EntryError::Short { got: 3, size: 5 });
    let device = Node::CharDevice { major: 4096, minor: 0 };
    assert_eq!(refused(&|b| b.node(b"x", device, meta(0))), EntryError::DeviceNumber(4096, 0));

    let limited = |limits| RootfsBuilder::new(dir.path(), limits, &Cancel::default()).unwrap();
    let few = Limits { entries: 3, content_bytes: 10, metadata_bytes: 100 };
    let mut b = limited(few);
    for name in [b"a", b"b", b"c"] {
        b.file(name, meta(0), 0, &mut empty()).unwrap();
    }
    assert!(matches!(b.dir(b"d", meta(0)), Err(RootfsError::TooManyEntries(3))));
    let mut b = limited(few);
    b.file(b"a", meta(0), 10, &mut &[0; 10][..]).unwrap();
    assert!(matches!(b.file(b"b", meta(0), 1, &mut &[0; 1][..]), Err(RootfsError::TooManyBytes(10))));
    assert!(matches!(limited(few).symlink(b"a", &[b'x'; 100], meta(0)), Err(RootfsError::TooMuchMetadata(100))));

    let cancel = Cancel::default();
    let mut b = RootfsBuilder::new(dir.path(), Limits::default(), &cancel).unwrap();
    cancel.cancel();
    assert!(matches!(b.dir(b"a", meta(0)), Err(RootfsError::Cancelled(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "spools leave nothing");
}

/// Function that fills a builder.
type Add<'a> = &'a dyn Fn(&mut RootfsBuilder);

/// Trees whose size must come out right: the builder computes it before anything is laid out.
#[test]
fn the_computed_size_holds_every_shape() {
    if !require("e2fsck") {
        return;
    }
    let shapes: [(&str, Add<'_>); 6] = [
        ("empty", &|_| ()),
        ("one large directory", &|b| (0..30_000).for_each(|n| file(b, &format!("d/{n:0>40}"), b""))),
        ("long names", &|b| (0..500).for_each(|n| file(b, &format!("{n:0>255}"), b"x"))),
        ("many inodes in few blocks", &|b| (0..70_000).for_each(|n| file(b, &format!("{}/{n}", n % 700), b""))),
        ("over two groups", &|b| (0..5).for_each(|n| file(b, &n.to_string(), &vec![1; 60 << 20]))),
        ("attributes in blocks", &|b| {
            for n in 0..3000 {
                let xattrs = vec![Xattr { name: b"user.x".to_vec(), value: vec![1; 500] }];
                b.dir(format!("d{n}").as_bytes(), Meta { xattrs, ..meta(0o755) }).unwrap();
            }
        }),
    ];
    for (name, add) in shapes {
        let (_dir, path) = build(&format(), add);
        check(&path);
        let said = crate::ext4::tool("dumpe2fs", &["-h", path.to_str().unwrap()]);
        let number = |field: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_else(|| panic!("{said}"));
            line.trim().parse().unwrap()
        };
        let (blocks, free) = (number("Block count:"), number("Free blocks:"));
        // What is left is for the smallest filesystem there is and for a last group that is never tiny; and a group has
        // no more than so many inodes, which is the one reason for groups that stay empty.
        let tight = free * 50 < blocks || free < 200 || blocks == 4096;
        assert!(tight || name == "many inodes in few blocks", "{name}: {free} of {blocks} blocks are free");
        let allocated = std::fs::metadata(&path).unwrap().blocks() * 512 / 4096;
        assert!(allocated <= blocks - free, "{name}: {allocated} blocks on disk for {} in use", blocks - free);
    }
}

#[test]
fn a_full_filesystem_is_told_and_nothing_stays() {
    if !require("mount") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let full = crate::full::Tmpfs::mount(&dir.path().join("full"), "2m");
    let mut b = builder(full.path());
    let error = b.file(b"big", meta(0o644), 4 << 20, &mut std::io::repeat(1)).unwrap_err();
    assert!(error.is_out_of_space(), "{error:?}");
    drop(b);

    // Enough for the spool, not for the image beside it.
    let mut b = builder(full.path());
    b.file(b"big", meta(0o644), 1500 << 10, &mut std::io::repeat(1)).unwrap();
    let out = full.path().join("image");
    let error = b.finish(&out, &format(), &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap_err();
    assert!(error.is_out_of_space(), "{error:?}");
    std::fs::remove_file(out).unwrap();
    assert_eq!(std::fs::read_dir(full.path()).unwrap().count(), 0);
}

#[test]
fn names_and_targets_of_any_bytes() {
    if !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut b = builder(dir.path());
    let bytes = |name: &[u8]| ext4_view::PathBuf::try_from(name).unwrap();
    b.file(b"latin/caf\xe9", meta(0o644), 1, &mut &b"1"[..]).unwrap();
    b.file(b"latin/plain", meta(0o644), 1, &mut &b"2"[..]).unwrap();
    b.file(b"\xff\xfe/below", meta(0o644), 1, &mut &b"3"[..]).unwrap();
    b.hard_link(b"latin/\x80twin", b"latin/caf\xe9").unwrap();
    b.symlink(b"short", b"caf\xe9", meta(0o777)).unwrap();
    b.symlink(b"long", &b"\xe9/".repeat(100), meta(0o777)).unwrap();
    // Hashed directories: one with an index of its own, one with inner nodes of the index too.
    for (name, count) in [("some", 300_u32), ("many", 100_000)] {
        for n in 0..count {
            let path = [name.as_bytes(), b"/", format!("a-name-of-some-length-{n}").as_bytes(), b"\xff"].concat();
            let path = if n % 2 == 0 { path } else { [path.as_slice(), "\u{e9}".as_bytes()].concat() };
            b.file(&path, meta(0o644), 0, &mut &b""[..]).unwrap();
        }
    }
    let path = finish(b, dir.path(), "image");
    let reader = ext4_view::Ext4::load_from_path(&path).unwrap();
    for (name, content) in [
        (&b"/latin/caf\xe9"[..], b"1"),
        (b"/latin/plain", b"2"),
        (b"/\xff\xfe/below", b"3"),
        (b"/latin/\x80twin", b"1"),
    ] {
        assert_eq!(reader.read(&bytes(name)).unwrap(), content, "{}", name.escape_ascii());
    }
    assert_eq!(reader.read_link("/short").unwrap().as_ref(), b"caf\xe9");
    assert_eq!(reader.read_link("/long").unwrap().as_ref(), b"\xe9/".repeat(100));
    for (name, count) in [("/some", 300), ("/many", 100_000)] {
        let names: std::collections::HashSet<Vec<u8>> =
            reader.read_dir(name).unwrap().map(|entry| entry.unwrap().file_name().as_ref().to_vec()).collect();
        assert_eq!(names.len(), count + 2, "{name}");
        assert!(names.contains(&b"a-name-of-some-length-298\xff"[..]));
    }
    let stat = Image::open(&path).debugfs("stat \"/some\"");
    assert!(stat.contains("Type: directory"), "{stat}");
}
