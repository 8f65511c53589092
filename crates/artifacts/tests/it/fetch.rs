//! Tests of downloads from servers of every kind.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::web::{Server, ok, redirect};
use banger_artifacts::{
    fetch::{Address, BodyLength, Client, FetchError, Received, Request, Trust},
    job::{Cancel, Job, Silent},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Client with short timeouts, so that no test waits for long, yet long enough for a busy machine.
fn client() -> Client {
    let twenty = Duration::from_secs(20);
    Client { connect: twenty, stall: twenty, pauses: vec![Duration::ZERO; 3], ..Client::default() }
}

fn impatient() -> Client {
    Client { stall: Duration::from_millis(300), ..client() }
}

fn fetch_with(client: &Client, server: &Server, extent: BodyLength) -> Result<(Vec<u8>, Received), FetchError> {
    let cancel = Cancel::default();
    let job = Job { progress: &Silent, cancel: &cancel };
    let address: Address = server.url("/file").parse().unwrap();
    let mut body = client.open(&address, extent, &job)?;
    let mut bytes = Vec::new();
    let read = body.read_to_end(&mut bytes);
    let received = body.finish();
    assert_eq!(read.is_ok(), received.is_ok(), "{read:?} {received:?}");
    received.map(|received| (bytes, received))
}

fn fetch(server: &Server, extent: BodyLength) -> Result<(Vec<u8>, Received), FetchError> {
    fetch_with(&client(), server, extent)
}

#[test]
fn bodies_of_every_framing_arrive_with_their_hash() {
    let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in content.chunks(77_777) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let until_close = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &content[..]].concat();
    for answer in [ok(&content), chunked, until_close] {
        let server = Server::raw(answer);
        let length = content.len() as u64;
        for extent in [BodyLength::Exactly(length), BodyLength::UpTo(length), BodyLength::UpTo(u64::MAX)] {
            let (bytes, received) = fetch(&server, extent).unwrap();
            assert!(bytes == content);
            assert_eq!(received.length, length);
            assert_eq!(received.sha256, super::sha256(&content));
        }
        assert_eq!(server.hits(), 3);
        let head = &server.heads()[0].to_lowercase();
        assert!(head.starts_with("get /file http/1.1\r\n") && head.contains("user-agent: banger/"), "{head}");
        assert!(head.contains("accept-encoding: identity"), "{head}");
        assert!(!head.contains("authorization") && !head.contains("cookie"), "{head}");
    }
    let server = Server::serving("");
    assert_eq!(fetch(&server, BodyLength::Exactly(0)).unwrap().1.length, 0);
}

#[test]
fn a_body_ends_where_it_was_announced() {
    let until_close = |body: &str| Server::raw(format!("HTTP/1.1 200 OK\r\n\r\n{body}"));
    let text = |result: Result<(Vec<u8>, Received), FetchError>| result.unwrap_err().to_string();
    let error = text(fetch(&Server::serving("12345"), BodyLength::Exactly(4)));
    assert_eq!(error, "the server announces 5 bytes, and not 4");
    assert_eq!(text(fetch(&Server::serving("12345"), BodyLength::UpTo(4))), "there are more than 4 bytes");
    assert_eq!(text(fetch(&until_close("12345"), BodyLength::Exactly(4))), "there are more than 4 bytes");
    assert_eq!(text(fetch(&until_close("12345"), BodyLength::UpTo(4))), "there are more than 4 bytes");
    let error = text(fetch(&until_close("12345"), BodyLength::Exactly(6)));
    assert_eq!(error, "the server stopped after 5 of 6 bytes");
    let cut = Server::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345");
    assert_eq!(text(fetch(&cut, BodyLength::UpTo(9))), "the server stopped after 5 of 9 bytes");
    let cut = Server::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n");
    assert!(text(fetch(&cut, BodyLength::UpTo(9))).contains("after 5"), "a chunked body without its end");
    // What comes after the announced length does not belong to the body.
    let more = Server::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345and more");
    assert_eq!(fetch(&more, BodyLength::Exactly(5)).unwrap().0, b"12345");
}

