//! What a user reads where it is not the registry that refuses somebody, but the service that gives out its tokens.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::SOON;
use banger_testkit::TestEnv;
use serde_json::json;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
};

/// A registry whose token service gives nobody anything: its port.
fn registry() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the test's process: nothing but the test knows its port.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let asks = if head.starts_with(b"GET /v2/") {
                format!("WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"reg\"\r\n")
            } else {
                String::new()
            };
            let _ = write!(stream, "HTTP/1.1 401 Unauthorized\r\n{asks}Content-Length: 0\r\n\r\n");
        }
    });
    port
}

#[test]
fn a_password_it_does_not_take_is_denied_with_the_login_that_may_help() {
    let env = TestEnv::empty();
    let host = format!("127.0.0.1:{}", registry());
    let reference = format!("{host}/team/app:v1");
    let logins = env.home().join("logins.json");
    // Of "me:wrong".
    fs::write(&logins, json!({"auths": {&host: {"auth": "bWU6d3Jvbmc="}}}).to_string()).unwrap();
    for (file, who) in [("/dev/null", "strangers"), (logins.to_str().unwrap(), "these credentials")] {
        let pull = env.banger(["--json", "image", "pull", &reference]).env("REGISTRY_AUTH_FILE", file);
        let out = pull.patience(SOON).run().expect(1);
        let failure = out.json();
        assert_eq!(failure["code"], "denied", "{failure:#}");
        let told = failure.to_string();
        for part in [
            format!("{host} does not give team/app:v1 to {who}"),
            format!("{host} gave no token"),
            format!("docker login {host}"),
        ] {
            assert!(told.contains(&part), "{part}: {failure:#}");
        }
        assert!(!told.contains("d3Jvbmc"), "a password: {failure:#}");
    }
    env.assert_nothing_left();
}
