//! Serves `PUT /workspace`: receives a repository and writes its files out of its own packs.
//!
//! All of this is done in a thread that has become the user the VM's commands run as: new files belong to that user,
//! and nothing is written where that user may not write. Only below directories that nobody but root may change does
//! root make missing directories first. The guest needs no git for it.

mod checkout;
mod index;
mod packs;
mod unchanged;

use super::{
    Context, RunsIn,
    archive::{self, BodyReader},
    body::Body,
    http::{json, status},
};
use crate::{accounts::Account, beneath};
use banger_proto::{
    agent::workspace::{Arrived, HashName, IMPORTED, SCRATCH, WorkspaceStatus},
    failure::{Code, Failure},
};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming};
use rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, FlockOperation, Gid, Mode, OFlags, Uid},
    io::Errno,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    io,
    path::{Component, Path, PathBuf},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::spawn_blocking};

/// How long to wait for the lock of a workspace: less than a client gives a guest that reads nothing.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two tries to take the lock.
const LOCK_RETRY_EVERY: Duration = Duration::from_millis(50);

/// Returns the path of the workspace, and whether something is there.
pub(super) fn status_of(context: &Context, uri: &Uri) -> Result<WorkspaceStatus, Failure> {
    let path = resolve(&archive::query(uri, "path").unwrap_or_default(), &account(context)?)?;
    let occupied = match std::fs::read_dir(&path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    let unfinished = path.join(SCRATCH).symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let imported = path.join(IMPORTED).symlink_metadata().is_ok_and(|meta| meta.is_file());
    Ok(WorkspaceStatus { path: path.to_string_lossy().into_owned(), occupied, unfinished, brought: imported })
}

/// Lists the files that the index of the workspace names, each ended by a zero byte: for a guest whose git cannot be
/// asked.
pub(super) async fn files(context: &Context, uri: &Uri) -> Result<Response<Body>, Failure> {
    let path = resolve(&archive::query(uri, "path").unwrap_or_default(), &account(context)?)?;
    let hash = hash_name(&archive::query(uri, "hash").unwrap_or_default())?;
    let listing = spawn_blocking(move || {
        let about = |error: &io::Error| {
            Failure::caused_by(Code::Invalid, format!("cannot read the index of {}", path.display()), error)
        };
        archive::open_base(&path).and_then(|base| checkout::indexed_files(&base, hash)).map_err(|error| about(&error))
    });
    let listing = listing.await.map_err(|error| Failure::caused_by(Code::Internal, "reading stopped", &error))??;
    let mut response = status(StatusCode::OK);
    *response.body_mut() = Body::Whole(listing.into());
    Ok(response)
}

/// Unpacks the stream, and with `checkout=sha1|sha256` writes the files that the index names.
pub(super) async fn receive(context: Rc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let in_use = context.in_use();
    let account = account(&context)?;
    let path = resolve(&archive::query(request.uri(), "path").unwrap_or_default(), &account)?;
    let checkout = match archive::query(request.uri(), "checkout") {
        None => None,
        Some(name) => Some(hash_name(&name)?),
    };
    // A hosted agent keeps its user, as its commands do.
    let becomes = (context.guest.runs_in == RunsIn::Machine).then_some(account);
    let (feeder, reader) = BodyReader::new();
    let (done, finished) = oneshot::channel();
    let at = path.clone();
    let spawned = thread::Builder::new().name("workspace".into()).spawn(move || {
        let _in_use = in_use;
        let imported = import(&at, becomes.as_ref(), reader, checkout, || !done.is_closed());
        let _ = done.send(imported);
    });
    spawned.map_err(|error| Failure::caused_by(Code::Unavailable, "the guest has no thread left", &error))?;
    if !feeder.feed(request.into_body()).await {
        // Tells the thread that nobody waits for its answer any more.
        drop(finished);
        return Err(sender_gone());
    }
    match finished.await {
        Ok(Ok(())) => json(StatusCode::OK, &Arrived { path: path.to_string_lossy().into_owned() }),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::new(Code::Internal, "bringing the repository stopped")),
    }
}

fn sender_gone() -> Failure {
    Failure::new(Code::Unavailable, "whoever sent the repository is gone")
}

fn account(context: &Context) -> Result<Account, Failure> {
    let known = context.guest.account(None);
    known.map_err(|error| Failure::caused_by(Code::Invalid, "the VM's user is not known in the guest", &error))
}

