//! `PUT /workspace`: a repository arrives, and its files are written out of its own packs.
//!
//! Everything is done in a thread that has become the user the VM's commands run as: what is made belongs to that user,
//! and where that user may not write, nothing is written. The guest needs no git for it.

mod checkout;
mod index;
mod packs;
mod tree;

use super::{
    Context, Place,
    archive::{self, BodyReader},
    body::Body,
    http::json,
};
use crate::{accounts::Account, rooted};
use banger_proto::{
    agent::workspace::{Arrived, HashName, Standing},
    failure::{Code, Failure},
};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming};
use rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, Gid, Mode, OFlags, Uid},
    io::Errno,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    io,
    path::{Component, Path, PathBuf},
    rc::Rc,
    thread,
};
use tokio::sync::oneshot;

/// Says where a workspace would be, and whether something is there.
pub(super) fn look(context: &Context, uri: &Uri) -> Result<Standing, Failure> {
    let path = place(&archive::query(uri, "path").unwrap_or_default(), &account(context)?)?;
    let occupied = match std::fs::read_dir(&path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    Ok(Standing { path: path.to_string_lossy().into_owned(), occupied })
}

/// Takes the stream, and with `checkout=sha1|sha256` writes the files that the index names.
pub(super) async fn receive(context: Rc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let in_use = context.in_use();
    let account = account(&context)?;
    let path = place(&archive::query(request.uri(), "path").unwrap_or_default(), &account)?;
    let checkout = match archive::query(request.uri(), "checkout") {
        None => None,
        Some(name) => Some(hash_name(&name)?),
    };
    // A process of a host stays who it is, as its commands do.
    let becomes = (context.guest.place == Place::Machine).then_some(account);
    let (feeder, reader) = BodyReader::new();
    let (done, finished) = oneshot::channel();
    let at = path.clone();
    let spawned = thread::Builder::new().name("workspace".into()).spawn(move || {
        let _in_use = in_use;
        let _ = done.send(bring(&at, becomes.as_ref(), reader, checkout));
    });
    spawned.map_err(|error| Failure::caused_by(Code::Unavailable, "the guest has no thread left", &error))?;
    feeder.feed(request.into_body()).await;
    match finished.await {
        Ok(Ok(())) => json(StatusCode::OK, &Arrived { path: path.to_string_lossy().into_owned() }),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::new(Code::Internal, "bringing the repository stopped")),
    }
}

fn account(context: &Context) -> Result<Account, Failure> {
    let known = context.guest.account(None);
    known.map_err(|error| Failure::caused_by(Code::Invalid, "the VM's user is not known in the guest", &error))
}

fn hash_name(name: &[u8]) -> Result<HashName, Failure> {
    let known = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    known.ok_or_else(|| Failure::new(Code::Invalid, "checkout wants sha1 or sha256"))
}

/// Where `path` is: absolute, or `~/…` below the user's home.
fn place(path: &[u8], account: &Account) -> Result<PathBuf, Failure> {
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

fn bring(
    path: &Path,
    becomes: Option<&Account>,
    reader: BodyReader,
    checkout: Option<HashName>,
) -> Result<(), Failure> {
    let about = |error: &io::Error| {
        let code = if error.kind() == io::ErrorKind::PermissionDenied { Code::Denied } else { Code::Invalid };
        let failure = Failure::caused_by(code, format!("cannot make {} in the guest", path.display()), error);
        if code == Code::Denied { failure.hint("--guest-path ~/repo is in the home of the VM's user") } else { failure }
    };
    let made = make(path, becomes).map_err(|error| about(&error))?;
    if let Some(account) = becomes {
        become_user(account).map_err(|error| about(&error.into()))?;
    }
    let base = archive::open_base(path).map_err(|error| about(&error))?;
    if !made {
        fs::accessat(&base, ".", fs::Access::WRITE_OK | fs::Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|error| about(&error.into()))?;
    }
    archive::unpack_below(&base, reader)?;
    if let Some(hash) = checkout {
        checkout::checkout(&base, hash).map_err(|error| error.into_failure(path))?;
    }
    Ok(())
}

/// Makes the directory where it is missing; gives whether it was. On the way a new directory belongs to whom the one it is
/// in belongs; the last one is the user's.
fn make(path: &Path, owner: Option<&Account>) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::open("/", flags, Mode::empty())?;
    let mut dir: OwnedFd = fs::openat(&root, ".", flags, Mode::empty())?;
    let mut made = false;
    let below = path.strip_prefix("/").unwrap_or(path);
    let mut so_far = PathBuf::new();
    for part in below.components() {
        so_far.push(part);
        dir = match rooted::open(&root, &so_far, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = part.as_os_str();
                match fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                    Err(Errno::EXIST) => {}
                    other => {
                        other?;
                        made = so_far == below;
                        // Whatever mask this process has.
                        fs::chmodat(&dir, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
                        if let Some(account) = owner {
                            let stat = fs::fstat(&dir)?;
                            let (uid, gid) = if made { (account.uid, account.gid) } else { (stat.st_uid, stat.st_gid) };
                            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                            fs::chownat(&dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
                        }
                    }
                }
                rooted::open(&root, &so_far, OFlags::PATH | OFlags::DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(made)
}

/// This thread becomes the user, for good; so do the threads it starts.
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

    #[test]
    fn a_place_is_absolute_or_in_the_home() {
        let account = Account { home: "/home/dev".into(), ..Account::root() };
        let at = |path: &str| place(path.as_bytes(), &account);
        assert_eq!(at("~/repo").unwrap(), Path::new("/home/dev/repo"));
        assert_eq!(at("/srv/x").unwrap(), Path::new("/srv/x"));
        for bad in ["", "/", "repo", "~", "~dev/x", "/a/../b", "~/../x", "/a\0b"] {
            assert!(at(bad).is_err(), "{bad:?}");
        }
    }
}
