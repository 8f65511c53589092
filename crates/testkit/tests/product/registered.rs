//! Images that are files of the user's.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{SOON, delete};
use banger_testkit::TestEnv;
use std::{fs, path::PathBuf, process::Command};

/// A copy of the real image's file, as a user has one: with a tail nobody uses, so that its content is not that
/// image's.
pub(crate) fn own_file(env: &TestEnv) -> PathBuf {
    let images = fs::read_dir(env.layout().images()).unwrap().map(|entry| entry.unwrap().path().join("rootfs.ext4"));
    let managed = images.filter(|path| path.is_file()).collect::<Vec<_>>();
    let file = env.home().join("home/my.ext4");
    let copied = Command::new("cp").arg("--sparse=always").args([&managed[0], &file]).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let opened = fs::OpenOptions::new().write(true).open(&file).unwrap();
    opened.set_len(opened.metadata().unwrap().len() + 4096).unwrap();
    file
}

#[test]
fn a_file_is_an_image_until_it_changes() {
    let Some(env) = TestEnv::fake() else { return };
    let file = own_file(&env);
    // A relative path is the caller's.
    let register = |more: &[&str]| {
        env.banger(["image", "register", "--name", "my", "--rootfs", "my.ext4"].iter().chain(more)).run()
    };
    assert_eq!(register(&["--kernel-ref", "debian-6.1"]).expect(0).out(), "my\n");
    let image = env.banger(["image", "show", "my", "--json"]).run().expect(0).json();
    assert_eq!((&image["managed"], &image["kernel"]), (&false.into(), &"debian-6.1".into()), "{image:#}");
    assert_eq!(image["source"], format!("file {}", file.display()));
    assert!(env.banger(["image", "list"]).run().expect(0).out().contains("my"));
    let kernel = env.banger(["kernel", "show", "debian-6.1", "--json"]).run().expect(0).json();
    assert!(kernel["used_by_images"].as_array().unwrap().contains(&"my".into()), "{kernel:#}");

    env.banger(["vm", "run", "-d", "--quiet", "--name", "v", "--image", "my"]).patience(SOON).run().expect(0);
    assert_eq!(env.vm("v")["kernel"], "debian-6.1");
    let refused = env.banger(["image", "delete", "my"]).run().expect(1);
    assert!(refused.err().contains("in use by v"), "{refused}");
    env.banger(["vm", "stop", "v"]).patience(SOON).run().expect(0);

    // A time of its own cannot hide a change; whoever changed nothing says so.
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let touched = env.banger(["vm", "start", "v"]).run().expect(1);
    assert!(touched.err().contains("or has another mode, owner or name"), "{touched}");
    assert!(touched.err().contains("banger image register"), "{touched}");
    assert_eq!(register(&["--kernel-ref", "debian-6.1"]).expect(0).out(), "my\n");
    let same = env.banger(["image", "show", "my", "--json"]).run().expect(0).json();
    assert_eq!((&same["id"], &same["state"]), (&image["id"], &"ready".into()), "{same:#}");
    env.banger(["vm", "start", "v"]).patience(SOON).run().expect(0);
    env.banger(["vm", "stop", "v"]).patience(SOON).run().expect(0);

    // Its kernel stays, until the default one is asked for.
    let kernel = || env.banger(["image", "show", "my", "--json"]).run().expect(0).json()["kernel"].clone();
    assert!(!register(&[]).expect(0).err().contains("recommends"));
    assert_eq!(kernel(), "debian-6.1");
    let cleared = register(&["--default-kernel"]).expect(0).err();
    assert!(
        cleared.contains("recommends no kernel now, under all its names, and kernel debian-6.1 before"),
        "{cleared}"
    );
    assert_eq!(kernel(), serde_json::Value::Null);
    assert_eq!(env.banger(["image", "show", "my", "--json"]).run().expect(0).json()["id"], image["id"]);
    register(&["--default-kernel", "--kernel", "debian-6.1"]).expect(2);

    fs::OpenOptions::new().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let changed = env.banger(["vm", "start", "v"]).run().expect(1);
    assert!(changed.err().contains("is not what was registered"), "{changed}");
    assert!(changed.err().contains("written to since it was registered"), "{changed}");
    let changed = env.banger(["vm", "run", "--image", "my", "--", "true"]).run().expect(125);
    assert!(changed.err().contains("is not what was registered") && changed.err().contains("--force"), "{changed}");

    let taken = register(&[]).expect(1);
    assert!(taken.err().contains("there is an image my already") && taken.err().contains("--force"), "{taken}");
    register(&["--force"]).expect(0);
    let now = env.banger(["image", "show", "my", "--json"]).run().expect(0).json();
    assert_ne!(now["id"], image["id"]);
    assert_eq!(env.vm("v")["image_id"], image["id"], "a VM stays on the image it has");
    env.banger(["vm", "delete", "-f", "v"]).run().expect(0);
    for reference in ["my", image["id"].as_str().unwrap()] {
        env.banger(["image", "delete", reference]).run().expect(0);
    }
    assert!(file.exists(), "it is the user's");
    env.assert_nothing_left();
}