fn hash_name(name: &[u8]) -> Result<HashName, Failure> {
    let known = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    known.ok_or_else(|| Failure::new(Code::Invalid, "a hash is sha1 or sha256"))
}

/// Resolves `path`: absolute, or `~/…` below the user's home.
fn resolve(path: &[u8], account: &Account) -> Result<PathBuf, Failure> {
    let text = std::str::from_utf8(path).unwrap_or_default();
    let path = match text.strip_prefix("~/") {
        Some(rest) => Path::new(&account.home).join(rest),
        None => PathBuf::from(text),
    };
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain && path.parent().is_some() && !text.contains('\0') {
        Ok(path)
    } else {
        Err(Failure::new(Code::Invalid, "workspace wants ?path=/an/absolute/path or ~/a/path"))
    }
}

fn import(
    path: &Path,
    becomes: Option<&Account>,
    reader: BodyReader,
    checkout: Option<HashName>,
    is_awaited: impl Fn() -> bool,
) -> Result<(), Failure> {
    let about = |error: &io::Error| {
        let code = if error.kind() == io::ErrorKind::PermissionDenied { Code::Denied } else { Code::Invalid };
        Failure::caused_by(code, format!("cannot make {} in the guest", path.display()), error)
    };
    if let Some(account) = becomes {
        let root = fs::open("/", DIRECTORY, Mode::empty()).map_err(|error| about(&error.into()))?;
        make_dirs_as_root(&root, path, account).map_err(|error| about(&error))?;
        become_user(account).map_err(|error| about(&error.into()))?;
    }
    let made = make_dirs(path).map_err(|error| about(&error))?;
    let base = archive::open_base(path).map_err(|error| about(&error))?;
    if !made {
        fs::accessat(&base, ".", fs::Access::WRITE_OK | fs::Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|error| about(&error.into()))?;
    }
    lock(&base, path, LOCK_TIMEOUT, is_awaited)?;
    // An interrupted import left lists that are not this one's.
    checkout::remove_lists(&base).map_err(|error| about(&error))?;
    archive::unpack_over(&base, reader)?;
    checkout::remove_listed(&base).map_err(|error| error.into_failure(path))?;
    if let Some(hash) = checkout {
        checkout::checkout(&base, hash).map_err(|error| error.into_failure(path))?;
    }
    Ok(())
}

/// Takes the lock of a workspace; waits for an import whose sender is gone and that is still at work. Anybody in the
/// guest can hold that lock, so the wait is bounded. Nothing is begun for a sender that is gone itself, since the guest
/// may have worked there since; that it is gone shows once all that it sent was read, which is so for a small stream.
fn lock(base: &OwnedFd, path: &Path, timeout: Duration, is_awaited: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let locked = fs::flock(base, FlockOperation::NonBlockingLockExclusive);
        if !is_awaited() {
            return Err(sender_gone());
        }
        match locked {
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => thread::sleep(LOCK_RETRY_EVERY),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                let failure = format!("something in the guest has locked {}", path.display());
                return Err(Failure::new(Code::Conflict, failure));
            }
            // Without locks on directories there is nobody to wait for.
            Ok(()) | Err(_) => return Ok(()),
        }
    }
}

/// Flags for opening the directories of a path.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes the missing directories of `path` as root, as far as they are below directories that everybody may traverse
/// and only root may change, where nobody can put anything in the way. The last directory belongs to the user, those
/// above it to root.
fn make_dirs_as_root(root: &OwnedFd, path: &Path, user: &Account) -> io::Result<()> {
    let mut dir = fs::openat(root, ".", DIRECTORY, Mode::empty())?;
    let mut parts = path.strip_prefix("/").unwrap_or(path).components().peekable();
    while let Some(part) = parts.next() {
        let stat = fs::fstat(&dir)?;
        if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 || stat.st_mode & 0o001 == 0 {
            return Ok(());
        }
        dir = match fs::openat(&dir, part.as_os_str(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT) => {
                let made = beneath::make_dir(&dir, part.as_os_str())?;
                if parts.peek().is_none() {
                    fs::fchown(&made, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
                }
                made
            }
            Ok(found) => found,
            // A link, or no directory: left to the user's own rights.
            Err(_) => return Ok(()),
        };
    }
    Ok(())
}

/// Makes the missing directories of `path` with this thread's rights; returns whether the last one is new.
fn make_dirs(path: &Path) -> io::Result<bool> {
    let root = fs::open("/", DIRECTORY, Mode::empty())?;
    let mut dir = fs::openat(&root, ".", DIRECTORY, Mode::empty())?;
    let (below, mut so_far, mut made) = (path.strip_prefix("/").unwrap_or(path), PathBuf::new(), false);
    for part in below.components() {
        so_far.push(part);
        dir = match beneath::open(&root, &so_far, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                made = so_far == below;
                beneath::make_dir(&dir, part.as_os_str())?
            }
            other => other?,
        };
    }
    Ok(made)
}