#[test]
fn a_refusal_is_told_with_the_beginning_of_its_page() {
    let page = format!("<h1>\u{1b}[31mno\u{7}</h1>\n\n  gone {}", "x".repeat(100_000));
    let server = Server::raw(format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{page}", page.len()));
    let error = fetch(&server, BodyLength::UpTo(10)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/file answers 404 Not Found: \"<h1>\\u{1b}[31mno\\u{7}</h1> gone xxx"), "{text}");
    assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    for status in ["500 Oops", "206 Partial Content", "204 No Content", "304 Not Modified", "300 Multiple Choices"] {
        let server = Server::raw(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n"));
        let error = fetch(&server, BodyLength::UpTo(10)).unwrap_err();
        assert!(matches!(error, FetchError::Status { .. }), "{status}: {error:?}");
        assert_eq!(server.hits(), 1, "{status}: a refusal is not asked for again");
    }
    for answer in ["nonsense\r\n\r\n", "HTTP/1.1 banana\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"] {
        let error = fetch(&Server::raw(answer), BodyLength::UpTo(10)).unwrap_err();
        assert!(matches!(error, FetchError::Protocol { .. }), "{answer}: {error:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-Header: and another\r\n".repeat(100_000));
    let error = fetch(&Server::raw(endless), BodyLength::UpTo(10)).unwrap_err();
    assert!(matches!(error, FetchError::Protocol { .. }), "{error:?}");
}

#[test]
fn redirects_are_few_and_stay_where_it_is_safe() {
    let server = Server::start(|mut request| {
        let answer = match request.path.as_str() {
            "/file" => redirect("/b"),
            "/b" => redirect("c?d"),
            _ => ok(b"here"),
        };
        request.stream.write_all(&answer)
    });
    assert_eq!(fetch(&server, BodyLength::Exactly(4)).unwrap().0, b"here");
    assert_eq!(server.hits(), 3);
    let turning = Server::raw(redirect("/file"));
    let error = fetch(&turning, BodyLength::UpTo(4)).unwrap_err();
    assert!(matches!(error, FetchError::Redirects { .. }), "{error:?}");
    assert_eq!(turning.hits(), 6);
    for location in ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "\u{1}"]
    {
        let server = Server::raw(redirect(location));
        let error = fetch(&server, BodyLength::UpTo(4)).unwrap_err();
        let refused = matches!(error, FetchError::Redirect { .. } | FetchError::Protocol { .. });
        assert!(refused && server.hits() == 1, "{location}: {error:?}");
    }
    let nowhere = Server::raw("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n");
    let error = fetch(&nowhere, BodyLength::UpTo(4)).unwrap_err();
    assert!(matches!(error, FetchError::Status { .. }), "{error:?}");
    // An endless page beside the redirect is not read.
    let chatty = Server::start(|mut request| match request.path.as_str() {
        "/file" => {
            request.stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n")?;
            loop {
                request.stream.write_all(&[b'x'; 4096])?;
            }
        }
        _ => request.stream.write_all(&ok(b"here")),
    });
    assert_eq!(fetch(&chatty, BodyLength::Exactly(4)).unwrap().0, b"here");
}

#[test]
fn connecting_is_tried_four_times_and_nothing_else_is() {
    let hanging_up = Server::start(|_| Ok(()));
    let error = fetch(&hanging_up, BodyLength::UpTo(4)).unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error:?}");
    assert_eq!(hanging_up.hits(), 4);
    let shy = Server::start(|mut request| match request.number {
        0..3 => Ok(()),
        _ => request.stream.write_all(&ok(b"here")),
    });
    assert_eq!(fetch(&shy, BodyLength::Exactly(4)).unwrap().0, b"here");
    let port = hanging_up.port();
    drop(hanging_up);
    let cancel = Cancel::default();
    let job = Job { progress: &Silent, cancel: &cancel };
    let gone: Address = format!("http://127.0.0.1:{port}/x").parse().unwrap();
    let error = client().open(&gone, BodyLength::UpTo(4), &job).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to 127.0.0.1:{port}"));
    // Whoever does not speak TLS is not asked again either.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = format!("https://{}/x", plain.local_addr().unwrap()).parse().unwrap();
    let answering = thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(&ok(b"not TLS")).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = client().open(&address, BodyLength::UpTo(4), &job).unwrap_err();
    match error {
        // Then nobody was asked at all.
        FetchError::NoCertificates => drop(answering),
        error => {
            assert!(matches!(error, FetchError::PlainText { .. }), "{error:?}");
            answering.join().unwrap();
        }
    }
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let silent = Server::start(|mut request| request.stall());
    let halfway = Server::start(|mut request| {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nsome")?;
        request.stall()
    });
    let in_its_head = Server::start(|mut request| {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-")?;
        request.stall()
    });
    for server in [silent, halfway, in_its_head] {
        let error = fetch_with(&impatient(), &server, BodyLength::UpTo(100_000)).unwrap_err();
        // What came before the silence counts in the stretch it came in.
        assert!(matches!(error, FetchError::Stalled { .. } | FetchError::Slow { came: 4, .. }), "{error:?}");
        assert_eq!(server.hits(), 1);
    }
}

