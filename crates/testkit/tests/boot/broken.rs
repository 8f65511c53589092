//! What must not work, and what it says then.

use crate::BOOT;
use banger_testkit::{Identity, TestEnv, shared, wait_until};
use rustix::process::Signal;
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const RUN: [&str; 5] = ["vm", "run", "--rm", "--memory", "256M"];

/// The one file called `name` (or ending in it) below `dir`, made this test's own: goldens are shared by hard links.
#[track_caller]
fn own_file(dir: &Path, suffix: &str) -> PathBuf {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the store").flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(suffix) {
                found.push(entry.path());
            }
        }
    }
    assert_eq!(found.len(), 1, "{suffix} in {}: {found:?}", dir.display());
    let path = found.remove(0);
    let copy = path.with_extension("copy");
    // Sparse, as `fs::copy` is not.
    let copied = std::process::Command::new("cp").args(["--sparse=always"]).args([&path, &copy]).status();
    assert!(copied.expect("cp").success());
    fs::rename(&copy, &path).expect("replacing a link");
    path
}

/// Overwrites bytes in the middle of a file, keeping its size and time.
fn damage(path: &Path, at: u64, bytes: &[u8]) {
    let mode = fs::metadata(path).expect("a file").permissions();
    let time = fs::metadata(path).and_then(|meta| meta.modified()).expect("a time");
    let mut writable = mode.clone();
    std::os::unix::fs::PermissionsExt::set_mode(&mut writable, 0o600);
    fs::set_permissions(path, writable).expect("chmod");
    let mut file = File::options().write(true).read(true).open(path).expect("a writable copy");
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.write_all(bytes).expect("write");
    file.set_modified(time).expect("the old time");
    fs::set_permissions(path, mode).expect("chmod");
}

#[test]
fn a_damaged_image_is_noticed_before_anything_starts() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    // The super block.
    damage(&own_file(&env.layout().images(), ".ext4"), 1024, &[0; 1024]);
    let out = env.banger(RUN.into_iter().chain(["--name", "bad-image", "--", "true"])).run().expect(125);
    assert!(out.err().contains("error: image ") && out.err().contains("is damaged"), "{out}");
    assert!(out.err().contains("banger image delete"), "no way out: {out}");
    assert_eq!(env.banger(["vm", "list", "-a", "--json"]).run().expect(0).json(), serde_json::json!([]));
    env.assert_nothing_left();
}

#[test]
fn an_image_that_does_not_mount_fails_with_what_the_guest_said() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    // The group descriptors: the super block says nothing of them.
    damage(&own_file(&env.layout().images(), ".ext4"), 4096, &[0xff; 4096]);
    let out =
        env.banger(RUN.into_iter().chain(["--name", "no-root", "--", "true"])).patience(2 * BOOT).run().expect(125);
    assert!(out.err().contains("error: VM no-root did not become ready"), "{out}");
    assert!(out.err().contains("mount"), "{out}");
    kept_with_hints(&env, "no-root", &out.err());
}

#[test]
fn a_corrupt_kernel_fails_with_a_reason() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let kernel = own_file(&env.layout().kernels(), "vmlinux");
    let mut magic = [0; 4];
    File::open(&kernel).and_then(|mut file| file.read_exact(&mut magic)).expect("a kernel");
    assert_eq!(&magic, b"\x7fELF");
    damage(&kernel, 0, &[0; 64]);
    let out =
        env.banger(RUN.into_iter().chain(["--name", "bad-kernel", "--", "true"])).patience(2 * BOOT).run().expect(125);
    assert!(out.err().contains("error: kernel debian-6.1 is damaged\n"), "{out}");
    assert!(out.err().contains("its vmlinux is not a kernel image\n"), "{out}");
    assert!(out.err().contains("`banger kernel pull --force debian-6.1`"), "no way out: {out}");
    assert_eq!(env.banger(["vm", "list", "-a", "--json"]).run().expect(0).json(), serde_json::json!([]));
    env.assert_nothing_left();
}

/// A VM that never became ready is kept although `--rm` was asked for, and the error says how to look at it and how to
/// delete it.
#[track_caller]
fn kept_with_hints(env: &TestEnv, name: &str, stderr: &str) {
    assert!(stderr.contains(&format!("banger vm logs {name}")), "{stderr}");
    assert!(stderr.contains(&format!("banger vm delete {name}")), "{stderr}");
    assert_eq!(env.vm_state(name), "failed");
    let console = env.banger(["vm", "logs", name]).run().expect(0).out();
    assert!(console.contains("] "), "no line of the guest's kernel: {console}");
    env.banger(["vm", "delete", "-f", name]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_guest_that_never_becomes_ready_times_out_with_its_console() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let run = env.banger(RUN.into_iter().chain(["--name", "stuck", "--", "true"])).spawn();
    let vmm = wait_until(BOOT, "a VMM whose kernel speaks", || {
        let vms = env.banger(["vm", "list", "-a", "--json"]).run().expect(0).json();
        let pid = vms[0]["vmm_pid"].as_u64().ok_or_else(|| format!("{vms:#}"))?;
        let console = env.banger(["vm", "logs", "stuck"]).run().out();
        if !console.contains("] ") {
            return Err(format!("console: {console:?}"));
        }
        u32::try_from(pid).ok().and_then(Identity::of).ok_or_else(|| format!("no process {pid}"))
    });
    assert!(vmm.signal(Signal::STOP));
    let out = run.finish(2 * BOOT).expect(125);
    assert!(out.err().contains("error: "), "{out}");
    assert!(out.err().contains("] "), "no line of the guest's console: {out}");
    assert!(!vmm.is_alive());
    kept_with_hints(&env, "stuck", &out.err());
}
