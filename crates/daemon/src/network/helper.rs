//! Client of `bangerd-root`: one child process, one request at a time.

use banger_machine::process::ProcessIdentity;
use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, MAX_REQUEST, Request},
};
use rustix::{
    cmsg_space,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

/// Timeout of a request: a hundred times what one takes.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Most descriptors that come with an answer.
const MAX_DESCRIPTORS: usize = 2;
/// Most bytes kept of a dead helper's stderr.
const MAX_STDERR: u64 = 2048;

/// A running helper. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    process: ProcessIdentity,
    stream: UnixStream,
    /// Why the helper cannot be used any more.
    broken: Option<String>,
}

impl Helper {
    /// Starts a helper in the namespaces of `holder`.
    pub(super) fn start(program: &Path, holder: ProcessIdentity) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(program);
        command
            .args(["serve", &holder.pid.to_string(), &holder.start_time.to_string()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn()?;
        // Taken now: a process that has ended cannot be identified any more.
        let process = child.id().and_then(ProcessIdentity::of);
        let process = process.ok_or_else(|| io::Error::other("the network helper ended at once"))?;
        Ok(Self { child, process, stream: UnixStream::from_std(ours)?, broken: None })
    }

    /// Identity of the helper's process, which may have ended.
    pub(super) fn process(&self) -> ProcessIdentity {
        self.process
    }

    /// Sends a request and waits for the answer. An error means that the helper cannot be used any more; the same holds
    /// when the call is canceled half way.
    pub(super) async fn ask(&mut self, request: &Request) -> io::Result<(Answer, Vec<OwnedFd>)> {
        // Set until the whole answer is read: otherwise the next request would get the rest of this answer.
        let answered = match self.broken.replace("nobody waited for its last answer".to_owned()) {
            Some(why) => Err(io::Error::other(why)),
            None => timeout(TIMEOUT, self.serve_stream(request))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
        match answered {
            Ok(answered) => {
                self.broken = None;
                Ok(answered)
            }
            Err(error) => {
                self.broken = Some(error.to_string());
                let words = self.stderr_tail().await;
                if words.is_empty() {
                    return Err(error);
                }
                self.broken = Some(words.clone());
                Err(io::Error::other(words))
            }
        }
    }

    async fn serve_stream(&mut self, request: &Request) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let bytes = framing::encode(request).map_err(io::Error::other)?;
        self.stream.write_all(&bytes).await?;
        let (mut answer, mut descriptors) = (Vec::new(), Vec::new());
        let mut whole = HEADER;
        while answer.len() < whole {
            let more = receive(&self.stream, &mut descriptors).await?;
            if more.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend(more);
            if let Some(header) = answer.first_chunk::<HEADER>() {
                whole = HEADER + framing::body_length(*header).map_err(io::Error::other)?;
            }
        }
        let answer = framing::decode(&answer[HEADER..whole]).map_err(io::Error::other)?;
        if answers(request, &answer) {
            Ok((answer, descriptors))
        } else {
            Err(io::Error::other("the helper answered something else"))
        }
    }

    /// The helper's stderr, if it died and said why.
    async fn stderr_tail(&mut self) -> String {
        // A helper that hangs is treated as dead.
        let _ = self.child.start_kill();
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = timeout(Duration::from_secs(1), stderr.take(MAX_STDERR).read_to_end(&mut words)).await;
        }
        let words = String::from_utf8_lossy(&words);
        words.trim().trim_start_matches("bangerd-root: ").to_owned()
    }
}

/// Whether an answer fits the request.
fn answers(request: &Request, answer: &Answer) -> bool {
    match answer {
        Answer::Failed { .. } => true,
        Answer::Status(_) => matches!(request, Request::Status { .. }),
        Answer::Resolver => matches!(request, Request::EnsureNetwork { .. }),
        Answer::Done => !matches!(request, Request::Status { .. }),
    }
}

async fn receive(stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; MAX_REQUEST];
    let count = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags)?;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            Ok(received.bytes)
        })
        .await?;
    buffer.truncate(count);
    Ok(buffer)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::{
        sync::{Arc, Mutex},
        task::Poll,
    };

    /// A helper whose other end is a stream of the test.
    pub(in crate::network) fn silent() -> (Helper, UnixStream) {
        let mut command = Command::new("sleep");
        let child = command.arg("1000").stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let process = ProcessIdentity::of(child.id().unwrap()).unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        (Helper { child, process, stream, broken: None }, theirs)
    }

    /// Answers every request with `answer` and records the requests.
    pub(in crate::network) async fn serve(mut stream: UnixStream, asked: Arc<Mutex<Vec<Request>>>, answer: Answer) {
        loop {
            let mut header = [0; HEADER];
            if stream.read_exact(&mut header).await.is_err() {
                return;
            }
            let mut body = vec![0; framing::body_length(header).unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            asked.lock().unwrap().push(framing::decode(&body).unwrap());
            stream.write_all(&framing::encode(&answer).unwrap()).await.unwrap();
        }
    }

    async fn answer(stream: &mut UnixStream, answer: &Answer) {
        stream.write_all(&framing::encode(answer).unwrap()).await.unwrap();
    }

    fn vm() -> banger_proto::name::VmId {
        "000000000001".parse().unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_is_not_the_next_ones() {
        let (mut helper, mut theirs) = silent();
        let detach = Request::DetachVm { vm: vm() };
        answer(&mut theirs, &Answer::Done).await;
        assert_eq!(helper.ask(&detach).await.unwrap().0, Answer::Done);
        {
            let status = Request::Status { of: None };
            let mut question = Box::pin(helper.ask(&status));
            let asked = std::future::poll_fn(|context| Poll::Ready(question.as_mut().poll(context).is_ready())).await;
            assert!(!asked, "nobody answered");
        }
        answer(&mut theirs, &Answer::Status(banger_proto::helper::Status::default())).await;
        answer(&mut theirs, &Answer::Failed { reason: "no".into() }).await;
        let error = helper.ask(&detach).await.unwrap_err();
        assert!(error.to_string().contains("nobody waited"), "{error}");
        helper.child.wait().await.unwrap();
        helper.ask(&detach).await.expect_err("it is of no use");
    }

    #[tokio::test]
    async fn what_answers_something_else_is_no_answer() {
        let (detach, status) = (Request::DetachVm { vm: vm() }, Request::Status { of: None });
        let described = Answer::Status(banger_proto::helper::Status::default());
        for (request, other) in [(&detach, &described), (&detach, &Answer::Resolver), (&status, &Answer::Done)] {
            let (mut helper, mut theirs) = silent();
            answer(&mut theirs, other).await;
            let error = helper.ask(request).await.expect_err("not an answer to that");
            assert_eq!(error.to_string(), "the helper answered something else");
            helper.child.wait().await.unwrap();
            assert_eq!(helper.ask(request).await.unwrap_err().to_string(), error.to_string(), "that is why");
        }
        let (mut helper, mut theirs) = silent();
        answer(&mut theirs, &described).await;
        assert_eq!(helper.ask(&status).await.unwrap().0, described);
    }
}
