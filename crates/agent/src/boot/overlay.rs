//! The root file system: the VM's work disk over the shared image.
//!
//! Layout of the work disk:
//!
//! ```text
//! overlay/upper  overlay/work     the overlay's two directories
//! bind/<name>                     a directory that must not live on an overlay, complete once it has this name
//! bind/.new-<name>                one that was being filled when the machine went down; made again
//! ```
//!
//! Afterwards neither disk is mounted anywhere the guest can see; overlay and binds keep them alive.

use super::{
    Attempt, BootError, device, grow,
    mounts::{NEW_ROOT, make_dir},
    seed::{self, Seeded},
};
use crate::beneath;
use banger_proto::agent::boot::{BootConfig, Mount};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
};
use std::{ffi::CString, io, path::Path};

const IMAGE: &str = "/banger/image";
const WORK: &str = "/banger/work";
/// Size limit of a directory that is copied from the image; a larger one stays on the overlay.
const SEED_LIMIT: u64 = 64 << 20;

/// Open parts of the root.
#[derive(Debug, Default)]
pub(super) struct Root {
    pub(super) work: Option<OwnedFd>,
}

/// Mounts everything in the configuration below the new root.
pub(super) fn assemble(config: &BootConfig, troubles: &mut Vec<String>) -> Result<Root, BootError> {
    make_dir(NEW_ROOT)?;
    let mut root = Root::default();
    for entry in &config.mounts {
        match entry {
            Mount::Root { image, work, binds } => root.work = Some(mount_root(image, work, binds, troubles)?),
            Mount::Modules { device, release } => {
                if let Err(error) = mount_modules(device, release) {
                    // A guest without its module tree still runs; whatever needs a module reports it.
                    super::say(&error.to_string());
                    troubles.push(error.to_string());
                }
            }
        }
    }
    if root.work.is_none() {
        let missing: io::Error = io::ErrorKind::InvalidInput.into();
        return Err(missing).attempt(|| "the configuration names no root file system".to_owned());
    }
    Ok(root)
}

fn mount_root(image: &str, work: &str, binds: &[String], troubles: &mut Vec<String>) -> Result<OwnedFd, BootError> {
    for (device, mount_point, flags, data) in
        [(image, IMAGE, MountFlags::RDONLY, c"noload"), (work, WORK, MountFlags::NOATIME, c"")]
    {
        device::wait_for(device)?;
        make_dir(mount_point)?;
        mount(device, mount_point, "ext4", flags, data).attempt(|| format!("mounting the disk {device}"))?;
    }
    if let Err(error) = grow::fill_disk(work, WORK) {
        // A guest whose file system is smaller than its disk still runs.
        super::say(&error.to_string());
        troubles.push(error.to_string());
    }
    let lower = dir(IMAGE)?;
    for mount_point in ["/banger/work/overlay", "/banger/work/overlay/work", "/banger/work/bind"] {
        make_dir(mount_point)?;
    }
    make_upper(lower.as_fd())?;
    let options = format!("lowerdir={IMAGE},upperdir={WORK}/overlay/upper,workdir={WORK}/overlay/work,redirect_dir=on");
    let options = CString::new(options).expect("fixed names have no NUL");
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), options.as_c_str())
        .attempt(|| "mounting the overlay".to_owned())?;

    bind_directories(binds, lower.as_fd(), troubles)?;
    // Opened before the mounts are detached: a directory stays usable afterwards.
    let work = fs::open(WORK, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "opening the work disk".to_owned())?;
    for mount_point in [IMAGE, WORK] {
        unmount(mount_point, UnmountFlags::DETACH).attempt(|| format!("detaching {mount_point}"))?;
    }
    Ok(work)
}

/// Creates the upper directory with the owner and mode of the image's root, because the merged root takes them from it.
fn make_upper(lower: BorrowedFd<'_>) -> Result<(), BootError> {
    let upper = format!("{WORK}/overlay/upper");
    match fs::mkdir(&upper, Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error).attempt(|| format!("making {upper}")),
    }
    let stat = fs::fstat(lower).attempt(|| "looking at the image's root".to_owned())?;
    fs::chmod(&upper, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .attempt(|| format!("changing the mode of {upper}"))?;
    fs::chown(&upper, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .attempt(|| format!("changing the owner of {upper}"))
}

/// Binds directories on the work disk into the root, filled with the image's content the first time. One that fails
/// stays on the overlay.
fn bind_directories(binds: &[String], lower: BorrowedFd<'_>, troubles: &mut Vec<String>) -> Result<(), BootError> {
    let mut trouble = |error: BootError| {
        super::say(&error.to_string());
        troubles.push(error.to_string());
    };
    let (store, new_root) = (dir(&format!("{WORK}/bind"))?, dir(NEW_ROOT)?);
    let (mut kept, mut drafts) = (Vec::new(), Vec::new());
    for path in binds {
        let name = path.trim_matches('/').replace('/', "-");
        match keep(path, &name, lower, store.as_fd()) {
            Ok(BindState::Existing) => {}
            Ok(BindState::Drafted) => drafts.push(name.clone()),
            Ok(BindState::OnOverlay) => continue,
            Err(error) => {
                trouble(error);
                continue;
            }
        }
        kept.push((path, name));
    }
    if let Err(error) =
        seed::publish(store.as_fd(), &drafts).attempt(|| "keeping directories on the work disk".to_owned())
    {
        trouble(error);
    }
    for (path, name) in kept {
        let what = || format!("keeping {path} on the work disk");
        let bound = beneath::make_dirs(&new_root, Path::new(path))
            .and_then(|target| Ok(mount_bind(format!("{WORK}/bind/{name}"), by_descriptor(&target))?));
        if let Err(error) = bound.attempt(what) {
            trouble(error);
        }
    }
    Ok(())
}

/// State of a bound directory.
enum BindState {
    /// On the work disk since an earlier boot.
    Existing,
    /// On the work disk, not yet under its name.
    Drafted,
    /// Left on the overlay.
    OnOverlay,
}

fn keep(path: &str, name: &str, lower: BorrowedFd<'_>, store: BorrowedFd<'_>) -> Result<BindState, BootError> {
    let what = || format!("keeping {path} on the work disk");
    if name.is_empty() || path.split('/').any(|part| part == "..") {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).attempt(what);
    }
    if fs::statat(store, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(BindState::Existing);
    }
    let from = match beneath::open(lower, Path::new(path), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(from) => Some(from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // A file, or a link to one: the name has another meaning in the image.
        Err(_) => return Ok(BindState::OnOverlay),
    };
    match seed::draft(store, name, from.as_ref().map(AsFd::as_fd), SEED_LIMIT).attempt(what)? {
        Seeded::Drafted => Ok(BindState::Drafted),
        Seeded::TooLarge => Ok(BindState::OnOverlay),
    }
}

fn mount_modules(device: &str, release: &str) -> Result<(), BootError> {
    let what = || format!("mounting the kernel's modules from {device}");
    device::wait_for(device)?;
    let new_root = dir(NEW_ROOT)?;
    let target = beneath::make_dirs(&new_root, Path::new(&format!("/lib/modules/{release}"))).attempt(what)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount(device, by_descriptor(&target), "ext4", flags, c"noload").attempt(what)
}

fn dir(path: &str) -> Result<OwnedFd, BootError> {
    fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| format!("opening {path}"))
}

/// Returns a path of exactly the opened directory.
fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
