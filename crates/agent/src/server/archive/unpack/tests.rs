//! Hard links, whose target is one of the files that may be replaced.

use super::*;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};
use tar::{Builder, Header};

/// Builds an archive with a hard link at `name` to `target`.
fn hard_link(name: &str, target: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Link);
    header.set_size(0);
    let mut tar = Builder::new(Vec::new());
    tar.append_link(&mut header, name, target).unwrap();
    tar.into_inner().unwrap()
}

/// Creates a directory with `file`, `dir/file`, `link` to `dir` and `out` to its parent.
fn tree() -> (tempfile::TempDir, OwnedFd) {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    fs::create_dir_all(root.join("dir")).unwrap();
    for name in ["file", "dir/file", "../beside"] {
        fs::write(root.join(name), name).unwrap();
    }
    symlink("dir", root.join("link")).unwrap();
    symlink("..", root.join("out")).unwrap();
    let base = open_base(&root).unwrap();
    (temp, base)
}

/// Lists the files in the tree, without following links.
fn listed(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for dir in ["", "dir"] {
        let entries = fs::read_dir(root.join(dir)).unwrap().flatten();
        names.extend(entries.map(|entry| format!("{dir}/{}", entry.file_name().to_string_lossy())));
    }
    names.sort();
    names
}

#[test]
fn a_file_that_is_linked_to_itself_stays() {
    for policy in [OverwritePolicy::Merge, OverwritePolicy::Replace] {
        for (name, target) in [("file", "file"), ("dir/file", "./dir/file")] {
            let (temp, base) = tree();
            unpack(&base, &hard_link(name, target)[..], policy).unwrap();
            assert_eq!(fs::read(temp.path().join("root").join(name)).unwrap(), name.as_bytes(), "{policy:?}");
        }
        // Also under another of its names.
        let (temp, base) = tree();
        let root = temp.path().join("root");
        fs::hard_link(root.join("file"), root.join("same")).unwrap();
        unpack(&base, &hard_link("same", "file")[..], policy).unwrap();
        assert_eq!(fs::metadata(root.join("same")).unwrap().nlink(), 2, "{policy:?}");
    }
}

#[test]
fn a_link_to_what_is_not_there_makes_nothing_and_nothing_makes_way() {
    for policy in [OverwritePolicy::Merge, OverwritePolicy::Replace] {
        for (name, target) in [
            ("file", "none"),
            ("file", "none/none"),
            ("new/file", "none"),
            ("dir", "none"),
            ("file", "dir"),
            // One inside the other.
            ("dir", "dir/file"),
            ("file/new", "file"),
            ("file", "out/beside"),
        ] {
            let (temp, base) = tree();
            let root = temp.path().join("root");
            let before = listed(&root);
            let refused = unpack(&base, &hard_link(name, target)[..], policy).unwrap_err();
            let is_out = target.starts_with("out");
            assert_eq!(matches!(refused, UnpackError::Outside(_)), is_out, "{policy:?} {name} {target}: {refused}");
            assert_eq!(listed(&root), before, "{policy:?} {name} {target}");
            assert_eq!(fs::read(root.join("file")).unwrap(), b"file", "{policy:?} {name} {target}");
        }
    }
}

#[test]
fn where_the_archive_is_the_whole_truth_no_source_is_reached_through_a_link() {
    let (temp, base) = tree();
    let root = temp.path().join("root");
    let through = hard_link("new", "link/file");
    assert!(matches!(unpack(&base, &through[..], OverwritePolicy::Replace), Err(UnpackError::Outside(_))));
    assert!(!root.join("new").exists());
    unpack(&base, &through[..], OverwritePolicy::Merge).unwrap();
    assert_eq!(fs::read(root.join("new")).unwrap(), b"dir/file");
}

#[test]
fn a_link_takes_the_place_of_another_file() {
    for policy in [OverwritePolicy::Merge, OverwritePolicy::Replace] {
        let (temp, base) = tree();
        let root = temp.path().join("root");
        unpack(&base, &hard_link("file", "dir/file")[..], policy).unwrap();
        assert_eq!(fs::read(root.join("file")).unwrap(), b"dir/file", "{policy:?}");
        assert_eq!(fs::metadata(root.join("file")).unwrap().nlink(), 2, "{policy:?}");
    }
}
