//! The service on incomplete states: what a killed daemon, a killed shim or a broken disk leaves behind is made by hand
//! here, in the store and on the disk, and must be put in order.

mod agents;
mod forced;
mod held;
mod machine;
mod meanwhile;
mod ports;
mod references;
mod unreadable;
mod waiters;

use super::{Op, StopCause, release::release, service::VmService};
use crate::{
    capability::{Depth, VmFiles},
    config::{Config, File, Host},
    operation::Operation,
    random,
    store::{Lease, ResourceKind, Store, VmRow, tests::sample},
    wire::{Programs, Services, wire_services},
};
use banger_machine::{
    process::{ProcessIdentity, host_boot_id},
    record,
    shim::control::{EXIT_FILE, ExitCause, ExitRecord, PLAN_FILE, RUNTIME_FILE, RuntimeRecord, VMM_DIR},
};
use banger_proto::{
    api::vm::{CreateVm, SetVm, Start, VmState, Wait},
    failure::Code,
    layout::Layout,
    size::ByteSize,
};
use std::{
    fs,
    future::Future,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);

/// The services of a daemon over an empty state, without the daemon itself.
pub(crate) struct World {
    _temp: tempfile::TempDir,
    pub(crate) layout: Layout,
    pub(crate) config: Config,
    store: Store,
    pub(crate) services: Services,
}

impl World {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            fs::create_dir_all(temp.path().join(name)).unwrap();
            temp.path().join(name)
        };
        let layout = Layout { config: dir("config"), state: dir("state"), cache: dir("cache"), run: dir("run") };
        dir("run/v");
        dir("state/vms");
        let host = Host { cpus: 4, memory: ByteSize::gib(4) };
        let config = Config::resolve(File::default(), |_| None, host).unwrap();
        let store = Store::open(&layout.database()).unwrap();
        let programs =
            Programs { shim: "/bin/false".into(), agent: "/bin/false".into(), root_helper: "/bin/false".into() };
        let services = wire_services(&layout, &config, &store, programs).unwrap();
        Self { _temp: temp, layout, config, store, services }
    }

    fn vms(&self) -> &Arc<VmService> {
        &self.services.vms
    }

    /// Makes a VM in that state, with the directories that it holds and a disk.
    pub(crate) async fn vm(&self, name: &str, state: VmState) -> VmRow {
        let row = VmRow { state, ..sample(name) };
        self.store.insert_vm(row.clone()).await.unwrap();
        let id = row.id.as_str();
        self.store.claim(&row.id, ResourceKind::StateDirectory, id).await.unwrap();
        fs::create_dir(self.layout.vm(&row.id)).unwrap();
        fs::write(VmFiles::work_disk(&self.layout, &row.id), "data").unwrap();
        if state.is_live() {
            self.store.claim(&row.id, ResourceKind::RunDirectory, id).await.unwrap();
            self.store.claim(&row.id, ResourceKind::Shim, id).await.unwrap();
            fs::create_dir(self.layout.vm_run(&row.id)).unwrap();
            fs::write(self.layout.vm_run(&row.id).join("control.sock"), "").unwrap();
            fs::write(VmFiles::initramfs(&self.layout, &row.id), "secret").unwrap();
        }
        row
    }

    async fn row(&self, row: &VmRow) -> Option<VmRow> {
        self.store.vm(&row.id).await.unwrap()
    }

    async fn holds(&self, row: &VmRow) -> Vec<ResourceKind> {
        self.store.resources(&row.id).await.unwrap().into_iter().map(|resource| resource.kind).collect()
    }

    fn record<T: serde::Serialize>(&self, row: &VmRow, file: &str, record: &T) {
        record::write(&self.layout.vm(&row.id), file, record).unwrap();
    }

    async fn assert_gone(&self, row: &VmRow) {
        assert_eq!(self.row(row).await, None);
        assert_eq!(self.holds(row).await, []);
        assert!(!self.layout.vm(&row.id).exists() && !self.layout.vm_run(&row.id).exists());
    }
}

/// A process that runs until it is killed.
struct TestProcess(Child);

impl TestProcess {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn identity(&self) -> ProcessIdentity {
        ProcessIdentity::of(self.0.id()).unwrap()
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn wait_for<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        tokio::task::yield_now().await;
    }
}

