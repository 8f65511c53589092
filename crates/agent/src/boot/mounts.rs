//! Mounts the kernel's own file systems, and moves them to the new root.

use super::{Attempt, BootError};
use rustix::{
    fs::{Mode, mkdir},
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_move},
    process::{chdir, chroot},
};
use std::{fs, os::unix::fs::symlink, path::Path};

/// Path at which the new root is assembled.
pub(super) const NEW_ROOT: &str = "/banger/root";
/// Directory of the initramfs that becomes `/run/initramfs` in the new root: its `shutdown` is this program, which
/// systemd runs at the very end, and `bin` has the commands for guests in which the agent is process 1.
const HOOK: &str = "/banger/hook";
/// Directory of the power commands where the agent is process 1; first in the default PATH of execs there.
pub(crate) const BIN: &str = "/run/initramfs/bin";

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts `/dev`, `/proc` and `/sys` of the initramfs.
pub(super) fn first() -> Result<(), BootError> {
    for (kind, mount_point, flags, data) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
        ("proc", "/proc", PLAIN, c""),
        ("sysfs", "/sys", PLAIN, c""),
    ] {
        make_dir(mount_point)?;
        match mount(kind, mount_point, kind, flags, data) {
            // Some kernels mount devtmpfs themselves.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(error).attempt(|| format!("mounting {kind} at {mount_point}")),
        }
    }
    Ok(())
}

/// Moves or mounts everything in the new root that is not a disk.
pub(super) fn kernel_trees() -> Result<(), BootError> {
    let inside = |mount_point: &str| format!("{NEW_ROOT}{mount_point}");
    for mount_point in ["/dev", "/proc", "/sys", "/run"] {
        // If one of these were a link in the image, the mount would follow it out of the new root.
        let path = inside(mount_point);
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_dir()) {
            fs::remove_file(&path).attempt(|| format!("removing {mount_point}, which is no directory"))?;
        }
        make_dir(&path)?;
    }
    for mount_point in ["/dev", "/proc", "/sys"] {
        mount_move(mount_point, inside(mount_point)).attempt(|| format!("moving {mount_point} to the new root"))?;
    }
    tmpfs(&inside("/run"), MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;

    let devpts = inside("/dev/pts");
    make_dir(&devpts)?;
    mount("devpts", &devpts, "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0620,gid=5,ptmxmode=0666")
        .attempt(|| "mounting devpts".to_owned())?;
    let shm = inside("/dev/shm");
    make_dir(&shm)?;
    tmpfs(&shm, MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        // They may exist already in the kernel's devtmpfs.
        let _ = symlink(target, inside(&format!("/dev/{link}")));
    }

    let cgroup = inside("/sys/fs/cgroup");
    // Mounted before systemd starts: it keeps an existing hierarchy, and leaves groups alone that it did not create.
    mount("cgroup2", &cgroup, "cgroup2", PLAIN, c"nsdelegate").attempt(|| "mounting cgroup2".to_owned())?;
    for group in ["/banger", "/banger/agent", "/banger/exec"] {
        make_dir(&format!("{cgroup}{group}"))?;
    }
    hook(&inside("/run/initramfs"))
}

/// Binds this program into the new root, without copying it.
fn hook(mount_point: &str) -> Result<(), BootError> {
    make_dir(HOOK)?;
    let program = format!("{HOOK}/shutdown");
    fs::hard_link("/init", &program).attempt(|| format!("linking /init to {program}"))?;
    let bin = format!("{HOOK}/bin");
    make_dir(&bin)?;
    for name in ["poweroff", "reboot", "halt", "shutdown", "modprobe"] {
        symlink("../shutdown", format!("{bin}/{name}")).attempt(|| format!("linking {bin}/{name}"))?;
    }
    // systemd moves the kernel's file systems and its old root here before it runs the hook, and creates no
    // directories.
    for mount_point in ["dev", "proc", "sys", "run", "oldroot"] {
        make_dir(&format!("{HOOK}/{mount_point}"))?;
    }
    make_dir(mount_point)?;
    mount_bind(HOOK, mount_point).attempt(|| format!("binding {mount_point}"))
}

/// Makes the new root the root of this process and, because they share it with process 1, of the kernel's helpers.
pub(super) fn enter() -> Result<(), BootError> {
    chdir(NEW_ROOT).attempt(|| "entering the new root".to_owned())?;
    mount_move(".", "/").attempt(|| "moving the new root to /".to_owned())?;
    chroot(".").attempt(|| "changing the root".to_owned())?;
    chdir("/").attempt(|| "entering /".to_owned())?;
    if !Path::new("/sbin/modprobe").exists() {
        // The kernel loads modules through this program; an image without it has ours.
        let _ = fs::write("/proc/sys/kernel/modprobe", format!("{BIN}/modprobe"));
    }
    Ok(())
}

pub(super) fn make_dir(path: &str) -> Result<(), BootError> {
    match mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).attempt(|| format!("making the directory {path}")),
    }
}

fn tmpfs(mount_point: &str, flags: MountFlags, data: &std::ffi::CStr) -> Result<(), BootError> {
    debug_assert!(Path::new(mount_point).is_absolute());
    mount("tmpfs", mount_point, "tmpfs", flags, data).attempt(|| format!("mounting a tmpfs at {mount_point}"))
}
