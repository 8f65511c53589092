//! The real Firecracker as far as any KVM can go, including one that only emulates: launched, fully configured,
//! started, first kernel messages, paused, resumed, saved, restored in a second process, ended, cleaned up.

use crate::{
    conformance::SIGNALS,
    machine::{Kind, Setup, soon, until},
};
use banger_machine::{
    process::ProcessIdentity,
    shim::control::{ExitCause, VMM_DIR},
    vmm::{
        Driver, Machine, Resources, Start,
        firecracker::Firecracker,
        memory::Memory,
        plan::{LaunchPlan, Network},
    },
};
use banger_testkit::require;
use rustix::process::Signal;
use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
};
use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle};

async fn launch(plan: &LaunchPlan, memory: Memory, start: Start) -> Box<dyn Machine> {
    Firecracker
        .launch(plan, Resources { memory, start, namespace: None })
        .await
        .unwrap_or_else(|error| panic!("{error:?}"))
}

/// Collects the machine's console in the background.
fn listen(machine: &mut dyn Machine) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let mut console = pipe::Receiver::from_owned_fd(machine.take_console().unwrap()).unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let heard = said.clone();
    let task = tokio::spawn(async move {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut chunk).await {
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    });
    (said, task)
}

async fn end(mut machine: Box<dyn Machine>) {
    machine.signal(Signal::KILL).unwrap();
    let ended = soon("the end", machine.ended()).await.unwrap();
    assert_eq!(ended.reported, None, "{ended:?}");
}

#[tokio::test]
async fn a_machine_starts_is_saved_and_goes_on_in_a_second_process() {
    let Some(mut setup) = Setup::new(Kind::FirecrackerWithoutGuest) else { return };
    // Without `quiet` the kernel's first messages are on the console whether or not it gets further.
    setup.plan.kernel_args.extend(["ignore_loglevel", "earlyprintk=serial,ttyS0,115200"].map(str::to_owned));
    let memory = Memory::fresh(setup.plan.memory.bytes()).unwrap();
    let saved = File::from(memory.file.try_clone().unwrap());
    let mut first = launch(&setup.plan, memory, Start::Kernel).await;
    assert_eq!(first.unconfined(), None);
    let (console, _listening) = listen(&mut *first);
    until("the kernel's first lines", || {
        let said = console.lock().unwrap();
        if said.contains("Linux version") { Ok(()) } else { Err(said.clone()) }
    })
    .await;

    let mut state = tempfile::tempfile().unwrap();
    let power = first.snapshot().expect("Firecracker has snapshots");
    power.pause().await.unwrap();
    power.resume().await.unwrap();
    power.pause().await.unwrap();
    power.save(state.try_clone().unwrap().into()).await.unwrap();
    let size = state.stream_position().unwrap();
    assert!((1 << 10..1 << 20).contains(&size), "{size} bytes of state: memory is not to be in it");
    let kernel = "Linux version".as_bytes();
    let mut found = vec![0; usize::try_from(setup.plan.memory.bytes()).unwrap()];
    saved.read_exact_at(&mut found, 0).unwrap();
    assert!(found.windows(kernel.len()).any(|bytes| bytes == kernel), "memory was not saved");
    end(first).await;
    assert!(!setup.plan.run_dir.join(VMM_DIR).exists(), "its sockets are left");

    state.seek(SeekFrom::Start(0)).unwrap();
    let mut second = launch(&setup.plan, Memory::copy_of(saved.into()), Start::Restored).await;
    let power = second.snapshot().unwrap();
    power.restore(state.into()).await.unwrap();
    power.resume().await.unwrap();
    power.pause().await.unwrap();
    end(second).await;
}

#[tokio::test]
async fn a_shim_keeps_its_console_and_cleans_up() {
    let Some(mut setup) = Setup::new(Kind::FirecrackerWithoutGuest) else { return };
    setup.plan.kernel_args.extend(["ignore_loglevel", "earlyprintk=serial,ttyS0,115200"].map(str::to_owned));
    let shim = setup.launch().await;
    let vmm = shim.status().vmm.unwrap();
    assert_eq!(shim.status().unconfined, None);
    until("the kernel's first lines", || {
        let said = setup.console();
        if said.contains("Linux version") { Ok(()) } else { Err(said) }
    })
    .await;
    assert!(vmm.alive());
    shim.end().await.unwrap();
    let ended = soon("the end", shim.ended()).await;
    assert_eq!(ended.cause, ExitCause::Ended, "{ended:?}");
    until("the sockets' end", || {
        let left = std::fs::read_dir(&setup.plan.run_dir).unwrap().count();
        if left == 0 && !vmm.alive() { Ok(()) } else { Err(format!("{left} sockets")) }
    })
    .await;
}

