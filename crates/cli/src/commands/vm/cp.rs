//! `banger vm cp`.

use crate::{
    complete,
    context::Context,
    copy::{
        bridge::{self, Counter},
        endpoint::{Endpoint, split},
        entries::{self, Flow, Kind},
        pack::{self, pack},
        unpack::unpack,
    },
    exec::stdin,
    exit::{Error, Result, Status},
    guest,
    http::{self, Body, segment},
    output::progress::{Progress, TICK},
    signals::Signals,
    stall::{self, STALL_TIMEOUT},
};
use banger_proto::{
    failure::{Code, Failure},
    name::VmName,
};
use bytes::Bytes;
use clap::Args;
use http_body_util::StreamBody;
use hyper::{Method, StatusCode, body::Frame, body::Incoming};
use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};
use tokio::sync::mpsc;

const INTERRUPTED: &str = "interrupted: what was copied so far is there, perhaps with one file cut short";

/// `banger vm cp`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm cp notes.txt demo:/root/        a file into the VM
  banger vm cp ./src demo:/root/src         a directory
  banger vm cp demo:/var/log .              back again
  tar c src | banger vm cp - demo:/root     a tar archive from stdin, unpacked there
  banger vm cp demo:/etc - | tar t          and one to stdout

PATH before the first colon is a VM when it may be one: ./a:b is a file here.

A destination that is a directory, or a link to one, gets the source under its own name; otherwise the source gets the destination's name. A file replaces a file or link of that name; a directory replaces nothing.
Modes, times, symbolic and hard links are kept, and long zeroes become holes; devices, fifos and sockets are left out. What comes into a VM belongs to root.")]
pub(crate) struct CpArgs {
    /// PATH here, VM:/PATH, or - for a tar archive on stdin
    #[arg(add = complete::endpoints())]
    src: Endpoint,
    /// PATH here, VM:/PATH, or - for a tar archive on stdout
    #[arg(add = complete::endpoints())]
    dst: Endpoint,
}

/// Copies from this host to a guest, or back.
pub(crate) async fn run(context: &Context, args: CpArgs) -> Result {
    let mut signals = Signals::install()?;
    signals
        .guard(INTERRUPTED, async {
            match (args.src, args.dst) {
                (Endpoint::Local(here), Endpoint::Guest { vm, path }) => upload(context, &here, &vm, &path).await,
                (Endpoint::Guest { vm, path }, Endpoint::Local(here)) => download(context, &vm, &path, &here).await,
                (Endpoint::Stream, Endpoint::Guest { vm, path }) => receive_archive(context, &vm, &path).await,
                (Endpoint::Guest { vm, path }, Endpoint::Stream) => send_archive(context, &vm, &path).await,
                _ => Err(Failure::new(Code::Invalid, "one end of a copy is here (a path, or -), the other in a VM")
                    .hint("write the VM's end as NAME:/path")
                    .into()),
            }
        })
        .await?;
    Ok(Status::Done)
}

