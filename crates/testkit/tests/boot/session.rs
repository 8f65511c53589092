//! `vm run --rm -- CMD`: the command's streams and status are the user's.

use banger_testkit::{TestEnv, shared};

const RUN: [&str; 6] = ["vm", "run", "--rm", "--memory", "256M", "--"];

#[test]
fn uname_says_the_guests_kernel() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let out = env.banger(RUN.into_iter().chain(["uname", "-a"])).run().expect(0);
    assert!(out.out().starts_with("Linux "), "{out}");
    assert!(out.out().contains("-cloud-amd64 "), "{out}");
    let host = rustix::system::uname();
    assert!(!out.out().contains(&*host.release().to_string_lossy()), "the host's kernel: {out}");
    env.assert_nothing_left();
}

#[test]
fn the_exit_status_is_the_commands() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let out = env.banger(RUN.into_iter().chain(["sh", "-c", "echo out; echo err >&2; exit 42"])).run().expect(42);
    assert_eq!(out.out(), "out\n");
    assert!(out.err().contains("\nerr\n"), "{out}");
    env.assert_nothing_left();
}

#[test]
fn bytes_pass_through_unchanged() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    // Every byte value, no line end at the end, and more than any buffer on the way.
    let bytes: Vec<u8> = (0..3_000_017_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = env.banger(RUN.into_iter().chain(["cat"])).stdin(bytes.clone()).run().expect(0);
    assert!(out.stdout == bytes, "{} bytes went in, {} others came out", bytes.len(), out.stdout.len());
    env.assert_nothing_left();
}
