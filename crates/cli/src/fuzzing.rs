//! Any bytes in a guest's place: what fuzzing drives, and what its corpora are replayed with. No command uses it.
//!
//! Each function panics when what came was not refused, bounded or escaped as its reader promises.

mod peer;

use crate::{
    copy,
    exec::session::{self, Session},
    exit::{Error, Result},
    guest,
    http::{Body, Connection},
    output::{escape, printer::Printer},
    stall::STALL_TIMEOUT,
    workspace::{bootstrap, import, patch},
};
use banger_proto::{
    agent::{
        exec::{ExecSpec, SUBPROTOCOL},
        http::{MAX_BODY, Port},
    },
    failure::Failure,
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{Method, body::Frame};
use peer::{ACCEPTS, Peer};
use std::{fs, path::Path};
use tokio::{io::DuplexStream, sync::mpsc};

/// What stands in the hints of a guest's that the corpora have, and in none of banger's.
const FOREIGN: &str = "@FOREIGN@";
/// Longest text of a failure: a guest's words, each character escaped, and banger's own.
const MOST_SHOWN: usize = 8 << 10;
/// A body of this many pieces of this length.
const PIECES: (usize, usize) = (6, 32 << 10);

/// What an agent sends after it accepted an exec session.
pub fn exec(data: &[u8]) {
    run(session::fuzz_read(data));
}

/// What an agent says from the first word on when it is asked for an exec session: what it has to know of the request to
/// accept one stands in it as `@ACCEPTS@`.
pub fn session(data: &[u8]) {
    run(async {
        let work = async {
            let (_, stdin) = mpsc::channel(1);
            let (_, control) = mpsc::unbounded_channel();
            begun(data).await?.run(stdin, control, tokio::io::sink(), tokio::io::sink()).await
        };
        brief(work.await);
    });
}

/// What an agent says in the session in which it is to install tools.
pub fn bootstrap(data: &[u8]) {
    let mut said = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nSec-WebSocket-Accept: {ACCEPTS}\r\n\r\n"
    )
    .into_bytes();
    said.extend_from_slice(data);
    run(async {
        let session = begun(&said).await.expect("it is accepted");
        harmless(bootstrap::fuzz_read(session).await);
    });
}

/// What an agent answers to a question about itself, to one with a long answer, and when it has to be patient with it.
pub fn http(data: &[u8]) {
    run(async {
        let mut connection = connected(Peer::saying(data)).await;
        brief(guest::ask::<Vec<Port>>(&mut connection, "/ports").await.map_err(Error::from));
        let mut connection = connected(Peer::saying(data)).await;
        let answer = async {
            let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, "/workspace", None).await?;
            if !response.status().is_success() {
                return Err(STALL_TIMEOUT.refusal(response).await);
            }
            STALL_TIMEOUT.collect(response.into_body(), MAX_BODY).await
        };
        let answer = answer.await;
        assert!(answer.as_ref().is_ok_and(|body| body.len() <= MAX_BODY) || answer.is_err(), "more than the limit");
        brief(answer.map_err(Error::from));
    });
}

/// What an agent answers to an archive, once it has taken as much of it as the first byte says: most of it, or nothing. Of
/// every other one the rest is not taken.
pub fn put(data: &[u8]) {
    let Some((takes, said)) = data.split_first() else { return };
    run(async {
        let takes = usize::from(*takes);
        let peer = Peer { takes: takes * 512, stays: takes.is_multiple_of(2), ..Peer::saying(said) };
        let mut connection = connected(peer).await;
        let piece = Bytes::from(vec![0; PIECES.1]);
        let pieces = (0..PIECES.0).map(move |_| Ok::<_, std::io::Error>(Frame::data(piece.clone())));
        let tar = Body::new(StreamBody::new(futures_util::stream::iter(pieces)));
        brief(guest::put_archive(&mut connection, "/root", tar).await.map_err(Error::from));
    });
}

/// A session that an agent who says `data` was asked for.
async fn begun(data: &[u8]) -> Result<Session<DuplexStream>> {
    let spec = ExecSpec { argv: vec!["true".into()], env: [].into(), cwd: None, user: None, tty: None };
    Session::start(Peer::saying(data).meet(), &spec).await
}