async fn upload(context: &Context, here: &Path, vm: &VmName, path: &str) -> Result<()> {
    // Checked before the guest is asked anything, because a missing source is the likeliest mistake.
    let meta = here.symlink_metadata().map_err(|error| local("cannot read", here, &error))?;
    let own = pack::base_name(here).map_err(|error| local("cannot read", here, &error))?;
    let (directory, name) = destination(context, vm, path, (meta.is_dir(), own)).await?;
    let counter = Counter::default();
    let (mut writer, chunks) = bridge::writer(counter.clone());
    let source = here.to_owned();
    let packing = tokio::task::spawn_blocking(move || match pack(&mut writer, &source, &name) {
        Ok(skipped) => Ok(skipped),
        Err(error) => {
            writer.abort(io::Error::new(error.kind(), error.to_string()));
            Err(error)
        }
    });
    let mut connection = guest::open(context, vm.as_str()).await?;
    let sending = guest::put_archive(&mut connection, &directory, streamed(chunks));
    // The thread ends by itself, because its channel closes with the request.
    let refused = show(context, &format!("copying to {vm}:{path}"), &counter, sending).await.err();
    let packed = packing.await.map_err(|error| crate::exit::internal("cannot pack", &error))?;
    match (packed, refused) {
        (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => Err(local("cannot copy", here, &error)),
        (_, Some(failure)) => Err(failure.into()),
        (packed, None) => {
            packed.iter().flatten().for_each(|path| {
                context.printer.warn(&format!("left out {}: neither file, directory nor link", path.display()));
            });
            Ok(())
        }
    }
}

/// Returns the guest directory that receives the source, and the source's name there. `own` is its local name and type.
/// Nothing is replaced by a directory.
async fn destination(
    context: &Context,
    vm: &VmName,
    path: &str,
    (is_directory, own): (bool, OsString),
) -> Result<(String, OsString)> {
    let (parent, last) = split(path).ok_or_else(|| not_absolute(path))?;
    let whole = join(&parent, last);
    let there = stat_in_guest(context, vm, &whole).await?;
    let goes_in = match there {
        Some(Kind::Symlink(_)) => leads_to_directory(context, vm, &whole).await?,
        Some(Kind::Directory) => true,
        _ => last.is_none(),
    };
    let Some(last) = last.filter(|_| !goes_in) else { return Ok((whole, own)) };
    let wants_directory = path.ends_with('/') || path.ends_with("/.");
    match there {
        None if wants_directory => Err(Failure::new(Code::NotFound, format!("VM {vm} has no directory {path}")).into()),
        Some(_) if wants_directory || is_directory => {
            Err(Failure::new(Code::Invalid, format!("{whole} in VM {vm} is not a directory")).into())
        }
        _ => Ok((parent, OsString::from(last))),
    }
}

async fn download(context: &Context, vm: &VmName, path: &str, here: &Path) -> Result<()> {
    let (_, last) = split(path).ok_or_else(|| not_absolute(path))?;
    let (parent, name) = if here.is_dir() {
        (here.to_owned(), OsString::from(last.unwrap_or(vm.as_str())))
    } else {
        let name = here.file_name().filter(|_| !here.as_os_str().as_encoded_bytes().ends_with(b"/"));
        let name = name.ok_or_else(|| local("cannot write", here, &io::ErrorKind::NotFound.into()))?;
        (parent_of(here), name.to_owned())
    };
    let mut connection = guest::open(context, vm.as_str()).await?;
    let request = format!("/archive?path={}", segment(path));
    let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, &request, None).await?;
    if !response.status().is_success() {
        return Err(STALL_TIMEOUT.refusal(response).await.into());
    }
    let counter = Counter::default();
    let (sender, reader) = bridge::reader(counter.clone());
    let unpacking = tokio::task::spawn_blocking(move || unpack(reader, &parent, &name));
    let receiving = receive(response.into_body(), sender);
    show(context, &format!("copying from {vm}:{path}"), &counter, receiving).await;
    let unpacked = unpacking.await.map_err(|error| crate::exit::internal("cannot unpack", &error))?;
    let skipped = unpacked.map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::InvalidData => Code::Guest,
            io::ErrorKind::TimedOut => Code::Timeout,
            _ => Code::Unavailable,
        };
        Failure::caused_by(code, format!("cannot copy {vm}:{path}"), &error)
    })?;
    if skipped.0 > 0 {
        context.printer.warn(&format!("left out {} devices, fifos or sockets", skipped.0));
    }
    Ok(())
}

/// Lets the guest unpack a tar archive from stdin. The agent checks the content.
async fn receive_archive(context: &Context, vm: &VmName, path: &str) -> Result<()> {
    let (parent, last) = split(path).ok_or_else(|| not_absolute(path))?;
    let directory = join(&parent, last);
    let mut stdin = stdin::read_stdin();
    let frames = futures_util::stream::poll_fn(move |cx| {
        stdin.poll_recv(cx).map(|chunk| Some(Ok::<_, io::Error>(Frame::data(chunk?))))
    });
    let mut connection = guest::open(context, vm.as_str()).await?;
    Ok(guest::put_archive(&mut connection, &directory, http::Body::new(StreamBody::new(frames))).await?)
}

