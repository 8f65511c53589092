//! How long a guest may stand still while bytes go to it or come from it.
//!
//! Only what the guest owes counts: an answer, the next bytes of one, room for the next bytes of ours. A source here that
//! is slow, or a reader, owes nothing; a guest that is slow and gets somewhere may take as long as it takes. One that has
//! everything and works owes an answer to the question whether it is there.

use crate::{
    guest,
    http::{self, Body, Connection, refusal},
    watched::Taken,
};
use banger_proto::{
    agent::http::MAX_BODY,
    failure::{Code, Failure},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Method, Response, body::Body as _, body::Frame, body::Incoming};
use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a guest may owe something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Duration);

/// With a healthy guest in software emulation on a busy host.
pub(crate) const PATIENCE: Patience = Patience(Duration::from_secs(60));

impl Patience {
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

    /// The same with an agent that works on what it was sent: once all is sent, it may be silent for as long as it
    /// `is_there`.
    pub(crate) async fn exchange_while(
        self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        body: Option<Body>,
        is_there: impl AsyncFn() -> bool,
    ) -> Result<Response<Incoming>, Failure> {
        let (turn, taken) = (Turn::default(), connection.taken());
        let body = body.map(|body| turn.watch(body));
        let answer = {
            let mut sending = pin!(connection.send(method, path, body));
            loop {
                let overdue = async {
                    turn.overdue(&taken, self.0).await;
                    turn.is_over() && self.answers(&is_there).await
                };
                tokio::select! {
                    answer = &mut sending => break Some(answer),
                    works = overdue => if !works { break None },
                }
                turn.set(true);
            }
        };
        if answer.is_none() {
            connection.break_off();
        }
        answer.ok_or_else(|| self.stands_still())?.map_err(|error| guest::gone(&error))
    }

    /// Does `work`, in which the guest may be silent for as long as it `is_there`. What comes from it meanwhile is `heard`.
    pub(crate) async fn attend<T>(
        self,
        work: impl Future<Output = crate::exit::Result<T>>,
        heard: &[Taken],
        is_there: impl AsyncFn() -> bool,
    ) -> crate::exit::Result<T> {
        let mut work = pin!(work);
        let mut since = Instant::now();
        loop {
            let last = || heard.iter().map(Taken::last).fold(since, Instant::max);
            let begun = last();
            let gone = async {
                sleep_until(begun + self.0).await;
                // What comes meanwhile is as good as an answer.
                last() == begun && !self.answers(&is_there).await && last() == begun
            };
            tokio::select! {
                done = &mut work => return done,
                gone = gone => if gone { return Err(self.stands_still().into()) },
            }
            if last() == begun {
                since = Instant::now();
            }
        }
    }

    /// Whether it says that it is there; asked once more when it does not, for one answer may be late.
    async fn answers(self, is_there: &impl AsyncFn() -> bool) -> bool {
        let ask = async || timeout(self.0 / 2, is_there()).await.unwrap_or(false);
        ask().await || {
            sleep(self.0 / 4).await;
            ask().await
        }
    }

