//! Tests of work disks with real e2fsprogs.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use crate::ext4::{check, tool};
use banger_artifacts::{
    disk::{DiskError, MAX_SIZE, MIN_SIZE, WorkDisks},
    job::Cancel,
};
use banger_proto::size::ByteSize;
use banger_testkit::require;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    thread,
};

fn disks(dir: &Path) -> WorkDisks {
    WorkDisks::open(dir.join("cache")).unwrap()
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_disk_is_sparse_private_and_clean_at_every_size() {
    if !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disks = disks(dir.path());
    for (size, most) in
        [(MIN_SIZE, 1 << 20), (ByteSize::gib(1), 1 << 20), (ByteSize::gib(100), 4 << 20), (MAX_SIZE, 32 << 20)]
    {
        let path = dir.path().join(format!("{}.disk", size.bytes()));
        assert_eq!(disks.create(&path, size, &Cancel::default()).unwrap(), size);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (size.bytes(), 0o600));
        assert!(allocated(&path) <= most, "{size}: {} bytes allocated", allocated(&path));
        check(&path);
    }
}

#[test]
fn the_guest_kernel_has_nothing_left_to_initialise() {
    if !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disks(dir.path()).create(&path, ByteSize::gib(8), &Cancel::default()).unwrap();
    let groups = tool("dumpe2fs", &[path.to_str().unwrap()]);
    let (all, zeroed) = (groups.matches(": (Blocks ").count(), groups.matches("ITABLE_ZEROED").count());
    assert_eq!((all, zeroed), (64, 64), "{groups}");
    assert!(groups.contains("Reserved block count:     0\n"), "{groups}");
    assert!(
        groups.contains("Total journal blocks:     16384\n") || groups.contains("Journal size:             64M\n"),
        "{groups}"
    );
}

#[test]
fn a_template_is_made_once_and_two_at_once_are_one() {
    if !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disks = disks(dir.path());
    thread::scope(|scope| {
        for n in 0..4 {
            let (disks, path) = (disks.clone(), dir.path().join(n.to_string()));
            scope.spawn(move || disks.create(&path, ByteSize(MIN_SIZE.bytes() + 1), &Cancel::default()).unwrap());
        }
    });
    let bytes = fs::read(dir.path().join("0")).unwrap();
    assert_eq!(bytes.len(), 65 << 20, "rounded up to whole MiB");
    for n in 1..4 {
        assert!(fs::read(dir.path().join(n.to_string())).unwrap() == bytes, "disk {n} differs");
    }
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
    // A template that lost its end is made again.
    let template = fs::read_dir(dir.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    fs::File::options().write(true).open(template).unwrap().set_len(1 << 20).unwrap();
    disks.create(&dir.path().join("again"), ByteSize::mib(65), &Cancel::default()).unwrap();
    assert!(fs::read(dir.path().join("again")).unwrap() == bytes);
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    if !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (disks, path) = (disks(dir.path()), dir.path().join("disk"));
    let create = |size| disks.create(&path, size, &Cancel::default());
    for size in [ByteSize(0), ByteSize(MIN_SIZE.bytes() - 1), ByteSize(MAX_SIZE.bytes() + 1), ByteSize(u64::MAX)] {
        assert!(matches!(create(size), Err(DiskError::Size(_))), "{size}");
    }
    assert!(!path.exists());
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(disks.create(&path, MIN_SIZE, &cancel), Err(DiskError::Cancelled(_))));
    fs::write(&path, "mine").unwrap();
    assert!(matches!(create(MIN_SIZE), Err(DiskError::AlreadyExists(_))));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let missing = dir.path().join("missing/disk");
    assert!(matches!(disks.create(&missing, MIN_SIZE, &Cancel::default()), Err(DiskError::Io { .. })));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_full_filesystem_is_told_and_left_as_it_was() {
    if !require("e2fsck") || !require("mount") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let full = crate::full::Tmpfs::mount(&dir.path().join("full"), "128k");
    let disks = disks(dir.path());
    let error = disks.create(&full.path().join("disk"), ByteSize::gib(100), &Cancel::default()).unwrap_err();
    assert!(matches!(error, DiskError::Full { .. }), "{error:?}");
    assert_eq!(fs::read_dir(full.path()).unwrap().count(), 0);
}