fn runtime(shim: ProcessIdentity) -> RuntimeRecord {
    RuntimeRecord { host_boot_id: host_boot_id().unwrap(), shim, vmm: None }
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_machine_that_is_gone_without_a_word_has_failed_and_holds_nothing() {
    let world = World::new();
    for state in [VmState::Starting, VmState::Running, VmState::Stopping] {
        let row = world.vm(state.as_str(), state).await;
        let dead = TestProcess::new().identity();
        world.record(&row, RUNTIME_FILE, &runtime(dead));
        world.vms().reconcile().await.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!(now.state, VmState::Failed, "{now:?}");
        assert!(now.reason.unwrap().contains("gone without a word"));
        assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory]);
        assert!(!world.layout.vm_run(&row.id).exists());
        assert_eq!(files(&world.layout.vm(&row.id)), ["work.ext4"], "the disk stays, the secrets go");
    }
}

#[tokio::test]
async fn an_end_nobody_watched_is_recorded_as_what_it_was() {
    let world = World::new();
    for (cause, state, reason) in [
        (ExitCause::Poweroff, VmState::Stopped, None),
        (ExitCause::Ended, VmState::Stopped, None),
        (ExitCause::GuestFailed, VmState::Failed, Some("Kernel panic \\u{1b}".to_owned())),
    ] {
        let row = world.vm(&format!("{cause:?}").to_lowercase(), VmState::Running).await;
        world.record(&row, EXIT_FILE, &ExitRecord { cause, reason: "Kernel panic \u{1b}".into(), at: 1 });
        world.vms().reconcile().await.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.reason), (state, reason));
    }
}

#[tokio::test]
async fn a_creation_that_was_never_finished_leaves_nothing() {
    let world = World::new();
    let whole = world.vm("whole", VmState::Created).await;
    let half = world.vm("half", VmState::Created).await;
    fs::remove_file(VmFiles::work_disk(&world.layout, &half.id)).unwrap();
    fs::write(world.layout.vm(&half.id).join(".unfinished-x"), "").unwrap();
    let none = VmRow { state: VmState::Created, ..sample("none") };
    world.store.insert_vm(none.clone()).await.unwrap();
    world.vms().reconcile().await.unwrap();
    world.assert_gone(&half).await;
    world.assert_gone(&none).await;
    assert_eq!(world.row(&whole).await, Some(whole));
}

#[tokio::test]
async fn what_belongs_to_no_vm_is_swept_and_nothing_else() {
    let world = World::new();
    let stray = world.layout.vm(&random::vm_id());
    let stray_run = world.layout.vm_run(&random::vm_id());
    let deep = world.layout.vm(&random::vm_id());
    let foreign = world.layout.vms().join("notes");
    for directory in [&stray, &stray_run, &deep, &foreign] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
    }
    fs::create_dir(deep.join("precious")).unwrap();
    // The VMM's own sockets are removed, too.
    fs::create_dir(stray_run.join(VMM_DIR)).unwrap();
    fs::write(stray_run.join(VMM_DIR).join("api.sock"), "").unwrap();
    let mut running = TestProcess::new();
    record::write(&stray, RUNTIME_FILE, &runtime(running.identity())).unwrap();
    world.vms().reconcile().await.unwrap();
    assert!(!stray.exists() && !stray_run.exists());
    assert!(deep.join("precious").exists() && foreign.join("file").exists());
    running.0.wait().unwrap();
}

#[tokio::test]
async fn releasing_runs_every_step_and_can_be_done_again() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut shim = TestProcess::new();
    world.record(&row, RUNTIME_FILE, &runtime(shim.identity()));
    let obstacle = world.layout.vm(&row.id).join("obstacle");
    fs::create_dir(&obstacle).unwrap();
    let failure = release(&world.vms().parts, &row.id, Depth::Everything).await.unwrap_err();
    assert!(failure.message.contains("cannot remove"), "{failure}");
    shim.0.wait().unwrap();
    assert!(!world.layout.vm_run(&row.id).exists(), "steps after the failed one ran too");
    assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory], "what is not given back stays written down");
    assert!(world.row(&row).await.is_some());
    fs::remove_dir(&obstacle).unwrap();
    for _ in 0..2 {
        release(&world.vms().parts, &row.id, Depth::Everything).await.unwrap();
        world.assert_gone(&row).await;
    }
}

#[tokio::test]
async fn sockets_that_stay_elsewhere_keep_nobody_from_those_here() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    // The sockets of a machine that was started by a daemon with another run directory.
    let there = world.layout.state.join("other/v").join(row.id.as_str());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(there.join("obstacle")).unwrap();
    world.record(&row, PLAN_FILE, &serde_json::json!({ "run_dir": there }));
    release(&world.vms().parts, &row.id, Depth::Machine).await.unwrap_err();
    assert!(there.exists() && !world.layout.vm_run(&row.id).exists());
    assert!(world.holds(&row).await.contains(&ResourceKind::RunDirectory), "not all of it is given back");
}

