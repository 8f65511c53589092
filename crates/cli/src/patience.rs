//! How long a guest may stand still while bytes go to it or come from it.
//!
//! Only what the guest owes counts: an answer, the next bytes of one, room for the next bytes of ours. A source here that
//! is slow, or a reader, owes nothing; a guest that is slow and gets somewhere may take as long as it takes.

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
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until, timeout};

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
        let (turn, taken) = (Turn::default(), connection.taken());
        let body = body.map(|body| turn.watch(body));
        let answer = {
            let sending = pin!(connection.send(method, path, body));
            tokio::select! {
                answer = sending => Some(answer),
                () = turn.overdue(&taken, self.0) => None,
            }
        };
        if answer.is_none() {
            connection.break_off();
        }
        answer.ok_or_else(|| self.stands_still())?.map_err(|error| guest::gone(&error))
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
struct Turn(Arc<Mutex<Option<Instant>>>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }
}

impl Turn {
    fn set(&self, guest_owes: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = guest_owes.then(Instant::now);
    }

    /// The body, watched: whenever a piece of it is taken, the guest is to take the next one, or to answer.
    fn watch(&self, mut body: Body) -> Body {
        let turn = self.clone();
        let frames = futures_util::stream::poll_fn(move |cx| {
            let next = Pin::new(&mut body).poll_frame(cx);
            turn.set(next.is_ready());
            next
        });
        http::Body::new(StreamBody::new(frames))
    }

    /// Done once the guest has owed something for so long and taken nothing either: what it has to take may stand in
    /// buffers on this side.
    async fn overdue(&self, taken: &Taken, patience: Duration) {
        loop {
            let owes = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

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
