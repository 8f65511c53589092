//! The image builder against real `e2fsck`, `debugfs` and an independent reader.

use crate::ext4::{Image, check};
use banger_artifacts::{
    job::{Cancel, Job, Silent},
    rootfs::{Format, Limits, Meta, Node, RootfsBuilder, Timestamp},
};
use std::path::{Path, PathBuf};

const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 123_456_789 };

fn format() -> Format {
    Format { label: "test".into(), epoch: 1_700_000_000 }
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
