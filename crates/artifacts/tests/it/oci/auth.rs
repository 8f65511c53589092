//! Tests of registries that require authentication.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    interrupted::noise,
    layers::Layer,
    registry::{Content, Host, reference},
};
use crate::{ext4::Image, web::Server};
use banger_artifacts::job::Progress;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

fn header(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Answers requests with the credentials `wanted`; others get `challenge`.
fn guarded(
    wanted: &'static str,
    challenge: impl Fn(u16) -> String + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Option<u16>>>) {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let port = Arc::new(Mutex::new(None));
    let known = port.clone();
    let server = Server::start_with_heads(move |mut request, head| {
        if header(&head, "authorization").as_deref() == Some(wanted) {
            return content.answer(request);
        }
        let port = known.lock().unwrap().unwrap_or_default();
        let challenge = challenge(port);
        let answer = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
        request.stream.write_all(answer.as_bytes())
    });
    *port.lock().unwrap() = Some(server.port());
    (server, port)
}

fn login(host: &Host, server: &Server, entry: &serde_json::Value) {
    let file = json!({"auths": {format!("127.0.0.1:{}", server.port()): entry}});
    std::fs::write(host.dir.path().join("auth.json"), file.to_string()).unwrap();
}

#[test]
fn a_name_and_a_password() {
    let (server, _) = guarded("Basic bWU6cHc=", |_| "Basic realm=\"r\"".into());
    let host = Host::new();
    let refusal = host.refusal(&reference(&server, "v1"));
    assert!(refusal.contains("to strangers"), "{refusal}");
    login(&host, &server, &json!({"auth": STANDARD.encode("me:wrong")}));
    let refusal = host.refusal(&reference(&server, "v1"));
    assert!(refusal.contains("these credentials"), "{refusal}");
    assert!(!refusal.contains("wrong"), "{refusal}");
    login(&host, &server, &json!({"auth": STANDARD.encode("me:pw")}));
    host.image(&reference(&server, "v1"));
}

/// Token service that gives `TOKEN` for the credentials `wanted`.
fn tokens(wanted: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Server {
    Server::start_with_heads(move |mut request, head| {
        let body = if head.starts_with("POST") {
            let length: usize = header(&head, "content-length").unwrap().parse().unwrap();
            let mut body = vec![0; length];
            std::io::Read::read_exact(&mut request.stream, &mut body)?;
            String::from_utf8(body).unwrap()
        } else {
            String::new()
        };
        if wanted(&head, &body) {
            request.stream.write_all(&crate::web::ok(br#"{"access_token":"TOKEN","expires_in":60}"#))
        } else {
            request.stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        }
    })
}

#[test]
fn a_token_for_strangers_for_those_with_a_password_and_for_those_with_an_identity() {
    let asks_for_this = |text: &str| text.contains("scope=repository%3Aapp%3Apull") && text.contains("service=reg");
    let stranger = tokens(move |head, _| asks_for_this(head) && header(head, "authorization").is_none());
    let known = tokens(move |head, _| {
        asks_for_this(head) && header(head, "authorization").as_deref() == Some("Basic bWU6cHc=")
    });
    let identity = tokens(move |head, body| {
        head.starts_with("POST")
            && asks_for_this(body)
            && body.contains("grant_type=refresh_token&")
            && body.contains("refresh_token=ID%2F1")
    });
    for (service, entry) in [
        (stranger, None),
        (known, Some(json!({"auth": STANDARD.encode("me:pw")}))),
        (identity, Some(json!({"identitytoken": "ID/1"}))),
    ] {
        let realm = service.url("/token");
        let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\",service=\"reg\""));
        let host = Host::new();
        if let Some(entry) = entry {
            login(&host, &server, &entry);
        }
        host.image(&reference(&server, "v1"));
        assert_eq!(service.hits(), 1, "one token for the whole pull");
    }
}

#[test]
fn a_token_is_preferred_wherever_among_the_challenges_it_is_offered() {
    let others = ["Basic realm=\"a, b\"", "Negotiate YWJj==", "Digest realm=\"Gr\u{f6}\u{df}e\", nonce=\"a,b\""];
    for field in [0, 1, 2, 3] {
        let service = Server::serving(br#"{"token":"TOKEN"}"#);
        let token = format!("Bearer realm=\"{}\",service=\"reg\"", service.url("/token"));
        let mut challenges = others.map(str::to_owned).to_vec();
        challenges.insert(field, token);
        let (one, several) = (challenges.join(", "), challenges.join("\r\nWWW-Authenticate: "));
        for challenge in [one, several] {
            let (server, _) = guarded("Bearer TOKEN", move |_| challenge.clone());
            Host::new().image(&reference(&server, "v1"));
        }
        assert_eq!(service.hits(), 2);
    }
    let (server, _) = guarded("Basic bWU6cHc=", move |_| others.join(", "));
    let host = Host::new();
    login(&host, &server, &json!({"auth": STANDARD.encode("me:pw")}));
    host.image(&reference(&server, "v1"));
}

#[test]
fn who_is_refused_without_a_challenge_is_denied() {
    let server = Server::raw("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("does not give app:v1 to strangers"), "{refusal}");
}

#[test]
fn a_token_that_expires_in_the_middle_of_a_layer_is_asked_for_again() {
    let content = Content::default();
    let plain = Layer::new().file("noise", noise(900_000)).done();
    content.plain("v1", std::slice::from_ref(&plain));
    let given = Arc::new(AtomicUsize::new(0));
    let number = given.clone();
    let service = Server::start(move |mut request| {
        let token = format!(r#"{{"token":"T{}"}}"#, number.fetch_add(1, Ordering::SeqCst));
        request.stream.write_all(&crate::web::ok(token.as_bytes()))
    });
    let realm = service.url("/token");
    let begun = AtomicBool::new(false);
    let server = Server::start_with_heads(move |mut request, head| {
        // The first is good until half of the layer has come.
        let good = if begun.load(Ordering::SeqCst) { "Bearer T1" } else { "Bearer T0" };
        if header(&head, "authorization").as_deref() != Some(good) {
            let answer = format!(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\"\r\nContent-Length: 0\r\n\r\n"
            );
            return request.stream.write_all(answer.as_bytes());
        }
        if !content.is_layer(&request.path) {
            return content.answer(request);
        }
        let half = plain.len() / 2;
        if begun.swap(true, Ordering::SeqCst) {
            let range = format!("bytes {half}-{}/{}", plain.len() - 1, plain.len());
            let length = plain.len() - half;
            let head = format!("HTTP/1.1 206 X\r\nContent-Range: {range}\r\nContent-Length: {length}\r\n\r\n");
            request.stream.write_all(head.as_bytes())?;
            return request.stream.write_all(&plain[half..]);
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", plain.len());
        request.stream.write_all(head.as_bytes())?;
        request.stream.write_all(&plain[..half])
    });
    let host = Host::new();
    let image = host.image(&reference(&server, "v1"));
    assert_eq!(Image::open(&image.rootfs).read("/noise"), noise(900_000));
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

#[test]
fn words_that_never_end_hold_up_nobody_who_can_say_who_they_are() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let heard_out = Arc::new(AtomicBool::new(false));
    let ended = heard_out.clone();
    let server = Server::start_with_heads(move |mut request, head| {
        if header(&head, "authorization").is_some() {
            return content.answer(request);
        }
        request
            .stream
            .write_all(b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 512\r\n\r\n")?;
        for _ in 0..500 {
            request.stream.write_all(b"x")?;
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        ended.store(true, Ordering::SeqCst);
        Ok(())
    });
    let mut host = Host::new();
    host.registries.client.stall = std::time::Duration::from_millis(500);
    login(&host, &server, &json!({"auth": STANDARD.encode("me:pw")}));
    host.image(&reference(&server, "v1"));
    assert!(!heard_out.load(Ordering::SeqCst));
}

#[test]
fn a_token_service_that_stumbles_is_asked_again() {
    let asked = AtomicUsize::new(0);
    let service = Server::start(move |mut request| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => request.stream.write_all(b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"),
        // A connection that breaks before there is an answer.
        1 => Ok(()),
        _ => request.stream.write_all(&crate::web::ok(br#"{"token":"TOKEN"}"#)),
    });
    let realm = service.url("/token");
    let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\""));
    Host::new().image(&reference(&server, "v1"));
    assert_eq!(service.hits(), 3);
    // What it does not give is not asked for again.
    let service = tokens(|_, _| false);
    let realm = service.url("/token");
    let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\""));
    Host::new().refusal(&reference(&server, "v1"));
    assert_eq!(service.hits(), 1);
}

#[test]
fn a_service_that_gives_no_token_is_named() {
    let service = tokens(|_, _| false);
    let realm = service.url("/token");
    let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\""));
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains(&format!("127.0.0.1:{} gave no token", service.port())), "{refusal}");
    // What it does not give to who asks is denied by the registry, whose login it is.
    let tokenless = |host: &Host, said: &str| {
        let service = tokens(|_, _| false);
        let realm = service.url("/token");
        let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\""));
        if said == "these credentials" {
            login(host, &server, &json!({"auth": STANDARD.encode("me:wrong")}));
        }
        let refusal = host.refusal(&reference(&server, "v1"));
        let denied = format!("127.0.0.1:{} does not give app:v1 to {said}: ", server.port());
        assert!(refusal.contains(&denied) && !refusal.contains("wrong"), "{refusal}");
        assert!(refusal.contains(&format!("127.0.0.1:{} gave no token", service.port())), "{refusal}");
    };
    tokenless(&Host::new(), "strangers");
    tokenless(&Host::new(), "these credentials");
    // What it cannot do now is nobody's fault.
    let service = Server::raw("HTTP/1.1 501 X\r\nContent-Length: 0\r\n\r\n");
    let realm = service.url("/token");
    let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\""));
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(!refusal.contains("does not give"), "{refusal}");
    // An identity that expired is a bad request, and one to who wants a password is none.
    let service = Server::raw("HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n");
    let realm = service.url("/token");
    for challenge in [format!("Bearer realm=\"{realm}\""), "Basic realm=\"r\"".to_owned()] {
        let (server, _) = guarded("Bearer TOKEN", move |_| challenge.clone());
        let host = Host::new();
        login(&host, &server, &json!({"identitytoken": "ID"}));
        let refusal = host.refusal(&reference(&server, "v1"));
        assert!(refusal.contains("does not give app:v1 to these credentials"), "{refusal}");
    }
    // Plain text to somewhere else is not an address a password goes to.
    let (server, _) = guarded("Bearer TOKEN", |_| "Bearer realm=\"http://tokens.example.org/\"".into());
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("http://tokens.example.org/\" is not used"), "{refusal}");
    let (server, _) = guarded("x", |_| "Negotiate".into());
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("does not know: \"Negotiate\""), "{refusal}");
}

