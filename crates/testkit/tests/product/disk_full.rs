//! A full disk under the state directory: a clear error, nothing half-made, and it works again once there is room.

use crate::vms;
use banger_testkit::{TestEnv, require};

/// A script for a private mount namespace: a small file system over the state directory, filled to the last byte, then to
/// all but 2 MiB, then emptied again.
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
