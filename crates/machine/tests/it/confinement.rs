//! What a compromised VMM can still do. A program in its place makes attempts, confined like every VMM; and once more
//! unconfined, to show that each attempt succeeds where nothing forbids it.

use crate::machine::{Kind, Setup, until};
use banger_machine::shim::client::Shim;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Child, Command, Stdio},
};

/// Parts of the host that a VMM must not reach.
struct Host {
    dir: tempfile::TempDir,
    process: Child,
    port: u16,
    abstract_name: String,
    _listeners: (Vec<UnixListener>, UnixListener, TcpListener),
}

/// The VMMs in whose place the probe runs.
const VMMS: [Kind; 2] = [Kind::Fake, Kind::FakeFirecracker];

/// Sockets of the host, by the names the probe uses for them.
const SOCKETS: [&str; 5] = ["bangerd", "other-vm", "docker", "d-bus", "ssh-agent"];

impl Host {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bh").tempdir_in("/tmp").unwrap();
        let listeners = SOCKETS.map(|name| UnixListener::bind(dir.path().join(name)).unwrap()).into();
        fs::write(dir.path().join("disk"), "another VM's").unwrap();
        fs::write(dir.path().join("note"), "the user's").unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        let abstract_name = format!("banger-{}", dir.path().file_name().unwrap().display());
        let abstract_listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        open_to_all(dir.path());
        Self { dir, process, port, abstract_name, _listeners: (listeners, abstract_listener, tcp) }
    }

    /// The attempts, as arguments for the probe.
    fn words(&self) -> Vec<String> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut words: Vec<String> = SOCKETS.iter().map(|name| format!("probe.unix.{name}={}", path(name))).collect();
        words.extend([
            format!("probe.unix.abstract=@{}", self.abstract_name),
            format!("probe.tcp.loopback={}", self.port),
            format!("probe.read.other-disk={}", path("disk")),
            format!("probe.write.other-disk={}", path("disk")),
            format!("probe.read.home={}", path("home")),
            format!("probe.file.note={}", path("note")),
            "probe.read.passwd=/etc/passwd".to_owned(),
            "probe.read.root=/".to_owned(),
            format!("probe.process.other={}", self.process.id()),
        ]);
        words
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a directory accessible to all, so that only confinement is in the probe's way, and not file modes.
fn open_to_all(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &std::path::Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    open(dir);
    for entry in fs::read_dir(dir).unwrap() {
        open(&entry.unwrap().path());
    }
}

/// Runs the probe in place of the VMM. Returns the outcome of each attempt, and the missing parts of the confinement.
async fn probe(setup: Setup, words: Vec<String>) -> (BTreeMap<String, String>, Option<String>) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let setup = setup.asking(&words);
    let shim: Shim = setup.launch().await;
    let console = || fs::read_to_string(&setup.plan.console.path).unwrap_or_default();
    until("the probe's end", || {
        let said = console();
        if said.ends_with("end\r\n") { Ok(()) } else { Err(said) }
    })
    .await;
    let unconfined = shim.status().unconfined;
    shim.end().await.unwrap();
    crate::machine::soon("the end", shim.ended()).await;
    let said = console();
    let attempts = said.lines().filter_map(|line| line.split_once(": "));
    (attempts.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect(), unconfined)
}

#[track_caller]
fn assert_all_fail(outcomes: &BTreeMap<String, String>) {
    assert!(outcomes.len() > 20, "{outcomes:#?}");
    let done: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome == "done").collect();
    assert!(done.is_empty(), "a confined VMM could: {done:#?}");
}

#[tokio::test]
async fn a_vmm_that_was_taken_over_reaches_nothing() {
    for vmm in VMMS {
        let host = Host::new();
        let mut words = host.words();
        // Under the names it knows its own files by, it can read its inputs, and write only what the guest may write.
        words
            .extend(["read.kernel=/kernel", "read.work=/disk1", "write.work=/disk1"].map(|own| format!("probe.{own}")));
        words.extend(["write.image=/disk0", "write.kernel=/kernel"].map(|own| format!("probe.{own}")));
        let (mut outcomes, unconfined) = probe(Setup::probe(vmm, true), words).await;
        assert_eq!(unconfined, None);
        for own in ["read.kernel", "read.work", "write.work"] {
            assert_eq!(outcomes.remove(own).as_deref(), Some("done"), "{own}: {vmm:?} {outcomes:#?}");
        }
        assert_all_fail(&outcomes);
    }
}

#[tokio::test]
async fn no_vmm_leaves_a_core_and_the_hosts_program_for_them_gets_none() {
    let limit = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // A hard limit of 0 for this user applies to the VMM too.
    let [_, hard] = &limit(std::process::id())[..] else { panic!("two limits") };
    let most = if hard == "0" { "0" } else { "1" };
    for vmm in VMMS {
        let setup = Setup::probe(vmm, true).asking(&["probe.read.root=/"]);
        let shim = setup.launch().await;
        assert_eq!(limit(shim.status().vmm.unwrap().pid), [most, most], "{vmm:?}");
        shim.end().await.unwrap();
        crate::machine::soon("the end", shim.ended()).await;
    }
}

#[tokio::test]
async fn an_ordinary_users_vmm_reaches_nothing_either() {
    for vmm in VMMS {
        let Some(setup) = Setup::probe(vmm, true).under_nobody() else { return };
        let host = Host::new();
        let (outcomes, unconfined) = probe(setup, host.words()).await;
        assert_eq!(unconfined, None);
        assert_all_fail(&outcomes);
    }
}

#[tokio::test]
async fn where_namespaces_are_forbidden_landlock_and_the_filter_are_left_and_it_is_said() {
    for vmm in VMMS {
        let Some(setup) = Setup::probe(vmm, true).without_user_namespaces() else { return };
        let host = Host::new();
        let (outcomes, unconfined) = probe(setup, host.words()).await;
        assert!(unconfined.is_some_and(|lack| lack.starts_with("this host allows no namespaces of its own")));
        // Sockets with a path are all that Landlock and the filter leave open, and only to Firecracker, which connects
        // to sockets for its guest.
        let (left, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            outcomes.into_iter().partition(|(_, outcome)| outcome == "done");
        let left: BTreeSet<String> = left.into_keys().collect();
        let sockets = SOCKETS.iter().filter(|_| vmm == Kind::FakeFirecracker).map(|name| format!("unix.{name}"));
        assert_eq!(left, sockets.collect(), "{vmm:?}");
        assert!(kept.len() > 25, "{kept:#?}");
        // The filter refuses them without the help of Landlock, which may be old.
        for (name, outcome) in kept.iter().filter(|(name, _)| is_for_the_filter(name)) {
            assert!(outcome.contains("(os error 1)"), "{vmm:?} {name}: {outcome}");
        }
    }
}

/// Whether an attempt must be refused by the filter alone, because Landlock does not cover it, or not in older
/// versions.
fn is_for_the_filter(name: &str) -> bool {
    let is_of = |kind: &str| name.starts_with(kind) && !name.ends_with(".environment");
    is_of("process.") || is_of("file.") || is_of("tcp.")
}

#[tokio::test]
async fn without_confinement_every_attempt_succeeds() {
    if !banger_testkit::require("root") {
        return;
    }
    for vmm in VMMS {
        let host = Host::new();
        let (outcomes, unconfined) = probe(Setup::probe(vmm, false), host.words()).await;
        assert!(unconfined.is_some_and(|reason| reason.contains("=off")));
        let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome != "done").collect();
        assert!(failed.is_empty(), "nothing forbids these, so a test that sees them fail proves nothing: {failed:#?}");
    }
}