    /// All of an answer, up to a limit.
    pub(crate) async fn collect(self, mut body: Incoming, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(data) = self.data(&mut body).await {
            let data = data?;
            if bytes.len() + data.len() > limit {
                return Err(http::too_much(guest::WHO, limit));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// The next bytes of an answer; nothing at its end.
    pub(crate) async fn data(self, body: &mut Incoming) -> Option<Result<Bytes, Failure>> {
        loop {
            let Ok(frame) = timeout(self.0, body.frame()).await else { return Some(Err(self.stands_still())) };
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
        timeout(self.0, refusal(response, MAX_BODY, guest::WHO)).await.unwrap_or_else(|_| self.stands_still())
    }

    fn stands_still(self) -> Failure {
        let silence = self.0.as_secs();
        Failure::new(Code::Timeout, format!("{} stands still", guest::WHO))
            .cause(format!("not a byte was sent or taken for {silence} s"))
            .hint("banger vm health NAME asks whether it answers, banger vm logs NAME shows the guest's console")
    }
}

/// Since when the guest owes something; nothing while it is waited for something here.
#[derive(Debug, Clone)]
struct Turn {
    since: Arc<Mutex<Option<Instant>>>,
    /// Everything was sent.
    over: Arc<AtomicBool>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { since: Arc::new(Mutex::new(Some(Instant::now()))), over: Arc::new(AtomicBool::new(true)) }
    }
}

impl Turn {
    fn set(&self, guest_owes: bool) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = guest_owes.then(Instant::now);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The body, watched: whenever a piece of it is taken, the guest is to take the next one, or to answer.
    fn watch(&self, mut body: Body) -> Body {
        let turn = self.clone();
        turn.over.store(false, Ordering::Relaxed);
        let frames = futures_util::stream::poll_fn(move |cx| {
            let next = Pin::new(&mut body).poll_frame(cx);
            turn.set(next.is_ready());
            turn.over.store(matches!(next, Poll::Ready(None)), Ordering::Relaxed);
            next
        });
        http::Body::new(StreamBody::new(frames))
    }

    /// Done once the guest has owed something for so long and taken nothing either: what it has to take may stand in
    /// buffers on this side.
    async fn overdue(&self, taken: &Taken, patience: Duration) {
        loop {
            let owes = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let since = owes.map_or_else(Instant::now, |owes| owes.max(taken.last()));
            if since.elapsed() >= patience {
                return;
            }
            sleep_until(since + patience).await;
        }
    }
}

/// For a thread that reads the bytes.
pub(crate) fn for_a_reader(failure: Failure) -> io::Error {
    let kind = if failure.code == Code::Timeout { io::ErrorKind::TimedOut } else { io::ErrorKind::UnexpectedEof };
    io::Error::new(kind, failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::Watched;
    use std::sync::atomic::AtomicUsize;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        sync::Notify,
    };

    const SHORT: Patience = Patience(Duration::from_secs(2));
    /// Pauses of a guest that is slow: each shorter than the patience, together longer.
    const PAUSES: (u32, Duration) = (8, Duration::from_millis(400));

    async fn connection() -> (Connection, DuplexStream) {
        let (ours, guest) = duplex(1 << 10);
        (Connection::open(ours, Vec::new()).await.unwrap(), guest)
    }

    async fn head(guest: &mut DuplexStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(guest.read_u8().await.unwrap());
        }
    }

    fn pieces(count: usize) -> Body {
        let pieces = (0..count).map(|_| Ok::<_, io::Error>(Frame::data(Bytes::from_static(&[b'x'; 4096]))));
        http::Body::new(StreamBody::new(futures_util::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn a_guest_that_does_not_answer_or_take_anything_is_given_up() {
        for body in [None, Some(pieces(1)), Some(pieces(1000))] {
            let (mut connection, _guest) = connection().await;
            let failure = SHORT.exchange(&mut connection, Method::PUT, "/", body).await.unwrap_err();
            assert_eq!(failure.code, Code::Timeout, "{failure}");
        }
    }

    #[tokio::test]
    async fn a_head_that_drips_is_no_answer() {
        let (mut connection, mut guest) = connection().await;
        tokio::spawn(async move {
            head(&mut guest).await;
            guest.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
            while guest.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let failure = SHORT.exchange(&mut connection, Method::GET, "/", None).await.unwrap_err();
        assert_eq!(failure.code, Code::Timeout, "{failure}");
    }

    #[tokio::test]
    async fn a_guest_that_is_slow_may_take_its_time_both_ways() {
        let (mut connection, mut guest) = connection().await;
        let (count, pause) = PAUSES;
        tokio::spawn(async move {
            head(&mut guest).await;
            let mut taken = [0; 4096];
            for _ in 0..count {
                guest.read_exact(&mut taken).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            guest.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
            for _ in 0..count {
                guest.write_all(b"x").await.unwrap();
                tokio::time::sleep(pause).await;
            }
        });
        let body = Some(pieces(count as usize));
        let response = SHORT.exchange(&mut connection, Method::PUT, "/", body).await.unwrap();
        let (mut body, mut got) = (response.into_body(), 0);
        while let Some(data) = SHORT.data(&mut body).await {
            got += data.unwrap().len();
        }
        assert_eq!(got, count as usize);
    }

    /// It took everything and works: it is asked whether it is there, and given up when it does not say so.
    #[tokio::test]
    async fn a_guest_that_works_may_be_silent_while_it_is_there() {
        for (times, answers) in [(3, true), (0, false)] {
            let (mut connection, mut guest) = connection().await;
            let asked = AtomicUsize::new(0);
            let enough = Notify::new();
            let works = async {
                head(&mut guest).await;
                // Three chunks and the end.
                guest.read_exact(&mut vec![0; 3 * 4096 + 3 * 8 + 5]).await.unwrap();
                enough.notified().await;
                guest.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                std::future::pending::<()>().await;
            };
            let is_there = async || {
                let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
                if asked == times {
                    enough.notify_one();
                }
                asked <= times
            };
            let exchange = SHORT.exchange_while(&mut connection, Method::PUT, "/", Some(pieces(3)), is_there);
            let answer = tokio::select! { answer = exchange => answer, () = works => unreachable!() };
            assert_eq!(
                answer.map(|answer| answer.status().is_success()).map_err(|it| it.code).ok(),
                answers.then_some(true)
            );
        }
    }

    /// What it does not take is owed, however well it answers besides.
    #[tokio::test]
    async fn a_guest_that_takes_nothing_is_not_asked() {
        let (mut connection, _guest) = connection().await;
        let asked = async || panic!("asked");
        let exchange = SHORT.exchange_while(&mut connection, Method::PUT, "/", Some(pieces(1000)), asked);
        assert_eq!(exchange.await.unwrap_err().code, Code::Timeout);
    }

    #[tokio::test]
    async fn work_ends_when_the_guest_is_gone() {
        let asked = AtomicUsize::new(0);
        let is_there = async || asked.fetch_add(1, Ordering::Relaxed) < 2;
        let nothing = SHORT.attend(std::future::pending::<crate::exit::Result<()>>(), &[], is_there);
        assert!(nothing.await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        let done = SHORT.attend(async { Ok(1) }, &[], async || false).await;
        assert_eq!(done.ok(), Some(1));
    }

    #[tokio::test]
    async fn one_answer_that_is_missed_ends_no_work() {
        let (asked, enough) = (AtomicUsize::new(0), Notify::new());
        let every_other = async || {
            let asked = asked.fetch_add(1, Ordering::Relaxed);
            if asked == 3 {
                enough.notify_one();
            }
            if asked == 0 { std::future::pending().await } else { asked % 2 == 1 }
        };
        let work = async {
            enough.notified().await;
            Ok(1)
        };
        assert_eq!(SHORT.attend(work, &[], every_other).await.ok(), Some(1));
    }

    #[tokio::test]
    async fn a_guest_that_is_heard_is_not_asked() {
        let mut sink = Watched::new(tokio::io::sink());
        let (heard, (count, pause)) = (sink.taken(), PAUSES);
        let work = async {
            for _ in 0..count {
                sink.write_all(b"x").await.unwrap();
                tokio::time::sleep(pause).await;
            }
            Ok(1)
        };
        assert_eq!(SHORT.attend(work, &[heard], async || panic!("asked")).await.ok(), Some(1));
    }

    #[tokio::test]
    async fn an_answer_that_stops_in_its_middle_is_given_up() {
        let (mut connection, mut guest) = connection().await;
        let silent = tokio::spawn(async move {
            head(&mut guest).await;
            guest.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
            guest
        });
        let response = SHORT.exchange(&mut connection, Method::GET, "/", None).await.unwrap();
        let _guest = silent.await.unwrap();
        let mut body = response.into_body();
        assert_eq!(SHORT.data(&mut body).await.unwrap().unwrap(), "half");
        assert_eq!(SHORT.data(&mut body).await.unwrap().unwrap_err().code, Code::Timeout);
    }

    #[tokio::test]
    async fn a_source_here_that_is_slow_is_not_the_guests_fault() {
        let (mut connection, mut guest) = connection().await;
        tokio::spawn(async move {
            head(&mut guest).await;
            let mut taken = [0; 1];
            while guest.read_exact(&mut taken).await.is_ok() && taken[0] != b'!' {}
            // The end of the chunk and of the body.
            let mut rest = [0; 7];
            guest.read_exact(&mut rest).await.unwrap();
            guest.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        });
        let late = futures_util::stream::once(async {
            tokio::time::sleep(SHORT.0 * 2).await;
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"!")))
        });
        let body = http::Body::new(StreamBody::new(Box::pin(late)));
        let response = SHORT.exchange(&mut connection, Method::PUT, "/", Some(body)).await.unwrap();
        assert!(response.status().is_success());
    }
}
