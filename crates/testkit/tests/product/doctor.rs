//! `banger doctor` and `banger system df`: what is said about a host, and that looking changes nothing.

use crate::{delete, start};
use banger_testkit::{TestEnv, require};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn findings(json: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = json["findings"].as_array().expect("findings");
    list.iter().map(|it| (text(&it["check"]), text(&it["verdict"]), it.to_string())).collect()
}

#[track_caller]
fn verdict_of(json: &Value, check: &str) -> (String, String) {
    let all = findings(json);
    let found = all.iter().find(|(name, ..)| name == check).unwrap_or_else(|| panic!("no {check} in {json:#}"));
    (found.1.clone(), found.2.clone())
}

#[test]
fn the_doctor_needs_no_daemon_and_writes_nothing() {
    let env = TestEnv::empty();
    let out = env.banger(["doctor", "--json"]).run();
    assert!(matches!(out.code(), 0 | 1), "{out}");
    assert_eq!(verdict_of(&out.json(), "daemon").0, "PASS");
    assert_eq!(verdict_of(&out.json(), "banger's programs").0, "PASS");
    for (check, verdict, finding) in findings(&out.json()) {
        assert!(verdict == "PASS" || finding.contains("\"hints\":[\""), "{check}: {finding}");
    }
    assert!(env.daemon().is_none(), "it starts no daemon");
    for place in [&env.layout().state, &env.layout().cache, &env.layout().config, &env.layout().run] {
        assert!(!place.exists(), "{} was made", place.display());
    }
}

#[test]
fn what_is_broken_is_a_failure_with_the_command_that_mends_it() {
    let Some(env) = TestEnv::fake() else { return };
    assert_eq!(env.banger(["doctor"]).run().code(), 0);
    // A configuration no daemon starts with.
    env.configure_also("colour = 1\n");
    let out = env.banger(["doctor", "--json"]).run().expect(1);
    let (verdict, text) = verdict_of(&out.json(), "configuration");
    assert!(verdict == "FAIL" && text.contains("colour"), "{text}");
    // No monitor.
    env.configure("qemu_bin = \"/no/such/qemu\"\n");
    let out = env.banger(["doctor", "--json"]).run().expect(1);
    let (verdict, text) = verdict_of(&out.json(), "virtual machines");
    assert!(verdict == "FAIL" && text.contains("/no/such/qemu"), "{text}");
    // A kernel that was modified, and one with a hole.
    let vmlinux = first_in(&env.layout().kernels()).join("vmlinux");
    let mut bytes = std::fs::read(&vmlinux).expect("a vmlinux");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(&vmlinux, &bytes);
    let kernel = stock(&env);
    assert!(kernel.contains("is modified") && kernel.contains("banger kernel pull --force"), "{kernel}");
    std::fs::remove_file(&vmlinux).expect("its vmlinux");
    let out = env.banger(["doctor"]).run().expect(1);
    assert!(out.out().contains("FAIL") && out.out().contains("banger kernel pull --force"), "{out}");
    assert!(out.out().contains("VMs cannot run"), "{out}");
}

/// What was published in a store's directory.
fn first_in(store: &Path) -> PathBuf {
    let published = |dir: &std::fs::DirEntry| !dir.file_name().to_string_lossy().starts_with('.');
    std::fs::read_dir(store).expect("a store").flatten().find(published).expect("something in it").path()
}

/// Puts another file in the place of one, which other tests have too.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("a file");
    std::fs::write(path, bytes).expect("another");
}

/// The doctor's words about kernels and images, of which something is wrong.
#[track_caller]
fn stock(env: &TestEnv) -> String {
    let json = env.banger(["doctor", "--json"]).run().expect(1).json();
    let (verdict, text) = verdict_of(&json, "kernels and images");
    assert_eq!(verdict, "FAIL", "{text}");
    text
}

