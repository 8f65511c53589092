//! Property test: the tree in our ext4 equals the tree `umoci unpack` makes, file by file, for any stack of layers.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    archives::{layout_of, write_layout},
    kinds,
    mend::mended,
    registry::Host,
    stacks::{FUTURE, PRESENT, ROOT, Step, Style, What, described, layer, raw, step, word},
    xattrs::{Xattr, listed, values},
};
use crate::ext4::{Image, check, debugfs};
use banger_artifacts::program::Program;
use banger_testkit::require;
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
    process::Command,
};

/// Number of stacks that are tried, and how often as many more are if one of the kinds was in none of them.
const CASES: u32 = 128;
const MORE: u32 = 8;

/// State of a path, as both sides can describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: &'static str,
    mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) links: u64,
    mtime: (i64, i64),
    content: Vec<u8>,
    pub(super) xattrs: Vec<Xattr>,
}

/// Returns what umoci makes of it; `None` if it refuses.
fn unpacked(dir: &Path) -> Option<BTreeMap<String, Seen>> {
    let bundle = dir.join("bundle");
    let output = Command::new(Program::find("umoci").unwrap())
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:v1", dir.join("layout").display()))
        .arg(&bundle)
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let mut seen = BTreeMap::new();
    walk(&bundle.join("rootfs"), vec![ROOT.to_owned()], &mut seen);
    Some(seen)
}

fn walk(root: &Path, mut paths: Vec<String>, seen: &mut BTreeMap<String, Seen>) {
    while let Some(path) = paths.pop() {
        let full = root.join(OsStr::from_bytes(&raw(&path)));
        let metadata = fs::symlink_metadata(&full).unwrap();
        let kind = metadata.file_type();
        let (kind, content) = if kind.is_dir() {
            ("directory", Vec::new())
        } else if kind.is_symlink() {
            ("symlink", fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes())
        } else if kind.is_fifo() {
            ("FIFO", Vec::new())
        } else if kind.is_char_device() || kind.is_block_device() {
            let (device, kind) =
                (metadata.rdev(), if kind.is_char_device() { "character special" } else { "block special" });
            (kind, format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)).into_bytes())
        } else {
            ("regular", fs::read(&full).unwrap())
        };
        let mut list = vec![0; 4096];
        let len = rustix::fs::llistxattr(&full, &mut list).unwrap();
        let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let mut xattrs: Vec<_> = names
            .map(|name| {
                let name = std::str::from_utf8(name).unwrap();
                let mut value = vec![0; 4096];
                let len = rustix::fs::lgetxattr(&full, name, &mut value).unwrap();
                value.truncate(len);
                (name.to_owned(), value)
            })
            .collect();
        xattrs.sort();
        let is_dir = kind == "directory";
        seen.insert(
            path.clone(),
            Seen {
                kind,
                mode: metadata.mode() & 0o7777,
                owner: (metadata.uid(), metadata.gid()),
                // Directories count their own way on either side.
                links: if is_dir { 0 } else { metadata.nlink() },
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                content,
                xattrs,
            },
        );
        if is_dir {
            let below = if path == ROOT { String::new() } else { format!("{path}/") };
            let entries = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name());
            paths.extend(entries.map(|name| format!("{below}{}", word(name.as_bytes()))));
        }
    }
}

