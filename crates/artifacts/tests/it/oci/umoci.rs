//! The tree inside our ext4 is the tree `umoci unpack` makes, file by file, for any stack of layers.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    archives::{layout_of, write_layout},
    registry::Host,
};
use crate::ext4::{Image, check};
use banger_artifacts::program::Program;
use banger_testkit::require;
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
};
use tar::{EntryType, Header};

/// Times in layers are before this, those of the machine after it.
const PRESENT: i64 = 1_700_000_000;

/// Stacks that are tried.
const CASES: u32 = 96;

/// What a path is, in words both sides can say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    mtime: (i64, i64),
    content: Vec<u8>,
    xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct Step {
    path: String,
    what: What,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    style: Style,
}

#[derive(Debug, Clone)]
enum What {
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

/// How the header says it.
#[derive(Debug, Clone, Copy)]
enum Style {
    Ustar,
    Gnu,
    /// With the path, a time with a fraction and an attribute in PAX records.
    Pax,
}

fn path() -> impl Strategy<Value = String> {
    // One name is longer than any header has room for beside another.
    let part = prop_oneof![8 => "[a-c]".boxed(), 1 => Just("long".repeat(20)).boxed()];
    prop::collection::vec(part, 1..4)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("a header's field", |path| path.len() < 90)
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => Just(What::Dir),
        6 => prop::collection::vec(any::<u8>(), 0..6).prop_map(What::File),
        2 => path().prop_map(What::Symlink),
        2 => "/[a-c](/[a-c])?".prop_map(What::Symlink),
        3 => path().prop_map(What::Link),
        1 => Just(What::Fifo),
        1 => (0..300_u32, 0..70_000_u32).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => (0..300_u32, 0..70_000_u32).prop_map(|(major, minor)| What::Block(major, minor)),
        3 => Just(What::Whiteout),
        1 => Just(What::Opaque),
    ];
    let style = prop_oneof![Just(Style::Ustar), Just(Style::Gnu), Just(Style::Pax)];
    let owner = prop_oneof![Just((0, 0)), (0..70_000_u64, 0..70_000_u64), Just((4_000_000_000, 3_999_999_999))];
    (path(), what, 0..0o10000_u32, owner, 1..PRESENT.cast_unsigned(), style)
        .prop_map(|(path, what, mode, owner, mtime, style)| Step { path, what, mode, owner, mtime, style })
}

fn record(key: &str, value: &str) -> String {
    let rest = 3 + key.len() + value.len();
    let length = (rest + 1..rest + 9).find(|length| rest + length.to_string().len() == *length).unwrap();
    format!("{length} {key}={value}\n")
}

/// One layer; entries that would make the layer itself invalid are left to the caller.
fn layer(steps: &[Step]) -> Vec<u8> {
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
        header.set_mtime(step.mtime);
        header.set_size(content.len() as u64);
        let big = step.owner.0 > 0o7_777_777;
        if big && !matches!(step.style, Style::Gnu) {
            let records = record("uid", &step.owner.0.to_string()) + &record("gid", &step.owner.1.to_string());
            extension(&mut tar, &records);
        } else {
            header.set_uid(step.owner.0);
            header.set_gid(step.owner.1);
        }
        if let What::Char(major, minor) | What::Block(major, minor) = step.what {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        if matches!(step.style, Style::Pax) && !big {
            let mut records = record("path", &path) + &record("mtime", &format!("{}.5", step.mtime));
            if matches!(kind, EntryType::Regular | EntryType::Directory) {
                records += &record("SCHILY.xattr.user.test", "value");
                records += &record("SCHILY.xattr.user.other", &step.mtime.to_string());
            }
            extension(&mut tar, &records);
        }
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn extension(tar: &mut tar::Builder<Vec<u8>>, records: &str) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    tar.append(&header, records.as_bytes()).unwrap();
}

/// What umoci makes of it; `None` when it refuses.
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
    walk(&bundle.join("rootfs"), "", &mut seen);
    Some(seen)
}

fn walk(root: &Path, below: &str, seen: &mut BTreeMap<String, Seen>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let full = root.join(&path);
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
            walk(root, &path, seen);
        }
    }
}