#[test]
fn an_image_that_starts_no_vm_is_found() {
    let Some(env) = TestEnv::fake() else { return };
    let file = crate::registered::own_file(&env);
    env.banger(["image", "register", "--name", "my", "--rootfs", "my.ext4"]).run().expect(0);
    assert_eq!(env.banger(["doctor"]).run().code(), 0);
    // A file of the user's that a start refuses.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .expect("it")
        .set_modified(std::time::UNIX_EPOCH)
        .expect("a time");
    let text = stock(&env);
    assert!(text.contains("is not what was registered") && text.contains("banger image register"), "{text}");
    env.banger(["image", "delete", "my"]).run().expect(0);
    // One of banger's own that was cut, and one that is gone.
    let rootfs = first_in(&env.layout().images()).join("rootfs.ext4");
    replace(&rootfs, b"cut");
    let text = stock(&env);
    assert!(text.contains("rootfs.ext4 has 3 bytes") && text.contains("banger image delete"), "{text}");
    std::fs::remove_file(&rootfs).expect("its file");
    let text = stock(&env);
    assert!(text.contains("rootfs.ext4") && text.contains("banger image delete"), "{text}");
}

#[test]
fn a_host_without_programs_is_told_what_to_install() {
    let Some(env) = TestEnv::fake() else { return };
    let out = env.banger(["doctor", "--json"]).env("PATH", "/nowhere").run();
    // Those of the administrator are found without a PATH, git is not.
    let (verdict, text) = verdict_of(&out.json(), "programs");
    assert!(verdict == "WARN" && text.contains("sudo apt install"), "{text}");
}

#[test]
fn a_host_without_namespaces_is_told_that_monitors_are_confined_less() {
    if !require("userns") {
        return;
    }
    let env = TestEnv::empty();
    let (verdict, text) = verdict_of(&env.banger(["doctor", "--json"]).run().json(), "confinement");
    assert!(verdict == "PASS" && text.contains("Landlock"), "{text}");
    let forbidden = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let out = env
        .program("unshare")
        .args(["--user", "--map-root-user", "--", "sh", "-c", forbidden, "sh"])
        .args([banger_testkit::bin_dir().join("banger")])
        .args(["doctor", "--json"])
        .run();
    let (verdict, text) = verdict_of(&out.json(), "confinement");
    assert!(verdict == "WARN" && text.contains("no namespaces of its own"), "{text}");
    assert!(text.contains("sysctl user.max_user_namespaces="), "{text}");
}

#[test]
fn limits_that_are_too_low_are_told_of_the_next_daemon_and_of_the_one_that_runs() {
    let env = TestEnv::empty();
    let banger = banger_testkit::bin_dir().join("banger");
    let texts = |json: &Value| -> Vec<String> {
        findings(json).into_iter().filter(|(check, ..)| check == "limits").map(|(.., text)| text).collect()
    };
    let low = "ulimit -n 200 && ulimit -f 4096 && exec \"$@\"";
    let out = env.program("sh").args(["-c", low, "sh"]).args([&banger]).args(["doctor", "--json"]).run().expect(1);
    let found = texts(&out.json());
    assert!(found[0].contains("200 open files") && found[0].contains("\"ulimit -n 1024\""), "{found:?}");
    assert!(found[1].contains("FAIL") && found[1].contains("ulimit -f unlimited"), "{found:?}");

    env.banger(["ps"]).run().expect(0);
    let daemon = env.daemon().expect("a daemon").pid.to_string();
    env.program("prlimit").args(["--pid", &daemon, "--nofile=300:"]).run().expect(0);
    let found = texts(&env.banger(["doctor", "--json"]).run().json());
    assert!(found[0].contains("300 open files") && found[0].contains("banger daemon stop"), "{found:?}");
    env.banger(["daemon", "stop"]).run().expect(0);
    let found = texts(&env.banger(["doctor", "--json"]).run().json());
    assert!(!found[0].contains("300 open files"), "{found:?}");
}

