//! A full disk under the state directory: a clear error, nothing half-made, and it works again once there is room.

use crate::{kernels::pack, vms};
use banger_testkit::{FileServer, TestEnv, require};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// A script for a private mount namespace: a small file system over the state directory, filled to the last byte, then
/// to all but 2 MiB, then emptied again.
const SCRIPT: &str = r#"
set -eu
home=$1 banger=$2
cp -a --sparse=always "$home/state" "$home/state.full"
mount -t tmpfs -o size=3G none "$home/state"
chmod 700 "$home/state"
cp -a --sparse=always "$home/state.full/." "$home/state/"
rm -rf "$home/state.full"
"$banger" ps >/dev/null
set +e
for spare in 0 2M; do
  head -c 1T /dev/zero >"$home/state/filler" 2>/dev/null
  truncate -s "-$spare" "$home/state/filler"
  "$banger" vm run --rm --name full -- true; echo "run: $?"
  "$banger" vm list -a --json
  "$banger" vm delete -f full >/dev/null 2>&1
done
rm -f "$home/state/filler"
"$banger" vm run --rm --quiet --name again -- echo fine; echo "again: $?"
"$banger" vm list -a --json
"$banger" daemon stop >/dev/null
ls "$home/state/vms"
"#;

#[test]
fn a_full_disk_is_said_and_survived() {
    if !require("mount") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    let banger = banger_testkit::bin_dir().join("banger");
    let out = env
        .program("unshare")
        .args(["--mount", "--propagation", "private", "--", "bash", "-c", SCRIPT, "bash"])
        .args([env.home(), &banger])
        .run()
        .expect(0);
    assert!(out.out().starts_with("run: 125\n[]\nrun: 125\n[]\n"), "{out}");
    assert_eq!(out.err().matches("error: ").count(), 2, "{out}");
    assert_eq!(out.err().matches("hint: free some space").count(), 2, "{out}");
    assert!(out.out().ends_with("fine\nagain: 0\n[]\n"), "a VM or its directory stayed: {out}");
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

/// A script for a private mount namespace: a look with these of the home's directories on small file systems.
const SMALL: &str = r#"
set -eu
home=$1 banger=$2
shift 2
for dir in "$@"; do
  mkdir -p -m 700 "$home/$dir"
  mount -t tmpfs -o size=64M,mode=700 none "$home/$dir"
done
exec "$banger" doctor --json
"#;

#[test]
fn the_doctor_looks_at_the_file_systems_of_state_and_cache() {
    if !require("mount") {
        return;
    }
    let env = TestEnv::empty();
    let banger = banger_testkit::bin_dir().join("banger");
    let look = |small: &[&str]| {
        let script = ["--mount", "--propagation", "private", "--", "bash", "-c", SMALL, "bash"];
        let out = env.program("unshare").args(script).args([env.home(), &banger]).args(small).run();
        let findings = out.json()["findings"].as_array().expect("findings").clone();
        let found: Vec<Value> = findings.into_iter().filter(|finding| finding["check"] == "disk space").collect();
        assert!(!found.is_empty(), "{out}");
        found
    };
    // One file system is said once.
    let [both] = &look(&[])[..] else { panic!("one file system is said once") };
    assert!(both.to_string().contains(&*env.layout().state.to_string_lossy()), "{both}");
    let (state, cache) = (("state", &env.layout().state), ("cache", &env.layout().cache));
    for full in [&[state][..], &[cache], &[state, cache]] {
        let found = look(&full.iter().map(|(dir, _)| *dir).collect::<Vec<_>>());
        assert_eq!(found.len(), 2, "each file system is said: {found:#?}");
        let failed: Vec<String> =
            found.iter().filter(|finding| finding["verdict"] == "FAIL").map(Value::to_string).collect();
        assert_eq!(failed.len(), full.len(), "{found:#?}");
        for (said, (_, place)) in failed.iter().zip(full) {
            assert!(said.contains(" are free for ") && said.contains(&*place.to_string_lossy()), "{said}");
            assert!(said.contains("banger system df"), "{said}");
        }
    }
    env.assert_nothing_left();
}

/// A script for a private mount namespace: state and cache on file systems of their own, too small for a kernel, then
/// for an image, then large enough.
const FIRST_PULL: &str = r#"
set -eu
home=$1 banger=$2
for dir in state cache; do
  mkdir -p -m 700 "$home/$dir"
  mount -t tmpfs -o size=4M,mode=700 none "$home/$dir"
done
set +e
for room in 4M 40M 1G; do
  mount -o "remount,size=$room" "$home/state"
  "$banger" vm run --rm --name first --kernel mine-6.1 --image mine -- echo in; echo "$room: $?"
  "$banger" vm list -a --json
  find "$home"/state/{kernels,images} "$home/cache" -type f -size +64k -printf '%f\n' | sort
done
"$banger" daemon stop >/dev/null
ls "$home/state/vms"
"#;

/// Makes a catalog with the real kernel's image as a bundle, and one with an image of 24 MiB that does not compress.
#[track_caller]
fn offer(env: &TestEnv, server: &FileServer, public: &std::path::Path) {
    let (sha256, size) = pack(env, &public.join("kernel"));
    let source = json!({"type": "bundle", "url": server.url("kernel"), "sha256": sha256, "size": size});
    let kernel = json!({"name": "mine-6.1", "distro": "mine", "arch": "x86_64", "kernel_version": "6.1",
        "sources": [source]});
    let (root, file) = (env.home().join("root"), env.home().join("mine.ext4"));
    fs::create_dir(&root).expect("a directory");
    let made = Command::new("sh")
        .args([
            "-c",
            "head -c 24M /dev/urandom >\"$1/noise\" && /sbin/mke2fs -q -t ext4 -d \"$1\" \"$2\" 32M >/dev/null",
            "sh",
        ])
        .args([&root, &file])
        .status();
    assert!(made.expect("a shell").success());
    let with = |args: &[&str]| env.banger(args).run().expect(0);
    with(&["image", "register", "--name", "mine", "--rootfs", file.to_str().expect("a plain path")]);
    with(&["image", "promote", "mine"]);
    let bundle =
        with(&["image", "bundle", "mine", "-o", public.join("image").to_str().expect("a plain path"), "--json"]);
    let mut image = bundle.json()["entry"].clone();
    image["sources"][0]["url"] = server.url("image").into();
    with(&["daemon", "stop"]);
    let catalog = |entry: &Value| json!({"version": 1, "entries": [entry]}).to_string();
    fs::write(env.home().join("kernels.json"), catalog(&kernel)).expect("a catalog");
    fs::write(env.home().join("images.json"), catalog(&image)).expect("a catalog");
    let home = env.home().display();
    env.configure_also(&format!(
        "[[kernel_catalog]]\npath = \"{home}/kernels.json\"\n[[image_catalog]]\npath = \"{home}/images.json\"\n"
    ));
}

#[test]
fn a_first_pull_onto_a_full_disk_leaves_nothing_half_made() {
    if !require("mount") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    let public = env.home().join("public");
    fs::create_dir(&public).expect("a directory");
    let Some(server) = FileServer::start(&public) else { return };
    offer(&env, &server, &public);
    let banger = banger_testkit::bin_dir().join("banger");
    let out = env
        .program("unshare")
        .args(["--mount", "--propagation", "private", "--", "bash", "-c", FIRST_PULL, "bash"])
        .args([env.home(), &banger])
        .run()
        .expect(0);
    // Too little for the image; enough for it and not for the kernel; enough. What is there is whole.
    let whole = "rootfs.ext4\n";
    assert!(out.out().starts_with(&format!("4M: 125\n[]\n40M: 125\n[]\n{whole}in\n1G: 0\n[]\n")), "{out}");
    assert_eq!(out.err().matches("error: ").count(), 2, "{out}");
    assert_eq!(out.err().matches("No space left on device").count(), 2, "{out}");
    assert_eq!(out.err().matches("hint: free some space").count(), 2, "{out}");
    drop(server);
    env.assert_nothing_left();
}