#[test]
fn a_kernel_file_comes_along_under_the_images_name() {
    let Some(env) = TestEnv::fake() else { return };
    own_file(&env);
    let kernel = env.layout().kernel(&"debian-6.1".parse().unwrap());
    let (vmlinux, modules) = (kernel.join("vmlinux"), kernel.join("modules"));
    let (vmlinux, modules) = (vmlinux.to_str().unwrap(), modules.to_str().unwrap());
    let base = ["image", "register", "--name", "team/my:1", "--rootfs", "my.ext4"];
    let both = env.banger(base.iter().chain(&["--kernel", "debian-6.1", "--kernel-file", vmlinux])).run().expect(2);
    assert!(both.err().contains("cannot be used with"), "{both}");
    env.banger(base.iter().chain(&["--modules", modules])).run().expect(2);

    let bad = env.banger(base.iter().chain(&["--kernel-file", "/etc/hostname"])).run().expect(1);
    assert!(bad.err().contains("cannot import kernel team-my-1"), "{bad}");
    assert_eq!(
        env.banger(["image", "list", "--json"]).run().expect(0).json().as_array().unwrap().len(),
        1,
        "taken back"
    );

    let more = ["--kernel-file", vmlinux, "--modules", modules];
    env.banger(base.iter().chain(&more)).patience(SOON).run().expect(0);
    let image = env.banger(["image", "show", "team/my:1", "--json"]).run().expect(0).json();
    assert_eq!(image["kernel"], "team-my-1", "{image:#}");
    let shown = env.banger(["kernel", "show", "team-my-1", "--json"]).run().expect(0).json();
    let golden = env.banger(["kernel", "show", "debian-6.1", "--json"]).run().expect(0).json();
    assert_eq!(shown["boot_modules"], golden["boot_modules"]);
    env.banger(["vm", "run", "-d", "--quiet", "--name", "v", "--image", "team/my:1"]).patience(SOON).run().expect(0);
    assert_eq!(env.vm("v")["kernel"], "team-my-1");
    delete(&env, "v");
}

#[test]
fn what_a_guest_cannot_mount_is_refused() {
    let env = TestEnv::empty();
    let file = env.home().join("home/my.ext4");
    let mut disk = vec![0; 4096];
    disk[510..512].copy_from_slice(b"\x55\xaa");
    fs::write(&file, disk).unwrap();
    for (name, block) in [("large.ext4", "65536"), ("small.ext4", "1024")] {
        let made = Command::new("/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", block])
            .arg(env.home().join("home").join(name))
            .arg("32m")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let home = env.home().to_str().unwrap();
    for (rootfs, code, said) in [
        ("my.ext4", "invalid", "a disk with partitions"),
        ("large.ext4", "invalid", "blocks of 65536 bytes"),
        (".", "invalid", "not a regular file"),
        ("none", "not_found", "No such file or directory"),
        ("my.ext4/none", "not_found", "Not a directory"),
    ] {
        let out = env.banger(["image", "register", "--name", "my", "--rootfs", rootfs, "--json"]).run().expect(1);
        let failure = out.json();
        assert_eq!(failure["code"], code, "{failure:#}");
        let text = failure.to_string();
        assert!(text.contains(said) && text.matches(home).count() == 1, "{said}: {failure:#}");
    }
    env.banger(["image", "register", "--name", "small", "--rootfs", "small.ext4"]).run().expect(0);
    env.banger(["image", "delete", "small"]).run().expect(0);
    let unknown =
        env.banger(["image", "register", "--name", "my", "--rootfs", "my.ext4", "--kernel", "nope-1.0"]).run();
    assert!(unknown.expect(1).err().contains("no kernel nope-1.0"));
    assert_eq!(fs::read_dir(env.layout().images()).unwrap().count(), 0);
    env.assert_nothing_left();
}