#[test]
fn a_server_that_never_gets_to_its_answer_is_left() {
    for piece in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"] {
        let early = Server::start(move |mut request| {
            loop {
                request.stream.write_all(piece.as_bytes())?;
            }
        });
        let error = fetch_with(&impatient(), &early, BodyLength::UpTo(10)).unwrap_err();
        let ended = matches!(error, FetchError::Stalled { .. } | FetchError::Protocol { .. } | FetchError::Status(_));
        assert!(ended, "{piece}: {error:?}");
    }
    // What frames a body is none of it.
    let framing = Server::start(|mut request| {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")?;
        loop {
            request.stream.write_all(&[b'x'; 4096])?;
        }
    });
    let error = fetch_with(&impatient(), &framing, BodyLength::UpTo(10)).unwrap_err();
    assert!(matches!(error, FetchError::Stalled { .. } | FetchError::Broken { .. }), "{error:?}");
}

#[test]
fn a_server_that_drips_is_left() {
    // Always something, never enough: slower and faster than anybody looks, and much at once but seldom.
    for (bytes, pause) in [(1, 40), (1, 2), (2000, 50)] {
        let dripping = Server::start(move |mut request| {
            request.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
            loop {
                request.stream.write_all(&vec![b'x'; bytes])?;
                thread::sleep(Duration::from_millis(pause));
            }
        });
        // 40,000 bytes a second at the most are sent, on a slow machine fewer.
        let client = Client { min_rate: 100_000, ..impatient() };
        let error = fetch_with(&client, &dripping, BodyLength::UpTo(100_000_000)).unwrap_err();
        let least = if let FetchError::Slow { least, .. } = &error { *least } else { 0 };
        // A machine so busy that nothing at all was sent in a stretch has seen a stall.
        assert!(least == 100_000 || matches!(error, FetchError::Stalled { .. }), "{error:?}");
        assert_eq!(dripping.hits(), 1);
    }
}

