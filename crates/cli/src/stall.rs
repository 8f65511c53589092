//! How long a guest may stand still while bytes go to it or come from it.
//!
//! Only what the guest owes counts: an answer, the next bytes of one, room for the next bytes of ours. A source here that
//! is slow, or a reader, owes nothing; a guest that is slow and gets somewhere may take as long as it takes. One that has
//! everything and works owes an answer to the question whether it is there, and an end: some say for ever that they are.

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

/// How long a guest may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StallTimeout {
    /// While it owes something and nothing comes.
    silence: Duration,
    /// Over work that is banger's own, whatever it says meanwhile.
    work: Duration,
}

/// With a healthy guest in software emulation on a busy host. Tools that are made of their sources there take hours.
pub(crate) const STALL_TIMEOUT: StallTimeout =
    StallTimeout { silence: Duration::from_secs(60), work: Duration::from_secs(6 * 60 * 60) };

impl StallTimeout {
    /// Sends one request and gives the head of the answer. One that does not come ends the connection.
    pub(crate) async fn exchange(
        self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        self.exchange_while(connection, method, path, body, async || false).await
    }

    /// The same with an agent that works on what it was sent: once all is sent, it may be silent while it `is_there`, until
    /// its work takes too long.
    pub(crate) async fn exchange_while(
        self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        body: Option<Body>,
        is_there: impl AsyncFn() -> bool,
    ) -> Result<Response<Incoming>, Failure> {
        let (owed, last_write) = (Owed::default(), connection.last_write());
        let body = body.map(|body| owed.watch(body));
        let answer = {
            let mut sending = pin!(connection.send(method, path, body));
            loop {
                let overdue = async {
                    owed.overdue(&last_write, self.silence).await;
                    let worked = owed.over_for();
                    if worked.is_some_and(|worked| worked >= self.work) {
                        return Some(self.never_finished());
                    }
                    let works = worked.is_some() && self.answers(&is_there).await;
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
            connection.break_off();
        }
        answer?.map_err(|error| guest::gone(&error))
    }

    /// Does `work`, in which the guest may be silent while it `is_there`, until it takes too long. What comes from it
    /// meanwhile is `heard`.
    pub(crate) async fn attend<T>(
        self,
        work: impl Future<Output = crate::exit::Result<T>>,
        heard: &[LastWrite],
        is_there: impl AsyncFn() -> bool,
    ) -> crate::exit::Result<T> {
        let mut work = pin!(work);
        let mut since = Instant::now();
        let end = since + self.work;
        loop {
            let last = || heard.iter().map(LastWrite::at).fold(since, Instant::max);
            let begun = last();
            let gone = async {
                sleep_until(begun + self.silence).await;
                // What comes meanwhile is as good as an answer.
                last() == begun && !self.answers(&is_there).await && last() == begun
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

    /// Whether it says that it is there; asked once more when it does not, for one answer may be late.
    async fn answers(self, is_there: &impl AsyncFn() -> bool) -> bool {
        let ask = async || timeout(self.silence / 2, is_there()).await.unwrap_or(false);
        ask().await || {
            sleep(self.silence / 4).await;
            ask().await
        }
    }

    /// All of an answer, up to a limit.
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

    /// The next bytes of an answer; nothing at its end.
    pub(crate) async fn data(self, body: &mut Incoming) -> Option<Result<Bytes, Failure>> {
        loop {
            let Ok(frame) = timeout(self.silence, body.frame()).await else { return Some(Err(self.stalled())) };
            match frame?.map(Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                // Trailers, which mean nothing here.
                Ok(Err(_)) => {}
                Err(error) => return Some(Err(guest::gone(&error))),
            }
        }
    }

    /// What a refusal says, if it says it in time.
    pub(crate) async fn refusal(self, response: Response<Incoming>) -> Failure {
        timeout(self.silence, guest::refusal(response)).await.unwrap_or_else(|_| self.stalled())
    }

    fn never_finished(self) -> Failure {
        let work = self.work.as_secs() / 60;
        Failure::new(Code::Timeout, format!("{} did not finish", guest::WHO))
            .cause(format!("it answers, and was not done after {work} min"))
            .hint("banger vm exec NAME -- ps aux shows what the guest does, banger vm logs NAME its console")
    }

    fn stalled(self) -> Failure {
        let silence = self.silence.as_secs();
        Failure::new(Code::Timeout, format!("{} stands still", guest::WHO))
            .cause(format!("not a byte was sent or taken for {silence} s"))
            .hint("banger vm health NAME asks whether it answers, banger vm logs NAME shows the guest's console")
    }
}

/// Since when the guest owes something; nothing while it is waited for something here.
#[derive(Debug, Clone)]
struct Owed {
    since: Arc<Mutex<Option<Instant>>>,
    /// Since when everything is sent.
    over: Arc<Mutex<Option<Instant>>>,
}

impl Default for Owed {
    fn default() -> Self {
        let now = || Arc::new(Mutex::new(Some(Instant::now())));
        Self { since: now(), over: now() }
    }
}

impl Owed {
    fn set(&self, guest_owes: bool) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = guest_owes.then(Instant::now);
    }

    /// How long everything has been sent, if it is.
    fn over_for(&self) -> Option<Duration> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// The body, watched: whenever a piece of it is taken, the guest is to take the next one, or to answer.
    fn watch(&self, mut body: Body) -> Body {
        let owed = self.clone();
        let set_over = |owed: &Self, over: bool| {
            *owed.over.lock().unwrap_or_else(PoisonError::into_inner) = over.then(Instant::now);
        };
        set_over(&owed, false);
        let frames = futures_util::stream::poll_fn(move |cx| {
            let next = Pin::new(&mut body).poll_frame(cx);
            owed.set(next.is_ready());
            set_over(&owed, matches!(next, Poll::Ready(None)));
            next
        });
        http::Body::new(StreamBody::new(frames))
    }

    /// Done once the guest has owed something for so long and taken nothing either: what it has to take may stand in
    /// buffers on this side.
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

/// For a thread that reads the bytes.
pub(crate) fn into_io_error(failure: Failure) -> io::Error {
    let kind = if failure.code == Code::Timeout { io::ErrorKind::TimedOut } else { io::ErrorKind::UnexpectedEof };
    io::Error::new(kind, failure)
}

#[cfg(test)]
mod tests;