#[tokio::test]
async fn a_process_with_a_reused_pid_is_left_alone() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut bystander = TestProcess::new();
    let shim = ProcessIdentity { start_time: 1, ..bystander.identity() };
    world.record(&row, RUNTIME_FILE, &runtime(shim));
    release(&world.vms().parts, &row.id, Depth::Everything).await.unwrap();
    assert!(bystander.0.try_wait().unwrap().is_none());
    world.assert_gone(&row).await;
}

#[tokio::test]
async fn leases_of_clients_that_are_gone_end_and_others_do_not() {
    let world = World::new();
    let mut client = TestProcess::new();
    let boot = host_boot_id().unwrap();
    let lease = |row: &VmRow, host_boot_id: &str, holder| Lease {
        vm: row.id.clone(),
        host_boot_id: host_boot_id.into(),
        holder,
    };
    let gone = world.vm("gone", VmState::Stopped).await;
    let rebooted = world.vm("rebooted", VmState::Stopped).await;
    let held = world.vm("held", VmState::Stopped).await;
    let failed = world.vm("failed", VmState::Failed).await;
    let stranger = ProcessIdentity { start_time: 1, ..client.identity() };
    for lease in [
        lease(&gone, &boot, stranger),
        lease(&rebooted, "another", client.identity()),
        lease(&held, &boot, client.identity()),
        lease(&failed, &boot, stranger),
    ] {
        world.store.insert_lease(lease).await.unwrap();
    }
    world.vms().reconcile().await.unwrap();
    for row in [&gone, &rebooted] {
        wait_for("a VM without a client to go", async || world.row(row).await.is_none()).await;
        world.assert_gone(row).await;
    }
    assert!(world.row(&held).await.is_some());
    client.0.kill().unwrap();
    client.0.wait().unwrap();
    wait_for("the last leased VM to go", async || world.row(&held).await.is_none()).await;
    assert!(world.row(&failed).await.is_some(), "one that never became ready is kept");
    assert_eq!(world.store.leases().await.unwrap(), []);
}

#[tokio::test]
async fn a_start_that_lacks_something_changes_nothing() {
    let world = World::new();
    let row = world.vm("v", VmState::Stopped).await;
    world.vms().reconcile().await.unwrap();
    let operation = Operation::unwatched();
    for overcommit in [false, true] {
        let start = Op::Start { wait: Wait::Agent, overcommit };
        let failure = world.vms().change("v", start, &operation).await.unwrap_err();
        // Either there is no VMM on this host, or there is no image, because none was made here.
        assert!(matches!(failure.code, Code::NotFound | Code::Unavailable), "{failure}");
        assert_eq!(world.row(&row).await, Some(row.clone()));
    }
    assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory]);
}

#[tokio::test]
async fn refs_are_names_ids_and_unique_prefixes() {
    let world = World::new();
    let row = world.vm("abc", VmState::Stopped).await;
    world.vms().reconcile().await.unwrap();
    for reference in ["abc", row.id.as_str(), &row.id.as_str()[..3]] {
        // A prefix may be another VM's name; here only "abc" is a name.
        assert_eq!(world.vms().find(reference).await.unwrap().id, row.id, "{reference}");
    }
    for reference in ["", "ab", "../x", "ABC", "x".repeat(500).as_str()] {
        if row.id.as_str().starts_with(reference) && !reference.is_empty() {
            continue;
        }
        assert_eq!(world.vms().find(reference).await.unwrap_err().code, Code::NotFound, "{reference}");
    }
}

#[tokio::test]
async fn a_vm_that_is_down_can_be_stopped_and_deleted_but_not_killed() {
    let world = World::new();
    let row = world.vm("v", VmState::Failed).await;
    world.vms().reconcile().await.unwrap();
    let operation = Operation::unwatched();
    world.vms().change("v", Op::Stop { grace: None, cause: StopCause::Asked }, &operation).await.unwrap();
    let signal = banger_proto::api::vm::KillSignal::Term;
    let refused = world.vms().change("v", Op::Kill { signal }, &operation).await.unwrap_err();
    assert_eq!((refused.code, refused.hints.len()), (Code::Conflict, 0), "there is nothing left to end: {refused}");
    let mut changes = world.vms().watch_state(&row.id);
    world.vms().delete(&row.id, false, &operation).await.unwrap();
    world.assert_gone(&row).await;
    assert!(!changes.is_live());
    world.vms().delete(&row.id, false, &operation).await.expect("somebody was faster");
}

