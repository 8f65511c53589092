//! Time limits for a guest that makes no progress while bytes are sent to it or received from it.
//!
//! Only what the guest owes counts: an answer, the next bytes of one, or room for bytes sent to it. A slow source or
//! reader on this side does not count, and a guest that makes progress may take as long as it needs. A guest that has
//! received everything and works on it must answer when asked whether it is alive, and must finish at last: a hostile
//! one could claim for ever to be busy.

use crate::{
    guest,
    http::{self, Body, Connection},
    progress_stream::LastWrite,
};
use banger_proto::failure::{Code, Failure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Method, Response, body::Body as _, body::Frame, body::Incoming};
use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Time limits for a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StallTimeout {
    /// Without progress, while the guest owes something.
    idle: Duration,
    /// For work that banger waits for, whatever progress there is.
    work: Duration,
}

/// Limits that a healthy guest keeps in software emulation on a busy host. Tools that are built from source there take
/// hours.
pub(crate) const STALL_TIMEOUT: StallTimeout =
    StallTimeout { idle: Duration::from_secs(60), work: Duration::from_secs(6 * 60 * 60) };

impl StallTimeout {
    /// Sends one request and returns the head of the response. A missing response closes the connection.
    pub(crate) async fn exchange(
        self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        self.exchange_while(connection, method, path, body, async || false).await
    }

    /// Same as [`Self::exchange`], with an agent that works on the request: once everything is sent, it may be silent
    /// while it `responds`, up to the limit for work.
    pub(crate) async fn exchange_while(
        self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        body: Option<Body>,
        responds: impl AsyncFn() -> bool,
    ) -> Result<Response<Incoming>, Failure> {
        let (owed, last_write) = (Owed::default(), connection.last_write());
        let body = body.map(|body| owed.watch(body));
        let answer = {
            let mut sending = pin!(connection.send(method, path, body));
            loop {
                let overdue = async {
                    owed.overdue(&last_write, self.idle).await;
                    let worked = owed.all_sent_for();
                    if worked.is_some_and(|worked| worked >= self.work) {
                        return Some(self.never_finished());
                    }
                    let works = worked.is_some() && self.is_alive(&responds).await;
                    (!works).then(|| self.stalled())
                };
                tokio::select! {
                    answer = &mut sending => break Ok(answer),
                    why = overdue => if let Some(why) = why { break Err(why) },
                }
                owed.set(true);
            }
        };
        if answer.is_err() {
            connection.abort();
        }
        answer?.map_err(|error| guest::gone(&error))
    }

    /// Waits for `work`. The guest may be silent while it `responds`, up to the limit for work; bytes written to
    /// `outputs` count as a response.
    pub(crate) async fn supervise<T>(
        self,
        work: impl Future<Output = crate::exit::Result<T>>,
        outputs: &[LastWrite],
        responds: impl AsyncFn() -> bool,
    ) -> crate::exit::Result<T> {
        let mut work = pin!(work);
        let mut since = Instant::now();
        let end = since + self.work;
        loop {
            let last = || outputs.iter().map(LastWrite::at).fold(since, Instant::max);
            let begun = last();
            let gone = async {
                sleep_until(begun + self.idle).await;
                // Output that arrives meanwhile is as good as a response.
                last() == begun && !self.is_alive(&responds).await && last() == begun
            };
            tokio::select! {
                done = &mut work => return done,
                gone = gone => if gone { return Err(self.stalled().into()) },
                () = sleep_until(end) => return Err(self.never_finished().into()),
            }
            if last() == begun {
                since = Instant::now();
            }
        }
    }

    /// Asks whether the guest is alive; twice, because one response may be late.
    async fn is_alive(self, responds: &impl AsyncFn() -> bool) -> bool {
        let ask = async || timeout(self.idle / 2, responds()).await.unwrap_or(false);
        ask().await || {
            sleep(self.idle / 4).await;
            ask().await
        }
    }