/// Returns the same for our image, according to `debugfs`.
fn ours(path: &Path, names: &[String]) -> BTreeMap<String, Seen> {
    let image = Image::open(path);
    let requests = names.iter().flat_map(|name| raw(&format!("stat \"/{name}\"\n")));
    let said = debugfs(path, requests.collect());
    let mut parts = said.split("debugfs:  stat ").skip(1);
    let mut seen = BTreeMap::new();
    let mut attributes: Vec<(&str, String)> = Vec::new();
    for name in names {
        let text = parts.next().unwrap();
        let after = |key: &str| text.split(key).nth(1).map(|rest| rest.trim_start().to_owned());
        let Some(kind) = after("Type: ") else { continue };
        // A large owner is shown as a negative number.
        let number = |key: &str| {
            let number: Option<i64> = after(key).and_then(|text| text.split_whitespace().next()?.parse().ok());
            number.unwrap_or_else(|| panic!("{key} in {text}"))
        };
        let kinds = ["directory", "regular", "symlink", "FIFO", "character special", "block special"];
        let kind = kinds.into_iter().find(|known| kind.starts_with(known));
        let kind = kind.unwrap_or_else(|| panic!("{text}"));
        let content = match kind {
            "regular" => image.read(raw(&format!("/{name}"))),
            "symlink" => image.link(raw(&format!("/{name}"))),
            "character special" | "block special" => {
                let device = after("Device major/minor number: ").unwrap();
                device
                    .split_whitespace()
                    .next()
                    .unwrap()
                    .split(':')
                    .map(|part| part.trim_start_matches('0'))
                    .map(|part| if part.is_empty() { "0" } else { part })
                    .collect::<Vec<_>>()
                    .join(":")
                    .into_bytes()
            }
            _ => Vec::new(),
        };
        let mtime = after("mtime: 0x").unwrap();
        // The seconds, then the nanoseconds above two bits of the seconds' epoch.
        let mut halves = mtime.split([':', ' ']).map(|half| u32::from_str_radix(half, 16).unwrap_or_default());
        let (seconds, extra) = (halves.next().unwrap(), halves.next().unwrap());
        let seconds = i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32);
        attributes.extend(listed(text).into_iter().map(|attribute| (name.as_str(), attribute)));
        let mode = after("Mode: ").unwrap();
        let links = number("Links:").cast_unsigned();
        if kind == "directory" {
            // Its name, its own, and one in each directory below; the root has one of the file system's there too.
            let (below, own) = if name == ROOT { (String::new(), 1) } else { (format!("{name}/"), 0) };
            let inner = directly_below(names, &below).filter(|inner| image.is_dir(raw(&format!("/{inner}")))).count();
            assert_eq!(links, 2 + own + inner as u64, "{name}");
        }
        seen.insert(
            name.clone(),
            Seen {
                kind,
                mode: u32::from_str_radix(mode.split_whitespace().next().unwrap(), 8).unwrap() & 0o7777,
                owner: (wrapped(number("User:")), wrapped(number("Group:"))),
                links: if kind == "directory" { 0 } else { links },
                mtime: (seconds, i64::from(extra >> 2)),
                content,
                xattrs: Vec::new(),
            },
        );
    }
    let asked: Vec<(&str, &str)> = attributes.iter().map(|(path, name)| (*path, name.as_str())).collect();
    for (value, (path, name)) in values(path, &asked).into_iter().zip(&asked) {
        seen.get_mut(*path).unwrap().xattrs.push(((*name).to_owned(), value));
    }
    for seen in seen.values_mut() {
        seen.xattrs.sort();
    }
    seen
}

/// Returns the names directly in a directory.
fn directly_below<'a>(names: &'a [String], below: &'a str) -> impl Iterator<Item = &'a String> {
    let directly = move |name: &&String| name.strip_prefix(below).is_some_and(|rest| !rest.contains('/'));
    names.iter().filter(directly).filter(|name| *name != ROOT)
}

fn wrapped(number: i64) -> u32 {
    i32::try_from(number).map_or_else(|_| u32::try_from(number).unwrap(), i32::cast_unsigned)
}

