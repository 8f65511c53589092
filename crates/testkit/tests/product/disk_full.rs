//! A full disk under the state directory: a clear error, nothing half-made, and it works again once there is room.

use crate::vms;
use banger_testkit::{TestEnv, require};

/// A script for a private mount namespace: a small file system over the state directory, filled up, and emptied again.
const SCRIPT: &str = r#"
set -eu
home=$1 banger=$2
cp -a --sparse=always "$home/state" "$home/state.full"
mount -t tmpfs -o size="$3" none "$home/state"
cp -a --sparse=always "$home/state.full/." "$home/state/"
rm -rf "$home/state.full"
"$banger" ps >/dev/null
head -c 1T /dev/zero >"$home/state/filler" 2>/dev/null || true
set +e
"$banger" vm run --rm --name full -- true; echo "run: $?"
"$banger" vm list -a --json; echo "list: $?"
rm -f "$home/state/filler"
"$banger" vm delete -f full >/dev/null 2>&1
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
        .args(["3G"])
        .run()
        .expect(0);
    let (stdout, stderr) = (out.out(), out.err());
    assert!(stdout.contains("run: 125\n") && stdout.contains("list: 0\n"), "{out}");
    assert!(stderr.contains("No space left on device") || stderr.contains("no space"), "{out}");
    assert!(stdout.contains("fine\nagain: 0\n[]"), "{out}");
    assert!(stdout.trim_end().ends_with("[]"), "a VM's directory stayed: {out}");
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}
