//! A Debian of one's own: built from the command line by an ordinary user, and booted.

use crate::BOOT;
use banger_testkit::{TestEnv, require, shared};
use std::{fs, path::Path, process::Command, time::Duration};

/// A user nobody knows.
const USER: u32 = 54_331;
/// Longest a bootstrap may take with a slow mirror, on a busy machine.
const BUILD: Duration = Duration::from_secs(600);

/// Says what is installed, and what is in the image that is nobody's there: on the host all of it was the user's
/// subordinate ids'.
const LOOK: &str = r"
hello
id -un
dpkg-query -W -f '${Status}\n' hello
stat -c '%n %a %u:%g' / /etc/shadow /bin/su
find / -xdev \( -uid +999 -o -gid +999 -o -nouser -o -nogroup \)
";
const SEEN: &str = r"Hello, world!
root
install ok installed
/ 755 0:0
/etc/shadow 640 0:42
/bin/su 4755 0:0
";

/// What `debugfs` says of a file in an image.
fn stat(rootfs: &Path, path: &str) -> String {
    let output = Command::new("/usr/sbin/debugfs").args(["-R", &format!("stat {path}")]).arg(rootfs).output();
    String::from_utf8_lossy(&output.expect("debugfs").stdout).into_owned()
}

#[test]
fn what_an_ordinary_user_builds_boots_with_what_was_included_and_is_all_that_is_left() {
    if ["apt", "e2fsck", "userns", "uidmap"].iter().any(|it| !require(it)) {
        return;
    }
    let _machine = shared();
    let Some(mut env) = TestEnv::real_as(USER) else { return };
    env.with_subordinate_ids(USER);
    let stored = || {
        let entries = fs::read_dir(env.layout().images()).expect("images").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
        names.sort();
        names
    };
    let mut before = stored();
    let build = ["image", "build", "small", "--debian", "bookworm", "--include", "hello"];
    let built = env.banger(build).patience(BUILD).run().expect(0);
    assert_eq!(built.out(), "small\n", "{built}");
    assert_eq!(env.left_by(USER), [""; 0]);
    let image = env.banger(["image", "show", "small", "--json"]).run().expect(0).json();
    assert_eq!((&image["state"], &image["source"]), (&"ready".into(), &"mmdebstrap bookworm".into()), "{image:#}");
    let id = image["id"].as_str().expect("an id").to_owned();
    before.push(id.clone());
    before.sort();
    assert_eq!(stored(), before);

    let rootfs = env.layout().images().join(id).join("rootfs.ext4");
    let checked = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&rootfs).output().expect("e2fsck");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    for path in ["/", "/etc/passwd", "/usr/bin/hello"] {
        let said = stat(&rootfs, path);
        let owner = said.lines().find_map(|line| line.trim_start().strip_prefix("User:")).unwrap_or_default();
        let numbers: Vec<&str> = owner.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).collect();
        assert_eq!(numbers.get(..2), Some(&["0", "0"][..]), "{path}: {said}");
    }

    let run = ["vm", "run", "--rm", "--quiet", "--memory", "256M", "--image", "small", "--", "sh", "-c", LOOK];
    let out = env.banger(run).patience(BOOT).run().expect(0);
    assert_eq!(out.out(), SEEN, "{out}");
    env.assert_nothing_left();
}