/// Returns every name in our image.
fn names(path: &Path) -> Vec<String> {
    let reader = ext4_view::Ext4::load_from_path(path).unwrap();
    let mut found = vec![ROOT.to_owned()];
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let place = raw(&format!("/{directory}"));
        for entry in reader.read_dir(ext4_view::Path::try_from(place.as_slice()).unwrap()).unwrap() {
            let entry = entry.unwrap();
            let name = word(entry.file_name().as_ref());
            if name == "." || name == ".." || (directory.is_empty() && name == "lost+found") {
                continue;
            }
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if entry.file_type().unwrap().is_dir() {
                directories.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns what was in the image; `None` if one side refused it, so that nothing was compared.
fn compare(layers: &[Vec<Step>]) -> Option<BTreeSet<&'static str>> {
    let host = Host::new();
    let dir = host.dir.path();
    let tars: Vec<Vec<u8>> = layers.iter().map(|steps| layer(steps)).collect();
    write_layout(&dir.join("layout"), &layout_of(&[("v1", tars)]));
    let theirs = unpacked(dir);
    let pulled = host.pull(&format!("oci:{}:v1", dir.join("layout").display()));
    match (theirs, pulled) {
        (Some(mut theirs), Ok(pulled)) => {
            check(&pulled.image.rootfs);
            let mut ours = ours(&pulled.image.rootfs, &names(&pulled.image.rootfs));
            let described = described(layers);
            let made = theirs.clone();
            // Groups that directories in a set-group-ID directory may have got, whatever became of that one later.
            let passed_on: BTreeSet<u64> =
                layers.iter().flatten().filter(|step| step.mode & 0o2000 != 0).map(|step| step.owner.1).collect();
            for tree in [&mut theirs, &mut ours] {
                for (path, seen) in tree.iter_mut() {
                    // An undescribed directory has the time of its making; a described one may have been made anew
                    // behind a whiteout, or reached through a link.
                    if seen.kind == "directory" && !described.contains(path) {
                        seen.mtime = (0, 0);
                        // mkdir(2) in a set-group-ID directory passes the bit and the group on; no entry says so.
                        if seen.mode & 0o2000 != 0 {
                            seen.mode &= !0o2000;
                            seen.owner.1 = 0;
                        }
                    }
                }
            }
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{layers:#?}");
            for (path, ours) in &mut ours {
                // Taking something out of a directory touches the real one, and no entry says so.
                if ours.kind == "directory" && (PRESENT..FUTURE).contains(&theirs[path].mtime.0) {
                    ours.mtime = theirs[path].mtime;
                    // One that was described, went, and came again because something is in it: as mkdir(2) made it.
                    let Seen { mode, owner: (user, group), .. } = theirs[path];
                    let inherits = (mode, user) == (0o2755, 0) && passed_on.contains(&group.into());
                    if inherits && (ours.mode, ours.owner) == (0o755, (0, 0)) {
                        (ours.mode, ours.owner) = (theirs[path].mode, theirs[path].owner);
                    }
                }
                assert_eq!(*ours, theirs[path], "{path} of {layers:#?}");
            }
            Some(kinds::of(layers, &made))
        }
        (Some(_), Err(error)) => {
            let why = super::registry::chain(&error);
            panic!("umoci takes what we refuse: {why}: {layers:#?}");
        }
        // umoci refuses what only this host stands in the way of, and what we read differently. Nothing tells what
        // should be in it, but it is a file system.
        (None, Ok(pulled)) => {
            check(&pulled.image.rootfs);
            None
        }
        (None, Err(_)) => None,
    }
}

#[test]
fn times_before_1970_and_of_this_century() {
    if !require("registry") || !require("root") {
        return;
    }
    let step = |(number, mtime): (usize, &i64)| {
        let (path, owner) = (format!("f{number}"), (0, 0));
        Step { path, what: What::Fifo, mode: 0o644, owner, mtime: *mtime, xattrs: Vec::new(), style: Style::Pax }
    };
    let times = [-2_000_000_000, -1, 2_200_000_000, FUTURE - 1, FUTURE];
    let steps: Vec<Step> = times.iter().enumerate().map(step).collect();
    let host = Host::new();
    let dir = host.dir.path();
    write_layout(&dir.join("layout"), &layout_of(&[("v1", vec![layer(&steps)])]));
    let mut theirs = unpacked(dir).unwrap();
    // No entry describes it.
    theirs.remove(ROOT);
    let rootfs = host.image(&format!("oci:{}:v1", dir.join("layout").display())).rootfs;
    let names: Vec<String> = steps.into_iter().map(|step| step.path).collect();
    assert_eq!(ours(&rootfs, &names), theirs);
    // Before 1970 the fraction counts backwards too.
    assert_eq!(theirs["f1"].mtime, (-2, 500_000_000));
}

#[test]
fn any_stack_of_layers() {
    if !require("registry") || !require("e2fsck") || !require("root") {
        return;
    }
    let config =
        ProptestConfig { cases: CASES, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() };
    let compared = Cell::new(0);
    let found: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    let stacks = prop::collection::vec(prop::collection::vec(step(), 0..12), 1..4).prop_map(mended);
    let mut missed = kinds::ALL.to_vec();
    for _ in 0..=MORE {
        TestRunner::new(config.clone())
            .run(&stacks, |layers| {
                if let Some(kinds) = compare(&layers) {
                    compared.set(compared.get() + 1);
                    for kind in kinds {
                        *found.borrow_mut().entry(kind).or_default() += 1;
                    }
                }
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        missed.retain(|kind| !found.borrow().contains_key(kind));
        assert!(compared.get() >= CASES / 4, "only {} of {CASES} stacks were images for both", compared.get());
        if missed.is_empty() {
            return;
        }
    }
    let found = found.into_inner();
    panic!("in none of {} stacks there was {missed:?}; {found:?}", compared.get());
}
