//! Entry points for fuzzing and for the replay of the corpora: arbitrary bytes in the place of a guest. No command uses
//! this module.
//!
//! Each function panics if the input was not refused, bounded or escaped as its reader promises.

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

/// Marker in the hints of the corpora's guests, which no hint of banger contains.
const FOREIGN: &str = "@FOREIGN@";
/// Longest text of a failure: escaped guest text, and banger's own.
const MAX_SHOWN: usize = 8 << 10;
/// Number and size of the chunks of a body.
const PIECES: (usize, usize) = (6, 32 << 10);

/// Reads `data` as an agent's messages in an accepted exec session.
pub fn exec(data: &[u8]) {
    run(session::fuzz_read(data));
}

/// Reads `data` as an agent's whole answer to a request for an exec session. `@ACCEPTS@` in it stands for the key of an
/// accepting answer, which depends on the request.
pub fn session(data: &[u8]) {
    run(async {
        let work = async {
            let (_, stdin) = mpsc::channel(1);
            let (_, control) = mpsc::unbounded_channel();
            start_session(data).await?.run(stdin, control, tokio::io::sink(), tokio::io::sink()).await
        };
        check_short(work.await);
    });
}

/// Reads `data` as an agent's messages in the session that installs tools.
pub fn bootstrap(data: &[u8]) {
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nSec-WebSocket-Accept: {ACCEPTS}\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(data);
    run(async {
        let session = start_session(&answer).await.expect("it is accepted");
        check_shown(bootstrap::fuzz_read(session).await);
    });
}

/// Reads `data` as an agent's answer to a question about itself, to one with a long answer, and to one with a stall
/// timeout.
pub fn http(data: &[u8]) {
    run(async {
        let mut connection = connected(Peer::answering(data)).await;
        check_short(guest::ask::<Vec<Port>>(&mut connection, "/ports").await.map_err(Error::from));
        let mut connection = connected(Peer::answering(data)).await;
        let answer = async {
            let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, "/workspace", None).await?;
            if !response.status().is_success() {
                return Err(STALL_TIMEOUT.refusal(response).await);
            }
            STALL_TIMEOUT.collect(response.into_body(), MAX_BODY).await
        };
        let answer = answer.await;
        assert!(answer.as_ref().is_ok_and(|body| body.len() <= MAX_BODY) || answer.is_err(), "more than the limit");
        check_short(answer.map_err(Error::from));
    });
}

/// Reads `data` as an agent's answer to an archive. The first byte says how much of the archive the agent reads before:
/// most of it, or nothing. For odd values the agent leaves without reading the rest.
pub fn put(data: &[u8]) {
    let Some((takes, answer)) = data.split_first() else { return };
    run(async {
        let takes = usize::from(*takes);
        let peer = Peer { reads_first: takes * 512, reads_rest: takes.is_multiple_of(2), ..Peer::answering(answer) };
        let mut connection = connected(peer).await;
        let piece = Bytes::from(vec![0; PIECES.1]);
        let pieces = (0..PIECES.0).map(move |_| Ok::<_, std::io::Error>(Frame::data(piece.clone())));
        let tar = Body::new(StreamBody::new(futures_util::stream::iter(pieces)));
        check_short(guest::put_archive(&mut connection, "/root", tar).await.map_err(Error::from));
    });
}

/// Starts a session with an agent that answers `data`.
async fn start_session(data: &[u8]) -> Result<Session<DuplexStream>> {
    let spec = ExecSpec { argv: vec!["true".into()], env: [].into(), cwd: None, user: None, tty: None };
    Session::start(Peer::answering(data).connect(), &spec).await
}

async fn connected(peer: Peer) -> Connection {
    Connection::open(peer.connect(), Vec::new()).await.expect("nothing was said yet")
}

/// Checks that a failure, in either format, moves no cursor, has no hints but banger's, and no operation id.
fn check_shown<T>(result: Result<T>) {
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

/// Same as [`check_shown`], and checks that the text is short.
fn check_short<T>(result: Result<T>) {
    if let Err(Error::Failed(failure)) = &result {
        let shown = Printer::plain().describe(failure).len();
        assert!(shown <= MAX_SHOWN, "{shown} bytes: {failure:?}");
    }
    check_shown(result);
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

/// Unpacks a tar stream from a guest: nothing outside the one name it may create is touched.
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

/// Checks a patch from a guest: every path in it is inside the tree and not in `.git`.
pub fn patch(data: &[u8]) {
    let Ok(summary) = patch::check(data) else { return };
    for path in &summary.files {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let bad = |part: &[u8]| part.is_empty() || part == b".." || part.eq_ignore_ascii_case(b".git");
        assert!(!parts.iter().any(|part| bad(part)), "{}", String::from_utf8_lossy(path));
    }
}

/// Reads `data` as a guest's answers about a workspace, the agent's in JSON and git's in lists: a path is plain, or
/// refused in short, and an id is an id.
pub fn workspace(data: &[u8]) {
    let (paths, ids) = import::fuzz_read(data);
    for path in paths {
        let Ok(path) = path else {
            check_short(path);
            continue;
        };
        let climbs = path.split('/').any(|part| part == "..");
        assert!(path.starts_with('/') && !climbs && !path.contains(char::is_control), "{path:?}");
    }
    let is_id = |id: &String| matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(ids.iter().all(is_id), "{ids:?}");
}

/// Escapes text for a terminal, whole and in pieces of the length in the first byte: both give the same, and nothing in
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
