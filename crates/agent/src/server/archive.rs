//! `/archive`: trees as tar streams, in both directions.
//!
//! The tar work blocks and runs in a thread of its own; a short queue of chunks connects it to the stream, so that
//! memory is bounded and a slow peer slows down the disk.

mod keep_mtime;
mod pack;
mod queue;
mod unpack;

use super::{InUse, body::Body, http::status};
use banger_proto::failure::{Code, Failure};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
};
pub(super) use queue::BodyReader;
use queue::PieceWriter;
use rustix::fd::OwnedFd;
use std::{ffi::OsString, io, os::unix::ffi::OsStringExt, path::PathBuf};
use tokio::task::spawn_blocking;
use unpack::OverwritePolicy;
pub(super) use unpack::open_base;

/// `GET`: packs the file or directory as a tar stream.
pub(super) fn pack(uri: &Uri, in_use: InUse) -> Result<Response<Body>, Failure> {
    let path = path_of(uri)?;
    let root = pack::Root::find(&path).map_err(|error| about(&path, &error))?;
    let (writer, pieces) = PieceWriter::new();
    spawn_blocking(move || {
        let _in_use = in_use;
        let mut writer = writer;
        if let Err(error) = root.write(&mut writer) {
            writer.fail(error);
        }
    });
    let mut response = status(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    *response.body_mut() = Body::Pieces(pieces);
    Ok(response)
}

/// `PUT`: unpacks the stream below the directory.
pub(super) async fn unpack(request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let path = path_of(request.uri())?;
    let base = unpack::open_base(&path).map_err(|error| about(&path, &error))?;
    let (feeder, reader) = BodyReader::new();
    let job = spawn_blocking(move || unpack::unpack(&base, reader, OverwritePolicy::Merge));
    feeder.feed(request.into_body()).await;
    match job.await {
        Ok(Ok(())) => Ok(status(StatusCode::OK)),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(Failure::caused_by(Code::Internal, "unpacking stopped", &error)),
    }
}

/// Unpacks a stream as the user of this thread; whatever is in its way is removed.
pub(super) fn unpack_over(base: &OwnedFd, from: BodyReader) -> Result<(), Failure> {
    Ok(unpack::unpack(base, from, OverwritePolicy::Replace)?)
}

fn about(path: &std::path::Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::Denied,
        _ => Code::Invalid,
    };
    Failure::caused_by(code, format!("cannot open {} in the guest", path.display()), error)
}

/// Returns the absolute path in the query, percent-decoded: any bytes that a path may have.
fn path_of(uri: &Uri) -> Result<PathBuf, Failure> {
    let bytes = query(uri, "path").filter(|bytes| bytes.first() == Some(&b'/') && !bytes.contains(&0));
    bytes
        .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
        .ok_or_else(|| Failure::new(Code::Invalid, "archive wants ?path=/an/absolute/path"))
}

/// Returns a value in the query, percent-decoded: any bytes.
pub(super) fn query(uri: &Uri, key: &str) -> Option<Vec<u8>> {
    let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(name, value)| (name == key).then(|| decode(value)))?
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_query() {
        let path = |query: &str| path_of(&format!("/archive?{query}").parse().unwrap()).map(PathBuf::into_os_string);
        assert_eq!(path("path=/a%20b").unwrap(), "/a b");
        assert_eq!(path("x=1&path=%2Fa").unwrap(), "/a");
        assert_eq!(path("path=/%ff").unwrap().into_vec(), b"/\xff");
        for bad in ["path=a", "", "path=/%0", "path=/%00", "path=/%zz", "p=/a"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