/// Writes `path` of the guest to stdout, as the tar archive that the guest sends.
async fn send_archive(context: &Context, vm: &VmName, path: &str) -> Result<()> {
    if io::stdout().is_terminal() {
        return Err(Failure::new(Code::Invalid, "will not write a tar archive to a terminal")
            .hint("write it to a file or a pipe")
            .into());
    }
    split(path).ok_or_else(|| not_absolute(path))?;
    let mut connection = guest::open(context, vm.as_str()).await?;
    let request = format!("/archive?path={}", segment(path));
    let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, &request, None).await?;
    if !response.status().is_success() {
        return Err(STALL_TIMEOUT.refusal(response).await.into());
    }
    let mut body = response.into_body();
    while let Some(data) = STALL_TIMEOUT.data(&mut body).await {
        context.printer.bytes(&data?)?;
    }
    Ok(())
}

/// Returns the type of `path` in the guest; none if it does not exist.
async fn stat_in_guest(context: &Context, vm: &VmName, path: &str) -> Result<Option<Kind>> {
    let mut connection = guest::open(context, vm.as_str()).await?;
    let request = format!("/archive?path={}", segment(path));
    let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, &request, None).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !response.status().is_success() {
        return Err(STALL_TIMEOUT.refusal(response).await.into());
    }
    let (sender, reader) = bridge::reader(Counter::default());
    let looking = tokio::task::spawn_blocking(move || {
        let mut kind = None;
        entries::walk(reader, |entry, _| {
            kind = Some(entry.kind);
            Ok(Flow::Stop)
        })
        .map(|()| kind)
    });
    // The rest of the stream is dropped with the connection, at the end of this function.
    receive(response.into_body(), sender).await;
    let looked = looking.await.map_err(|error| crate::exit::internal("cannot look into the guest", &error))?;
    looked.map_err(|error| {
        let code = if error.kind() == io::ErrorKind::TimedOut { Code::Timeout } else { Code::Guest };
        Failure::caused_by(code, format!("cannot look at {vm}:{path}"), &error).into()
    })
}

/// Whether a link in the guest leads to a directory: only then the path `LINK/..` exists.
async fn leads_to_directory(context: &Context, vm: &VmName, link: &str) -> Result<bool> {
    let mut connection = guest::open(context, vm.as_str()).await?;
    let request = format!("/archive?path={}", segment(&format!("{link}/..")));
    let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, &request, None).await?;
    if response.status().is_success() {
        return Ok(true);
    }
    let failure = STALL_TIMEOUT.refusal(response).await;
    // A dangling link, a link to something else, or a loop.
    if matches!(failure.code, Code::NotFound | Code::Invalid) { Ok(false) } else { Err(failure.into()) }
}

/// Sends the body to the channel until it ends or the receiver is gone.
async fn receive(mut body: Incoming, chunks: mpsc::Sender<io::Result<Bytes>>) {
    while let Some(data) = STALL_TIMEOUT.data(&mut body).await {
        let chunk = data.map_err(stall::into_io_error);
        let broken = chunk.is_err();
        if chunks.send(chunk).await.is_err() || broken {
            return;
        }
    }
}

fn streamed(mut chunks: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames =
        futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| Some(chunk?.map(Frame::data))));
    http::Body::new(StreamBody::new(frames))
}

/// Shows the progress of `work` until it ends.
async fn show<T>(context: &Context, what: &str, counter: &Counter, work: impl Future<Output = T>) -> T {
    let mut progress = Progress::new(&context.printer);
    progress.phase(what);
    let mut ticks = tokio::time::interval(TICK);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = ticks.tick() => progress.advance(counter.load(Ordering::Relaxed), None),
        }
    }
}

fn join(parent: &str, last: Option<&str>) -> String {
    format!("{}/{}", parent.trim_end_matches('/'), last.unwrap_or_default())
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn not_absolute(path: &str) -> Failure {
    Failure::new(Code::Invalid, format!("the path in the VM is not absolute, or holds '..': {path:?}"))
        .hint("write it as NAME:/path")
}

fn local(what: &str, path: &Path, error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::Denied,
        _ => Code::Unavailable,
    };
    Failure::caused_by(code, format!("{what} {}", path.display()), error).into()
}
