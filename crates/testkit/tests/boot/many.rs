//! Many at once.

use crate::{BOOT, sh};
use banger_testkit::{TestEnv, alone};
use std::{collections::HashSet, fs, os::unix::fs::MetadataExt as _, path::Path};

const MANY: usize = 10;

/// Device and inode of a file, whatever it is called where it was opened.
fn file(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The files that the monitor of a VM has open.
fn opened(env: &TestEnv, name: &str) -> HashSet<(u64, u64)> {
    let monitor = env.vm_process(name, "vmm_pid");
    let fds = fs::read_dir(format!("/proc/{}/fd", monitor.pid)).expect("a monitor that runs");
    fds.flatten().filter_map(|fd| file(&fd.path())).collect()
}

#[test]
fn ten_vms_at_once_on_one_image() {
    let _machine = alone();
    let Some(env) = TestEnv::real() else { return };
    let names: Vec<String> = (0..MANY).map(|i| format!("vm{i}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let env = &env;
            scope.spawn(move || {
                let args =
                    ["vm", "run", "-d", "--memory", "256M", "--vcpu", "1", "--init", "agent", "--quiet", "--name"];
                env.banger(args.into_iter().chain([name.as_str()])).patience(4 * BOOT).run().expect(0);
            });
        }
    });
    for name in &names {
        assert_eq!(sh(&env, name, "hostname").trim(), name);
    }
    // The image is one file, which each monitor reads where it lies: memory of the host has it once.
    let id = env.vm(&names[0])["image_id"].as_str().expect("an image").to_owned();
    let image = file(&env.layout().images().join(id).join("rootfs.ext4")).expect("it is there");
    for name in &names {
        assert!(
            opened(&env, name).contains(&image),
            "{name} has another image than {image:?}: {:?}",
            opened(&env, name)
        );
    }
    let running = env.banger(["ps", "-q"]).run().expect(0).out();
    assert_eq!(running.lines().count(), MANY, "{running}");
    let refs = ["vm", "delete", "-f"].into_iter().chain(names.iter().map(String::as_str));
    env.banger(refs).patience(BOOT).run().expect(0);
    env.assert_nothing_left();
}