/// The same of our image, as `debugfs` tells it.
fn ours(path: &Path, names: &[String]) -> BTreeMap<String, Seen> {
    let image = Image::open(path);
    let mut debugfs = Command::new(Program::find("debugfs").unwrap())
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let requests = names.iter().fold(String::new(), |all, name| all + "stat \"/" + name + "\"\n");
    debugfs.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
    let said = String::from_utf8_lossy(&debugfs.wait_with_output().unwrap().stdout).into_owned();
    let mut parts = said.split("debugfs:  stat ").skip(1);
    let mut seen = BTreeMap::new();
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
            "regular" => image.read(&format!("/{name}")),
            "symlink" => image.link(&format!("/{name}")),
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
        let (seconds, nanos) = (halves.next().unwrap(), halves.next().unwrap() >> 2);
        let xattrs = text.lines().filter_map(|line| {
            let (name, rest) = line.trim().split_once(" (")?;
            let value = rest.split_once(" = \"")?.1.strip_suffix('"')?;
            name.contains('.').then(|| (name.to_owned(), value.as_bytes().to_vec()))
        });
        let mut xattrs: Vec<_> = xattrs.collect();
        xattrs.sort();
        let mode = after("Mode: ").unwrap();
        seen.insert(
            name.clone(),
            Seen {
                kind,
                mode: u32::from_str_radix(mode.split_whitespace().next().unwrap(), 8).unwrap() & 0o7777,
                owner: (wrapped(number("User:")), wrapped(number("Group:"))),
                links: if kind == "directory" { 0 } else { number("Links:").cast_unsigned() },
                mtime: (i64::from(seconds.cast_signed()), i64::from(nanos)),
                content,
                xattrs,
            },
        );
    }
    seen
}

fn wrapped(number: i64) -> u32 {
    i32::try_from(number).map_or_else(|_| u32::try_from(number).unwrap(), i32::cast_unsigned)
}

/// Every name in our image.
fn names(path: &Path) -> Vec<String> {
    let reader = ext4_view::Ext4::load_from_path(path).unwrap();
    let mut found = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in reader.read_dir(format!("/{directory}").as_str()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().as_str().unwrap().to_owned();
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

/// Directories that no entry describes: their times are anybody's.
fn described(layers: &[Vec<Step>]) -> Vec<String> {
    let dirs = layers.iter().flatten().filter(|step| matches!(step.what, What::Dir));
    dirs.map(|step| step.path.clone()).collect()
}

/// Most steps that no image could take are taken out or given something that is there: else few stacks are images at all.
fn mended(layers: Vec<Vec<Step>>) -> Vec<Vec<Step>> {
    // What is no directory, and whether a hard link may lead to it.
    let mut leaves: BTreeMap<String, bool> = BTreeMap::new();
    let mut mend = |mut step: Step| {
        let place = usize::try_from(step.mtime).unwrap();
        let spared = place.is_multiple_of(16);
        let is_below = |leaf: &String| step.path.starts_with(&format!("{leaf}/"));
        if !spared && leaves.keys().any(is_below) {
            return None;
        }
        if let What::Link(target) = &mut step.what
            && !spared
            && leaves.get(target) != Some(&true)
        {
            let files: Vec<&String> = leaves.iter().filter(|(_, linkable)| **linkable).map(|(path, _)| path).collect();
            target.clone_from(files.get(place % files.len().max(1))?);
        }
        // What is below a path goes with what takes its place.
        leaves.retain(|leaf, _| *leaf != step.path && !leaf.starts_with(&format!("{}/", step.path)));
        match step.what {
            What::File(_) => drop(leaves.insert(step.path.clone(), true)),
            What::Link(_) | What::Fifo | What::Char(..) | What::Block(..) => {
                leaves.insert(step.path.clone(), false);
            }
            What::Dir | What::Symlink(_) | What::Whiteout | What::Opaque => {}
        }
        Some(step)
    };
    layers.into_iter().map(|layer| layer.into_iter().filter_map(&mut mend).collect()).collect()
}

/// Whether both took the image, and so were compared.
fn compare(layers: &[Vec<Step>]) -> bool {
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
                if ours.kind == "directory" && theirs[path].mtime.0 > PRESENT {
                    ours.mtime = theirs[path].mtime;
                }
                assert_eq!(*ours, theirs[path], "{path} of {layers:#?}");
            }
            true
        }
        (Some(_), Err(error)) => {
            let why = super::registry::chain(&error);
            panic!("umoci takes what we refuse: {why}: {layers:#?}");
        }
        // umoci refuses what only this host stands in the way of, and what we read differently; it is no image for both.
        (None, _) => false,
    }
}

#[test]
fn any_stack_of_layers() {
    if !require("registry") || !require("e2fsck") || !rustix::process::geteuid().is_root() {
        return;
    }
    let config =
        ProptestConfig { cases: CASES, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() };
    let compared = Cell::new(0);
    let stacks = prop::collection::vec(prop::collection::vec(step(), 0..12), 1..4).prop_map(mended);
    TestRunner::new(config)
        .run(&stacks, |layers| {
            compared.set(compared.get() + u32::from(compare(&layers)));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(compared.get() >= CASES / 4, "only {} of {CASES} stacks were images for both", compared.get());
}
