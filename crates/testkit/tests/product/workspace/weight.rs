//! What an import costs the host: its disk, its memory, and bytes on the way into the guest.

use super::{corpus, place, says, tree};
use crate::{SOON, delete, start};
use banger_testkit::{Meter, TestEnv, require};
use std::{ffi::OsString, fs, path::Path};

/// A private mount namespace in which nothing can be written but a file system for temporary files, of little more room
/// than the index takes; what a copy of the tree, or a part of it, would need is nowhere. Memory is short, too: `ulimit
/// -d` counts what a program writes to, not files it maps.
const NO_ROOM: &str = r#"
set -eu
size=$1
shift
mount -t tmpfs -o size="$size" none "$TMPDIR"
while read -r _ _ _ _ at _; do
    case $at in
    "$TMPDIR" | /proc | /proc/* | /dev | /dev/* | /sys | /sys/*) ;;
    # Another test may have taken its own away since it was listed; a pipeline with `!` would end nothing.
    *) mount -o remount,bind,ro "$at" || if mountpoint -q "$at"; then exit 8; fi ;;
    esac
done < /proc/self/mountinfo
if touch "$HOME/written" 2>/dev/null; then exit 9; fi
(
    ulimit -s 1024 -d 131072
    "$@"
)
find "$TMPDIR" -mindepth 1 >&2
"#;

/// Brings `repo` with no room but `room` bytes for temporary files, and little memory. What comes first is a meter's,
/// or nothing.
#[track_caller]
fn prepare_without_room(env: &TestEnv, mut words: Vec<OsString>, room: u64, repo: &Path, copy: &Path) {
    words.extend(
        ["unshare", "--mount", "--propagation", "private", "--", "bash", "-c", NO_ROOM, "bash"].map(Into::into),
    );
    let (scratch, banger) = (place(env, "tmp"), banger_testkit::bin_dir().join("banger"));
    fs::create_dir(&scratch).expect("a directory");
    let out = env
        .program(&words[0])
        .args(&words[1..])
        .args([&room.to_string()])
        .args([&banger])
        .args(["vm", "workspace", "prepare", "--quiet", "--guest-path", copy.to_str().expect("UTF-8"), "w"])
        .args([repo])
        .env("TMPDIR", &scratch)
        .patience(SOON * 3)
        .run()
        .expect(0);
    assert_eq!(out.err(), "", "something is left behind");
}

/// Bytes of files below a path.
fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
        }
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

#[test]
fn twenty_thousand_files_leave_nothing_on_the_hosts_disk_on_their_way() {
    if !require("mount") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::many_files(&env, 20_000), place(&env, "guest"));
    // The copy of the index, two of them while one replaces the other.
    prepare_without_room(&env, Vec::new(), 3 * size(&repo.join(".git/index")), &repo, &copy);
    assert_eq!(tree(&copy), tree(&repo));
    assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    delete(&env, "w");
}

#[test]
fn a_long_past_stays_where_it_is() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::long_past(&env, 40, 1), place(&env, "guest"));
    assert!(size(&repo.join(".git/objects")) >= 40 << 20);
    let banger = banger_testkit::bin_dir().join("banger");
    // The stream is made in little memory, however much there is of it.
    let line = format!("ulimit -v {}; exec {} \"$@\"", 1 << 20, banger.display());
    let args = ["vm", "workspace", "prepare", "--quiet", "--guest-path", copy.to_str().expect("UTF-8"), "w"];
    env.program("sh").args(["-c", &line, "banger"]).args(args).args([&repo]).run().expect(0);
    let brought = size(&copy.join(".git/objects"));
    assert!((10 << 20..11 << 20).contains(&brought), "{brought} bytes for the last ten commits");
    let log = ["log", "-10", "--format=%H %T"];
    assert_eq!(says(&env, &copy, &log), says(&env, &repo, &log));
    assert!(tree(&copy) == tree(&repo));
    assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    delete(&env, "w");
}

/// Makes as many objects of as many MiB as it is told, which nothing compresses, and says to git's fast-import how each
/// of them was a file that the next one took the place of; a dozen small commits follow. The objects are as unlike as
/// they have to be to be different, and git itself would take a minute to hash them.
const GIGABYTES: &str = r#"
import hashlib, os, struct, sys, zlib
count, size = int(sys.argv[1]), int(sys.argv[2]) << 20
noise = os.urandom(size)

def large(number):
    data = b"blob %d\0%08d" % (size + 8, number) + noise
    name = hashlib.sha1(data).hexdigest()
    os.makedirs(".git/objects/" + name[:2], exist_ok=True)
    with open(".git/objects/%s/%s" % (name[:2], name[2:]), "wb") as file:
        file.write(b"\x78\x01")
        for at in range(0, len(data), 65535):
            block = memoryview(data)[at:at + 65535]
            file.write(struct.pack("<BHH", at + 65535 >= len(data), len(block), len(block) ^ 0xffff))
            file.write(block)
        file.write(struct.pack(">I", zlib.adler32(data)))
        # Else whoever syncs beside this waits for two gigabytes.
        file.flush()
        os.fsync(file.fileno())
    return "M 100644 %s past\n" % name

def small(number):
    gone = "D past\n" if number == 0 else ""
    return gone + "M 100644 inline d%d/file\ndata 6\nsmall\nM 100644 inline counter\ndata 3\n%02d\n" % (number, number)

for number in range(count + 12):
    change = large(number) if number < count else small(number - count)
    time = 1700000000 + number
    print("commit refs/heads/main\ncommitter T <t@example.com> %d +0000\ndata 1\nx\n%s" % (time, change))
"#;

/// Those of `pid`, in KiB: the most it ever had in memory.
#[track_caller]
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line that says so");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A past of two gigabytes that nobody needs costs nothing: no disk, no memory, no bytes on the way.
#[test]
fn two_gigabytes_of_past_are_nobodys_burden() {
    if !require("mount") || !require("room") || !require("scripts") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (place(&env, "src-past"), place(&env, "guest"));
    fs::create_dir(&repo).expect("a directory");
    says(&env, &repo, &["init", "-q", "-b", "main"]);
    let python = env.program("python3").args(["-c", GIGABYTES, "64", "32"]).patience(SOON * 3);
    let commits = python.current_dir(&repo).run().expect(0).stdout;
    env.program("git").args(["fast-import", "--quiet"]).current_dir(&repo).stdin(commits).run().expect(0);
    says(&env, &repo, &["reset", "-q", "--hard", "main"]);
    assert!(size(&repo.join(".git/objects")) >= 2 << 30);
    fs::write(repo.join("counter"), "not committed\n").expect("a file");
    fs::write(repo.join("staged"), "staged\n").expect("a file");
    says(&env, &repo, &["add", "staged"]);
    fs::write(repo.join("untracked"), "u\n").expect("a file");

    let pids = [env.daemon().expect("a daemon").pid, env.vm_process("w", "shim_pid").pid];
    let before = pids.map(peak);
    let meter = Meter::of(&env, "w");
    prepare_without_room(&env, meter.prefix(), 1 << 20, &repo, &copy);
    let passed = meter.passed();
    for (pid, before) in pids.into_iter().zip(before) {
        let grown = peak(pid).saturating_sub(before);
        assert!(grown < 32 << 10, "process {pid} took {grown} KiB more");
    }
    let there = size(&copy.join(".git"));
    assert!((1 << 10..1 << 20).contains(&passed) && there < 1 << 20, "{passed} bytes passed, {there} are there");
    for args in [
        ["status", "--porcelain=v2", "--branch", "-uno"].as_slice(),
        &["diff", "HEAD"],
        &["diff", "--cached"],
        &["log", "-10", "--format=%H %T %an %ae %at %s"],
        &["ls-tree", "-r", "HEAD"],
    ] {
        assert_eq!(says(&env, &copy, args), says(&env, &repo, args), "git {args:?}");
    }
    fs::remove_file(repo.join("untracked")).expect("a file");
    assert_eq!(tree(&copy), tree(&repo));
    says(&env, &copy, &["fsck", "--no-dangling"]);
    delete(&env, "w");
}