/// Changes this thread, and the threads it starts, to the user for good.
fn become_user(account: &Account) -> Result<(), Errno> {
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)?;
    let (gid, uid) = (Gid::from_raw(account.gid), Uid::from_raw(account.uid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::Cell,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    /// A held lock is waited for, but not without end and not for a sender that is gone.
    #[test]
    fn a_lock_of_the_guests_does_not_outlive_the_sender() {
        let temp = tempfile::tempdir().unwrap();
        let open = || fs::open(temp.path(), DIRECTORY.difference(OFlags::PATH), Mode::empty()).unwrap();
        let (theirs, ours) = (open(), open());
        let take = |timeout: Duration, is_awaited: &dyn Fn() -> bool| {
            lock(&ours, temp.path(), timeout, is_awaited).map_err(|failure| failure.code)
        };
        fs::flock(&theirs, FlockOperation::LockExclusive).unwrap();
        assert_eq!(take(Duration::ZERO, &|| true), Err(Code::Conflict));
        // The sender is gone at once, or after a while.
        let looks = Cell::new(0);
        for last in [0, 3] {
            looks.set(0);
            let is_awaited = || looks.replace(looks.get() + 1) < last;
            assert_eq!(take(Duration::from_secs(3600), &is_awaited), Err(Code::Unavailable));
            assert_eq!(looks.get(), last + 1);
        }
        // The holder releases it meanwhile; nothing is begun for a sender that is gone.
        let is_awaited = || fs::flock(&theirs, FlockOperation::Unlock).is_ok();
        assert_eq!(take(Duration::from_secs(3600), &is_awaited), Ok(()));
        assert_eq!(take(LOCK_TIMEOUT, &|| false), Err(Code::Unavailable));
    }

    #[test]
    fn a_place_is_absolute_or_in_the_home() {
        let account = Account { home: "/home/dev".into(), ..Account::root() };
        let at = |path: &str| resolve(path.as_bytes(), &account);
        assert_eq!(at("~/repo").unwrap(), Path::new("/home/dev/repo"));
        assert_eq!(at("/srv/x").unwrap(), Path::new("/srv/x"));
        for bad in ["", "/", "repo", "~", "~dev/x", "/a/../b", "~/../x", "/a\0b"] {
            assert!(at(bad).is_err(), "{bad:?}");
        }
    }
    /// Root makes directories only where no other user could put something in the way.
    #[test]
    fn root_makes_directories_where_only_root_may() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let user = Account { uid: 1234, gid: 2345, ..Account::root() };
        for (name, owner, mode) in
            [("", 0, 0o755), ("roots", 0, 0o755), ("closed", 0, 0o700), ("shared", 0, 0o777), ("theirs", 1234, 0o755)]
        {
            std::fs::create_dir_all(at(name)).unwrap();
            std::os::unix::fs::chown(at(name), Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("roots", at("link")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let root = fs::open(temp.path(), DIRECTORY, Mode::empty()).unwrap();
        for (path, made) in [
            ("/roots/a/b/repo", true),
            ("/repo", true),
            ("/closed/repo", false),
            ("/shared/repo", false),
            ("/theirs/repo", false),
            ("/theirs/a/repo", false),
            ("/link/repo", false),
            ("/file/repo", false),
        ] {
            make_dirs_as_root(&root, Path::new(path), &user).unwrap();
            assert_eq!(at(&path[1..]).symlink_metadata().is_ok(), made, "{path}");
        }
        for (path, owner) in [("roots/a", 0), ("roots/a/b", 0), ("roots/a/b/repo", 1234), ("repo", 1234)] {
            let meta = std::fs::metadata(at(path)).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner, 0o755), "{path}");
        }
        assert!(!at("theirs/a").exists() && std::fs::read_dir(at("roots")).unwrap().count() == 1);
    }
}