#[test]
fn an_error_page_that_drips_is_not_waited_for() {
    // Whole pages have no more than is read of one; of these, neither the length nor the framing ever comes to an end.
    for framing in ["Content-Length: 512\r\n\r\ngone ", "Transfer-Encoding: chunked\r\n\r\n5\r\ngone \r\n"] {
        for status in ["404 Not Found", "401 Unauthorized", "503 Service Unavailable"] {
            let sent = Arc::new(AtomicUsize::new(0));
            let counted = sent.clone();
            let head = format!("HTTP/1.1 {status}\r\nWWW-Authenticate: Basic\r\nRetry-After: 7\r\n{framing}");
            let dripping = Server::start(move |mut request| {
                request.stream.write_all(head.as_bytes())?;
                loop {
                    thread::sleep(Duration::from_millis(50));
                    request.stream.write_all(b"0")?;
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
            let error = fetch_with(&impatient(), &dripping, BodyLength::UpTo(10)).unwrap_err();
            let FetchError::Status(refused) = &error else { panic!("{error:?}") };
            assert_eq!((refused.status.as_str(), refused.challenges.as_slice()), (status, &["Basic".to_owned()][..]));
            assert_eq!(refused.retry_after, Some(Duration::from_secs(7)));
            // What came of it is told.
            assert!(refused.excerpt.starts_with("gone"), "{error}");
            assert!(sent.load(Ordering::SeqCst) < 500, "{status}: the page came to its end before");
            assert_eq!(dripping.hits(), 1);
        }
    }
}

#[test]
fn a_download_can_be_cancelled_at_any_time() {
    let heads: [&[u8]; 3] =
        [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nsome"];
    for head in heads {
        let (arrived, arrival) = mpsc::channel();
        let (left, leaving) = mpsc::channel();
        let server = Server::start(move |mut request| {
            request.stream.write_all(head)?;
            arrived.send(()).unwrap();
            let stalled = request.stall();
            left.send(()).unwrap();
            stalled
        });
        let cancel = Cancel::default();
        let address: Address = server.url("/").parse().unwrap();
        thread::scope(|scope| {
            let job = Job { progress: &Silent, cancel: &cancel };
            let fetching = scope.spawn(move || client().read(&address, 100_000, &job));
            arrival.recv_timeout(Duration::from_secs(60)).expect("the request arrives");
            cancel.cancel();
            let error = fetching.join().unwrap().unwrap_err();
            assert!(matches!(error, FetchError::Cancelled(_)), "{error:?}");
        });
        leaving.recv_timeout(Duration::from_secs(60)).expect("the connection is closed, long before the time-out");
    }
}

#[test]
fn small_things_are_read_whole() {
    let cancel = Cancel::default();
    let job = Job { progress: &Silent, cancel: &cancel };
    let server = Server::serving("a catalog");
    let address: Address = server.url("/").parse().unwrap();
    assert_eq!(client().read(&address, 9, &job).unwrap(), b"a catalog");
    assert!(matches!(client().read(&address, 8, &job), Err(FetchError::TooLarge(8))));
}

/// Not a test by itself: child process that downloads with the certificates its parent gave it.
#[test]
fn https_child() {
    let Ok(url) = std::env::var("BANGER_TEST_URL") else { return };
    let (address, cancel): (Address, _) = (url.parse().unwrap(), Cancel::default());
    let result = client().read(&address, 1 << 20, &Job { progress: &Silent, cancel: &cancel });
    let said = match result {
        Ok(bytes) => format!("got {}", super::sha256(&bytes)),
        Err(error) => format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    };
    std::fs::write(std::env::var("BANGER_TEST_SAYS").unwrap(), said).unwrap();
}

#[test]
fn https_believes_whom_the_host_believes() {
    if !banger_testkit::require("openssl") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let openssl = |line: &str| {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(temp.path()).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ours", "theirs"] {
        openssl(&format!("req -x509 {key} -keyout {authority}.key -out {authority}.pem -days 2 -subj /CN={authority}"));
    }
    std::fs::write(temp.path().join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    openssl(
        "x509 -req -in server.csr -CA ours.pem -CAkey ours.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(temp.path().join("file"), &content).unwrap();
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key", "server.key", "-WWW"])
        .current_dir(temp.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = lines.into_iter().find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse::<u16>().ok());
    let port = port.expect("the server says where it listens");
    let said = |authority: &str, host: &str| {
        let says = temp.path().join("says");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fetch::https_child"])
            .env("BANGER_TEST_URL", format!("https://{host}:{port}/file"))
            .env("BANGER_TEST_SAYS", &says)
            .env("SSL_CERT_FILE", temp.path().join(authority))
            // A proxy has no part in what is asked of this host.
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env_remove("NO_PROXY")
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        std::fs::read_to_string(says).unwrap()
    };
    // An authority somebody named for one host is believed about that host, and not about the next.
    let trust = Trust::of_host(&[temp.path().join("ours.pem")]);
    let leads = Server::raw(redirect(&format!("https://localhost:{port}/file")));
    let through = |host: &str| {
        let address = leads.url("/").replace("127.0.0.1", host).parse().unwrap();
        let (request, cancel) = (Request::new(address).trust(Some(trust.clone())), Cancel::default());
        let body = client().ask(&request, BodyLength::UpTo(1 << 20), &Job { progress: &Silent, cancel: &cancel });
        body.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!([through("localhost"), through("127.0.0.1")], [Ok(()), Err(format!("cannot trust localhost:{port}"))]);
    let outcomes = [said("ours.pem", "localhost"), said("theirs.pem", "localhost"), said("ours.pem", "127.0.0.1")];
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(outcomes[0], format!("got {}", super::sha256(&content)));
    assert!(
        outcomes[1].starts_with("cannot trust localhost") && outcomes[1].contains("signed by no authority"),
        "{}",
        outcomes[1]
    );
    assert!(outcomes[2].starts_with("cannot trust 127.0.0.1"), "another name than the certificate's: {}", outcomes[2]);
}