#[test]
fn a_daemon_may_have_more_files_open_than_it_was_started_with() {
    let env = TestEnv::empty();
    let banger = banger_testkit::bin_dir().join("banger");
    env.program("prlimit").args(["--nofile=512:2048"]).args([&banger]).args(["ps"]).run().expect(0);
    let pid = env.daemon().expect("a daemon").pid;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a daemon's limits");
    let open = limits.lines().find(|line| line.starts_with("Max open files")).expect("open files");
    assert_eq!(open.split_whitespace().nth(3), Some("2048"), "{open}");
}

#[test]
fn room_is_accounted_for() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "up");
    env.banger(["vm", "create", "--no-start", "--name", "idle"]).run().expect(0);
    let df = env.banger(["system", "df", "--json"]).run().expect(0).json();
    let of = |df: &Value, kind: &str| {
        let list = df["usage"].as_array().expect("a list");
        list.iter().find(|usage| usage["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {df:#}")).clone()
    };
    let (images, vms) = (of(&df, "images"), of(&df, "vms"));
    assert_eq!((&images["count"], &images["in_use"], &images["reclaimable"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!((&vms["count"], &vms["in_use"]), (&2.into(), &1.into()));
    assert!(vms["reclaimable"].as_u64() > Some(0) && vms["reclaimable"].as_u64() < vms["size"].as_u64(), "{vms:#}");
    // The kernel is the image's and the VMs', and takes what its directory does.
    let kernels = of(&df, "kernels");
    assert_eq!((&kernels["count"], &kernels["in_use"], &kernels["reclaimable"]), (&1.into(), &1.into(), &0.into()));
    assert!(kernels["size"].as_u64() > Some(1 << 20), "{kernels:#}");
    // What is kept to be quicker next time is nobody's, and may all be given back.
    let blob = env.layout().cache.join("oci/blobs/sha256").join("0".repeat(64));
    std::fs::create_dir_all(blob.parent().expect("a directory")).expect("a cache");
    std::fs::write(&blob, vec![1; 3 << 20]).expect("a blob");
    let with_blob = of(&env.banger(["system", "df", "--json"]).run().expect(0).json(), "cache");
    let before = of(&df, "cache");
    let more = |key: &str| with_blob[key].as_u64().expect("a number") - before[key].as_u64().expect("a number");
    assert_eq!((more("count"), more("size"), more("reclaimable")), (1, 3 << 20, 3 << 20), "{with_blob:#}");
    assert_eq!(with_blob["reclaim"], "banger image cache prune");
    let would = env.banger(["image", "cache", "prune", "--dry-run"]).run().expect(0);
    assert_eq!((would.out().as_str(), blob.exists()), ("would free 3 MiB in 1 layer\n", true));
    let pruned = env.banger(["image", "cache", "prune"]).run().expect(0);
    assert_eq!((pruned.out().as_str(), blob.exists()), ("freed 3 MiB in 1 layer\n", false));
    // The rest of the cache, such as templates of disks, is not what that command gives back.
    let cache = of(&env.banger(["system", "df", "--json"]).run().expect(0).json(), "cache");
    assert!(cache["reclaimable"] == 0 && cache["size"].as_u64() > Some(0), "{cache:#}");
    let total = |key: &str| {
        let list = df["usage"].as_array().expect("a list");
        list.iter().map(|usage| usage[key].as_u64().expect("a number")).sum::<u64>()
    };
    assert_eq!((&df["size"], &df["reclaimable"]), (&total("size").into(), &total("reclaimable").into()));
    // What prune gives back is what was promised.
    env.banger(["vm", "prune", "-f"]).run().expect(0);
    let after = env.banger(["system", "df", "--json"]).run().expect(0).json();
    assert_eq!(of(&after, "vms")["reclaimable"], 0);
    let head = env.banger(["system", "df"]).run().expect(0).out();
    assert!(head.starts_with("TYPE"), "{head}");
    delete(&env, "up");
    let empty = env.banger(["system", "df", "--json"]).run().expect(0).json();
    assert!(of(&empty, "images")["reclaimable"].as_u64() > Some(0), "{empty:#}");
}