#[tokio::test]
async fn a_kill_that_waited_for_a_set_is_told_that_nothing_runs() {
    let world = World::new();
    let row = world.vm("v", VmState::Stopped).await;
    world.vms().reconcile().await.unwrap();
    let operation = Operation::unwatched();
    let set = Op::Set(SetVm { vcpu: Some(3), ..SetVm::default() });
    let kill = Op::Kill { signal: banger_proto::api::vm::KillSignal::Kill };
    let (set, killed) =
        tokio::join!(world.vms().ask(&row.id, set, &operation), world.vms().ask(&row.id, kill, &operation));
    set.unwrap();
    let refused = killed.unwrap_err();
    assert!(refused.code == Code::Conflict && refused.message.contains("not running"), "{refused}");
}

#[tokio::test]
async fn of_a_set_that_is_refused_in_part_nothing_is_kept() {
    let world = World::new();
    let row = world.vm("v", VmState::Stopped).await;
    world.vms().reconcile().await.unwrap();
    let disk = fs::File::options().write(true).open(VmFiles::work_disk(&world.layout, &row.id)).unwrap();
    disk.set_len(row.spec.disk_size.bytes()).unwrap();
    let operation = Operation::unwatched();
    let port = |text: &str| text.parse().unwrap();
    let smaller = ByteSize(row.spec.disk_size.bytes() / 2);
    for refused in [
        // A valid network with invalid sizes.
        SetVm { nat: Some(!row.spec.network.nat), disk_size: Some(smaller), ..SetVm::default() },
        SetVm { publish: vec![port("8080:80")], vcpu: Some(0), ..SetVm::default() },
        SetVm { allow: Some(vec!["10.0.0.0/8".parse().unwrap()]), memory: Some(ByteSize(1)), ..SetVm::default() },
        // Valid sizes with an invalid network.
        SetVm { vcpu: Some(3), publish: vec![port("8080:80"), port("8080:81")], ..SetVm::default() },
        SetVm { memory: Some(ByteSize::mib(256)), unpublish: vec![port("8080:80")], ..SetVm::default() },
    ] {
        let failure = world.vms().change("v", Op::Set(refused.clone()), &operation).await.unwrap_err();
        assert!(matches!(failure.code, Code::Invalid | Code::NotFound), "{refused:?}: {failure}");
        assert_eq!(world.row(&row).await, Some(row.clone()), "{refused:?}");
    }
    let whole = SetVm { vcpu: Some(3), nat: Some(!row.spec.network.nat), ..SetVm::default() };
    world.vms().change("v", Op::Set(whole), &operation).await.unwrap();
    let now = world.row(&row).await.unwrap().spec;
    assert_eq!((now.vcpu, now.network.nat), (3, !row.spec.network.nat));
}

#[tokio::test]
async fn bad_requests_leave_no_row() {
    let world = World::new();
    let taken = world.vm("taken", VmState::Stopped).await;
    let request = CreateVm { start: Start::No, ..CreateVm::default() };
    for (code, request) in [
        (Code::Invalid, CreateVm { vcpu: Some(0), ..request.clone() }),
        (Code::Invalid, CreateVm { workdir: Some("relative".into()), ..request.clone() }),
        (Code::Unavailable, CreateVm { memory: Some(ByteSize::gib(999_999)), ..request.clone() }),
        (Code::NotFound, CreateVm { image: Some("Nope".parse().unwrap()), ..request.clone() }),
        (Code::NotFound, CreateVm { kernel: Some("nope-1.0".parse().unwrap()), ..request.clone() }),
        (Code::AlreadyExists, CreateVm { name: Some("taken".parse().unwrap()), ..request.clone() }),
        // Such a name would hide the VM with that id.
        (Code::Invalid, CreateVm { name: Some(taken.id.as_str().parse().unwrap()), ..request.clone() }),
    ] {
        let failure = world.vms().create(request.clone(), None, &Operation::unwatched()).await.unwrap_err();
        assert_eq!(failure.code, code, "{request:?}: {failure}");
    }
    assert_eq!(world.store.vms().await.unwrap(), [taken]);
    assert_eq!(files(&world.layout.vms()).len(), 1);
}