    /// Reads a whole body, up to a limit.
    pub(crate) async fn collect(self, mut body: Incoming, limit: usize) -> Result<Vec<u8>, Failure> {
        let whole = async {
            let mut bytes = Vec::new();
            while let Some(data) = self.data(&mut body).await {
                let data = data?;
                if bytes.len() + data.len() > limit {
                    return Err(http::too_much(guest::WHO, limit));
                }
                bytes.extend_from_slice(&data);
            }
            Ok(bytes)
        };
        timeout(self.work, whole).await.unwrap_or_else(|_| Err(self.never_finished()))
    }

    /// Reads the next bytes of a body; none at its end.
    pub(crate) async fn data(self, body: &mut Incoming) -> Option<Result<Bytes, Failure>> {
        loop {
            let Ok(frame) = timeout(self.idle, body.frame()).await else { return Some(Err(self.stalled())) };
            match frame?.map(Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                // Trailers are ignored.
                Ok(Err(_)) => {}
                Err(error) => return Some(Err(guest::gone(&error))),
            }
        }
    }

    /// Reads the failure in a refusal, if it arrives in time.
    pub(crate) async fn refusal(self, response: Response<Incoming>) -> Failure {
        timeout(self.idle, guest::refusal(response)).await.unwrap_or_else(|_| self.stalled())
    }

    fn never_finished(self) -> Failure {
        let work = self.work.as_secs() / 60;
        Failure::new(Code::Timeout, format!("{} did not finish", guest::WHO))
            .cause(format!("it answers, and was not done after {work} min"))
            .hint("banger vm exec NAME -- ps aux shows what the guest does, banger vm logs NAME its console")
    }

    fn stalled(self) -> Failure {
        let idle = self.idle.as_secs();
        Failure::new(Code::Timeout, format!("{} stands still", guest::WHO))
            .cause(format!("not a byte was sent or taken for {idle} s"))
            .hint("banger vm health NAME asks whether it answers, banger vm logs NAME shows the guest's console")
    }
}

/// Time since which the guest owes something; none while this side has to act.
#[derive(Debug, Clone)]
struct Owed {
    since: Arc<Mutex<Option<Instant>>>,
    /// Time since which the whole body is sent.
    sent: Arc<Mutex<Option<Instant>>>,
}

impl Default for Owed {
    fn default() -> Self {
        let now = || Arc::new(Mutex::new(Some(Instant::now())));
        Self { since: now(), sent: now() }
    }
}

impl Owed {
    fn set(&self, guest_owes: bool) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = guest_owes.then(Instant::now);
    }

    /// Returns how long ago the whole body was sent, if it was.
    fn all_sent_for(&self) -> Option<Duration> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// Wraps a body: whenever a frame of it was taken, the guest owes progress.
    fn watch(&self, mut body: Body) -> Body {
        let owed = self.clone();
        let set_sent = |owed: &Self, sent: bool| {
            *owed.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent.then(Instant::now);
        };
        set_sent(&owed, false);
        let frames = futures_util::stream::poll_fn(move |cx| {
            let next = Pin::new(&mut body).poll_frame(cx);
            owed.set(next.is_ready());
            set_sent(&owed, matches!(next, Poll::Ready(None)));
            next
        });
        http::Body::new(StreamBody::new(frames))
    }

    /// Completes once the guest has owed something for `timeout` and taken no bytes either: frames it has to take may
    /// be in buffers on this side.
    async fn overdue(&self, last_write: &LastWrite, timeout: Duration) {
        loop {
            let owes = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let since = owes.map_or_else(Instant::now, |owes| owes.max(last_write.at()));
            if since.elapsed() >= timeout {
                return;
            }
            sleep_until(since + timeout).await;
        }
    }
}

/// Converts a failure for a thread that reads the bytes.
pub(crate) fn into_io_error(failure: Failure) -> io::Error {
    let kind = if failure.code == Code::Timeout { io::ErrorKind::TimedOut } else { io::ErrorKind::UnexpectedEof };
    io::Error::new(kind, failure)
}

#[cfg(test)]
mod tests;