async fn connected(peer: Peer) -> Connection {
    Connection::open(peer.meet(), Vec::new()).await.expect("nothing was said yet")
}

/// What is shown of a failure moves no cursor, in either shape, and neither advises nor identifies what banger does not.
fn harmless<T>(result: Result<T>) {
    let Err(Error::Failed(failure)) = result else { return };
    assert!(failure.operation.is_none(), "an id that no log has: {failure:?}");
    assert!(!failure.hints.concat().contains(FOREIGN), "a guest's hint: {failure:?}");
    let text = Printer::plain().describe(&failure);
    assert!(!text.contains(|c| escape::is_unsafe(c) && c != '\n'), "{text:?}");
    let json = serde_json::to_string(&failure).expect("a failure is JSON");
    let json = escape::json(&json);
    assert!(!json.contains(escape::is_unsafe), "{json:?}");
    assert_eq!(serde_json::from_str::<Failure>(&json).expect("it is the same one"), failure);
}

/// The same of what an agent says of a request: there is not much of it.
fn brief<T>(result: Result<T>) {
    if let Err(Error::Failed(failure)) = &result {
        let shown = Printer::plain().describe(failure).len();
        assert!(shown <= MOST_SHOWN, "{shown} bytes: {failure:?}");
    }
    harmless(result);
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

/// A tar stream from a guest: nothing outside the one name it may make is touched.
pub fn archive(data: &[u8]) {
    let temp = tempfile::tempdir().expect("there is room for a directory");
    let (into, secret) = (temp.path().join("into"), temp.path().join("secret"));
    fs::create_dir(&into).expect("the directory is empty");
    fs::write(&secret, "secret").expect("there is room for a file");
    let _ = copy::unpack::unpack(data, &into, "out".as_ref());
    assert_eq!(names(temp.path()), ["into", "secret"]);
    assert!(names(&into).iter().all(|name| name == "out"), "{:?}", names(&into));
    assert_eq!(fs::read(&secret).expect("it is still there"), b"secret");
}

/// A patch from a guest: what it touches is inside the tree and not git's own.
pub fn patch(data: &[u8]) {
    let Ok(summary) = patch::check(data) else { return };
    for path in &summary.files {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let bad = |part: &[u8]| part.is_empty() || part == b".." || part.eq_ignore_ascii_case(b".git");
        assert!(!parts.iter().any(|part| bad(part)), "{}", String::from_utf8_lossy(path));
    }
}

/// What a guest says of a workspace, its agent in JSON and its git in lists: a place is plain, or not repeated at length, an
/// id is one.
pub fn workspace(data: &[u8]) {
    let (paths, ids) = import::fuzz_read(data);
    for path in paths {
        let Ok(path) = path else {
            brief(path);
            continue;
        };
        let climbs = path.split('/').any(|part| part == "..");
        assert!(path.starts_with('/') && !climbs && !path.contains(char::is_control), "{path:?}");
    }
    let is_id = |id: &String| matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(ids.iter().all(is_id), "{ids:?}");
}

/// Text on its way to a terminal, whole and in pieces as long as the first byte says: the same comes out, and nothing in
/// it moves a cursor.
pub fn terminal(data: &[u8]) {
    let Some((length, text)) = data.split_first() else { return };
    let whole = shown([text].into_iter());
    assert_eq!(whole, shown(text.chunks(usize::from(*length).max(1))));
    let text = String::from_utf8_lossy(text);
    let line = escape::escape(&text).into_owned();
    assert!(!line.contains(escape::is_unsafe), "{line:?}");
    let json = serde_json::to_string_pretty(&[&text]).expect("any text is a value");
    let json = escape::json(&json).into_owned();
    assert!(!json.contains(|c: char| escape::is_unsafe(c) && c != '\n'), "{json:?}");
    assert_eq!(serde_json::from_str::<[String; 1]>(&json).expect("it is JSON still"), [text]);
    assert!(!whole.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')), "{whole:?}");
}

fn shown<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut escaper = escape::StreamEscaper::default();
    let mut shown: String = pieces.map(|piece| escaper.push(piece)).collect();
    shown.push_str(&escaper.finish());
    shown
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is still there").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