/// Creates the file a helper waits for once the pull's progress mentions the helper.
struct Go(std::path::PathBuf);

impl Progress for Go {
    fn phase(&self, _what: &str) {}
    fn advance(&self, _done: u64, _total: Option<u64>) {}
    fn notice(&self, text: &str) {
        assert!(text.starts_with("waiting for docker-credential-test"), "{text}");
        std::fs::write(&self.0, "").unwrap();
    }
}

#[test]
fn a_helper_program_is_asked_and_one_that_asks_a_person_is_told_of() {
    let (server, _) = guarded("Basic bWU6cHc=", |_| "Basic realm=\"r\"".into());
    let host = Host::new();
    // A program's name is looked for in PATH; one with its directory would be refused, so it is put into PATH.
    let bin = host.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let name = format!("test-{}", std::process::id());
    let program = bin.join(format!("docker-credential-{name}"));
    std::fs::write(
        &program,
        "#!/bin/sh\nuntil [ -e \"$0.go\" ]; do sleep 0.02; done\nread who\nprintf '{\"ServerURL\":\"%s\",\"Username\":\"me\",\"Secret\":\"pw\"}' \"$who\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = json!({"credHelpers": {format!("127.0.0.1:{}", server.port()): name}});
    std::fs::write(host.dir.path().join("auth.json"), file.to_string()).unwrap();
    let registries = banger_artifacts::oci::Registries {
        credentials: banger_artifacts::oci::Credentials::in_files(vec![host.dir.path().join("auth.json")])
            .helpers_in(bin),
        ..host.registries
    };
    let host = Host { registries, ..host };
    host.pull_watched(&reference(&server, "v1"), &Go(program.with_extension("go"))).unwrap();
}

#[test]
fn what_is_not_there_is_named() {
    let content = Content::default();
    let server = content.serve();
    let refusal = Host::new().refusal(&reference(&server, "v9"));
    assert!(refusal.contains("has no app:v9"), "{refusal}");
}

#[test]
fn the_password_does_not_follow_a_redirect_to_another_host() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let store = content.serve();
    let port = store.port();
    let server = Server::start_with_heads(move |mut request, head| {
        if header(&head, "authorization").is_none() {
            return request
                .stream
                .write_all(b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n");
        }
        let location = format!("http://127.0.0.1:{port}{}", request.path);
        request.stream.write_all(&crate::web::redirect(&location))
    });
    let host = Host::new();
    login(&host, &server, &json!({"auth": STANDARD.encode("me:pw")}));
    host.image(&reference(&server, "v1"));
    assert!(store.hits() > 0 && store.heads().iter().all(|head| header(head, "authorization").is_none()));
}

#[test]
fn who_led_elsewhere_and_back_is_not_told_the_password_again() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let home = Arc::new(std::sync::OnceLock::<String>::new());
    let back = home.clone();
    let elsewhere = Server::start(move |mut request| {
        request.stream.write_all(&crate::web::redirect(&format!("{}{}", back.get().unwrap(), "/deleted")))
    });
    let away = elsewhere.url("/x");
    let server = Server::start_with_heads(move |mut request, head| {
        if header(&head, "authorization").is_none() {
            let challenge = b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n";
            return request.stream.write_all(challenge);
        }
        if content.is_layer(&request.path) {
            return request.stream.write_all(&crate::web::redirect(&away));
        }
        content.answer(request)
    });
    home.set(server.url("")).unwrap();
    let host = Host::new();
    login(&host, &server, &json!({"auth": STANDARD.encode("me:pw")}));
    host.refusal(&reference(&server, "v1"));
    let heads = server.heads();
    let led: Vec<_> = heads.iter().filter(|head| head.starts_with("GET /deleted")).collect();
    assert!(!led.is_empty() && led.iter().all(|head| header(head, "authorization").is_none()), "{led:?}");
}