#[tokio::test]
async fn every_signal_of_a_kill_ends_it_and_is_told_as_one() {
    for signal in SIGNALS {
        let Some(setup) = Setup::new(Kind::FirecrackerWithoutGuest) else { return };
        let shim = setup.launch().await;
        shim.signal(signal).await.unwrap();
        let ended = soon(&format!("the end by SIG{signal}"), shim.ended()).await;
        assert_eq!(ended.cause, ExitCause::Killed, "SIG{signal}: {ended:?}");
    }
}

#[tokio::test]
async fn what_firecracker_does_not_take_is_an_error_in_its_words() {
    let Some(mut setup) = Setup::new(Kind::FirecrackerWithoutGuest) else { return };
    let path = setup.plan.state_dir.join("vmlinux");
    std::fs::write(&path, "not a kernel").unwrap();
    setup.plan.kernel.path = path;
    let refused = setup.shims.launch(&setup.plan).await.unwrap_err().to_string();
    assert!(refused.contains("Firecracker refuses PUT /actions"), "{refused}");
}

/// The tap of a VM.
const TAP: &str = "bt0123456789ab";

/// A shell in its own user and network namespaces, with a tap in them: a stand-in for banger's holder and helper.
struct Holder {
    shell: Child,
    said: BufReader<ChildStdout>,
}

impl Holder {
    fn with_tap() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let said = BufReader::new(shell.stdout.take().unwrap());
        let mut holder = Self { shell, said };
        let made = holder.ask(&format!(
            "ip tuntap add dev {TAP} mode tap user 0 vnet_hdr 2>&1 && ip link set {TAP} up && echo made"
        ));
        assert_eq!(made, "made");
        holder
    }

    /// Sends one line and reads one line.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.said.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    fn nic(&self) -> Network {
        let holder = ProcessIdentity::of(self.shell.id()).unwrap();
        Network { tap: TAP.into(), mac: "02:62:0a:d5:00:02".parse().unwrap(), holder }
    }

    /// Whether a process has the tap open: the tap then has a carrier.
    fn is_plugged_in(&mut self) -> bool {
        let link = self.ask(&format!("ip -oneline link show dev {TAP}"));
        assert!(link.contains(TAP), "{link}");
        !link.contains("NO-CARRIER")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[tokio::test]
async fn a_network_card_is_its_tap_in_the_holders_namespace() {
    let Some(mut setup) = Setup::new(Kind::FirecrackerWithoutGuest) else { return };
    if !require("netns") {
        return;
    }
    let mut holder = Holder::with_tap();
    assert!(!holder.is_plugged_in());
    setup.plan.network = Some(holder.nic());
    setup.plan.kernel_args.extend(["ignore_loglevel", "earlyprintk=serial,ttyS0,115200"].map(str::to_owned));
    let shim = setup.launch().await;
    // Firecracker accepted its whole configuration, including the NIC; otherwise there would be no machine.
    assert_eq!(shim.status().unconfined, None);
    assert!(holder.is_plugged_in());
    until("the kernel's first lines", || {
        let said = setup.console();
        if said.contains("Linux version") { Ok(()) } else { Err(said) }
    })
    .await;
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
    until("the tap's end", || if holder.is_plugged_in() { Err("plugged in".into()) } else { Ok(()) }).await;
}

#[tokio::test]
async fn a_tap_that_is_not_there_is_refused_in_firecrackers_words() {
    let Some(mut setup) = Setup::new(Kind::FirecrackerWithoutGuest) else { return };
    if !require("netns") {
        return;
    }
    let holder = Holder::with_tap();
    setup.plan.network = Some(Network { tap: "bt000000000000".into(), ..holder.nic() });
    let refused = setup.shims.launch(&setup.plan).await.unwrap_err().to_string();
    assert!(refused.contains("Firecracker refuses PUT /network-interfaces/eth0"), "{refused}");
}