#[test]
fn what_is_posted_to_a_token_service_is_posted_to_nobody_else() {
    let elsewhere = Server::serving(br#"{"token":"TOKEN"}"#);
    for status in [301, 302, 303, 307, 308] {
        let answer =
            format!("HTTP/1.1 {status} X\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url("/token"));
        let service = Server::raw(answer);
        let realm = service.url("/token");
        let (server, _) = guarded("Bearer TOKEN", move |_| format!("Bearer realm=\"{realm}\""));
        let host = Host::new();
        login(&host, &server, &json!({"identitytoken": "ID"}));
        let refusal = host.refusal(&reference(&server, "v1"));
        assert!(refusal.contains("for the one address it was posted to"), "{status}: {refusal}");
        assert_eq!((service.hits(), elsewhere.hits()), (1, 0), "{status}");
    }
}

#[test]
fn whoever_a_registry_leads_to_does_not_ask_for_its_password() {
    for challenge in ["Basic realm=\"r\"".to_owned(), "Bearer realm=\"REALM\"".to_owned()] {
        let service = Server::serving(br#"{"token":"TOKEN"}"#);
        let challenge = challenge.replace("REALM", &service.url("/token"));
        let store = Server::raw(format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
        ));
        let server = Server::raw(crate::web::redirect(&store.url("/blob")));
        for entry in [json!({"auth": STANDARD.encode("me:pw")}), json!({"identitytoken": "ID"})] {
            let host = Host::new();
            login(&host, &server, &entry);
            let refusal = host.refusal(&reference(&server, "v1"));
            assert!(refusal.contains(&store.url("/blob")) && refusal.contains("401"), "{refusal}");
        }
        assert_eq!((service.hits(), store.hits(), server.hits()), (0, 2, 2));
        let told = [server.heads(), store.heads()].concat();
        assert!(told.iter().all(|head| header(head, "authorization").is_none()), "{told:?}");
    }
}
