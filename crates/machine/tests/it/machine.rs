//! A machine for a test, with a fake or a real VMM. Tests share nothing but the kernel and the base of the initramfs.

use banger_artifacts::{
    disk::WorkDisks,
    initramfs::append_config,
    job::{Cancel, Job, Silent},
    kernel::{Catalog, KernelStore},
    rootfs::{Format, Limits, Meta, RootfsBuilder, Timestamp},
};
use banger_link::vsock;
use banger_machine::{
    shim::{
        client::{Events, Shim, ShimError, Shims},
        control::{ExitRecord, ShimMessage, VSOCK},
    },
    vmm::{
        confine,
        host::{FIRECRACKER, QEMU},
        plan::{Console, Disk, KernelFile, LaunchPlan},
        tsc,
    },
};
use banger_proto::{
    agent::{
        boot::{BootConfig, CONFIG_VERSION, Init, Mount},
        event::{GuestEvent, Power, Ready},
        http::{Health, Shutdown},
        link::AGENT_PORT,
    },
    api::vm::{Accelerator, MIN_DISK, Vmm},
    size::ByteSize,
};
use banger_testkit::{bin_dir, require};
use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Time limit for a step. Generous, for software emulation while every other core is busy.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// The VMM under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `fake-qemu` of the testkit.
    Fake,
    /// `fake-firecracker` of the testkit.
    FakeFirecracker,
    /// QEMU in software emulation, with the distribution's kernel.
    Qemu,
    /// Firecracker, with the distribution's kernel, where KVM runs guests.
    Firecracker,
    /// Firecracker wherever KVM opens, whether or not guests get far.
    FirecrackerWithoutGuest,
}

impl Kind {
    /// Whether the "guest" consists of processes of this host.
    pub(crate) fn is_fake(self) -> bool {
        matches!(self, Self::Fake | Self::FakeFirecracker)
    }

    fn is_firecracker(self) -> bool {
        matches!(self, Self::FakeFirecracker | Self::Firecracker | Self::FirecrackerWithoutGuest)
    }

    fn runs_here(self) -> bool {
        match self {
            Self::Fake | Self::FakeFirecracker => true,
            Self::Qemu => require("qemu") && require("apt"),
            Self::Firecracker => require("firecracker") && require("kvm-guests") && require("apt"),
            Self::FirecrackerWithoutGuest => require("firecracker") && require("apt"),
        }
    }
}

/// The directories of a machine, and its plan.
pub(crate) struct Setup {
    pub(crate) shims: Shims,
    pub(crate) plan: LaunchPlan,
    _dir: tempfile::TempDir,
}

impl Setup {
    /// `None` when this host cannot run the machine; the test is then recorded as skipped.
    pub(crate) fn new(kind: Kind) -> Option<Self> {
        let shims = Shims::new(env!("CARGO_BIN_EXE_banger-shim").into());
        // The fake's "guest" runs programs of this host, which a confined VMM cannot.
        let shims = if kind.is_fake() { shims.env(confine::SWITCH, "off") } else { shims };
        // A short path, because of the sockets in it.
        let dir = tempfile::Builder::new().prefix("bs").tempdir_in("/tmp").unwrap();
        let (state_dir, run_dir) = (dir.path().join("s"), dir.path().join("r"));
        for dir in [&state_dir, &run_dir] {
            fs::create_dir(dir).unwrap();
        }
        let (image, work) = (state_dir.join("image.ext4"), state_dir.join("work.ext4"));
        if !kind.runs_here() {
            return None;
        }
        let (program, kernel, base) = match kind {
            Kind::Fake | Kind::FakeFirecracker => {
                for file in [&image, &work] {
                    fs::write(file, "").unwrap();
                }
                let (kernel, base) = (state_dir.join("vmlinux"), state_dir.join("base"));
                fs::write(&kernel, "").unwrap();
                fs::write(&base, "").unwrap();
                let fake = if kind.is_firecracker() { "fake-firecracker" } else { "fake-qemu" };
                (bin_dir().join(fake), kernel, base)
            }
            Kind::Qemu | Kind::Firecracker | Kind::FirecrackerWithoutGuest => {
                let Fixtures { vmlinux, initramfs, disks } = fixtures();
                write_image(&image);
                disks.create(&work, MIN_DISK, &Cancel::default()).unwrap();
                let program = if kind.is_firecracker() { FIRECRACKER } else { QEMU };
                (on_path(program), vmlinux.clone(), initramfs.clone())
            }
        };
        let initramfs = state_dir.join("initramfs");
        append_config(&base, &serde_json::to_vec(&config()).unwrap(), &initramfs).unwrap();
        let plan = LaunchPlan {
            id: "0123456789ab".parse().unwrap(),
            name: "demo".parse().unwrap(),
            vmm: if kind.is_firecracker() { Vmm::Firecracker } else { Vmm::Qemu },
            accelerator: if kind.is_firecracker() { Accelerator::Kvm } else { Accelerator::Tcg },
            program,
            vcpu: 1,
            memory: ByteSize::mib(256),
            kernel: KernelFile { path: kernel, pvh: true, acpi: true, mmio_cmdline: false, hz: Some(250), vsock: true },
            initramfs,
            kernel_args: Vec::new(),
            tsc_khz: tsc::host_khz(),
            disks: vec![Disk { path: image, read_only: true }, Disk { path: work, read_only: false }],
            console: Console { path: state_dir.join("console.log"), cap: ByteSize::mib(1) },
            state_dir,
            run_dir,
            network: None,
            ports: Vec::new(),
        };
        Some(Self { shims, plan, _dir: dir })
    }

    /// A setup in which the escape probe runs in place of this fake VMM, confined or not.
    pub(crate) fn probe(fake: Kind, confined: bool) -> Self {
        let mut setup = Self::new(fake).expect("the fakes run everywhere");
        if fake == Kind::Fake {
            setup.plan.program = bin_dir().join("probe-confinement");
        }
        if confined {
            setup.shims = Shims::new(env!("CARGO_BIN_EXE_banger-shim").into());
        }
        setup
    }

    /// Runs the machine as an unprivileged user, where this host has a way to become one.
    pub(crate) fn under_nobody(mut self) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if !require("root") {
            return None;
        }
        // Programs are put where everybody may execute them, and all files of the machine are given to that user.
        let dir = self.plan.state_dir.parent().unwrap().to_owned();
        let copy = |from: &Path, name: &str| {
            fs::copy(from, dir.join(name)).unwrap();
            dir.join(name)
        };
        self.plan.program = copy(&self.plan.program, "vmm");
        let shim = copy(env!("CARGO_BIN_EXE_banger-shim").as_ref(), "banger-shim");
        // The plan is written by this test, so its owner is changed at the last moment.
        let script = format!(
            "#!/bin/sh\nchown -R 65534:65534 {}\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {} \"$@\"\n",
            dir.display(),
            shim.display()
        );
        let program = dir.join("as-nobody");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        self.shims = Shims::new(program);
        Some(self)
    }

    /// Runs the machine as on a host that allows no further user namespaces; the setting applies to the namespace of
    /// the shim.
    pub(crate) fn without_user_namespaces(mut self) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if !require("userns") {
            return None;
        }
        let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
        let shim = env!("CARGO_BIN_EXE_banger-shim");
        let script = format!("#!/bin/sh\nexec unshare --user --map-root-user sh -c '{forbid}' sh {shim} \"$@\"\n");
        let program = self.plan.state_dir.join("without-namespaces");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        self.shims = Shims::new(program);
        Some(self)
    }

    /// Passes instructions to the fake VMM.
    pub(crate) fn asking(mut self, words: &[&str]) -> Self {
        self.plan.kernel_args.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    pub(crate) async fn launch(&self) -> Shim {
        self.shims.launch(&self.plan).await.unwrap_or_else(|error| panic!("launch: {error:?}"))
    }

    /// Launches a machine that ends by itself, perhaps before the launch has returned.
    pub(crate) async fn run_to_end(&self) -> ExitRecord {
        match self.shims.launch(&self.plan).await {
            Ok(shim) => soon("the end", shim.ended()).await,
            Err(ShimError::Ended(end)) => end,
            Err(error) => panic!("launch: {error:?}"),
        }
    }

    /// Launches the machine and waits for its agent.
    pub(crate) async fn ready(&self) -> (Shim, Events, Ready) {
        let shim = self.launch().await;
        let mut events = shim.events();
        let ready = self.await_ready(&mut events).await;
        (shim, events, ready)
    }

    pub(crate) async fn await_ready(&self, events: &mut Events) -> Ready {
        self.find(events, "the agent's announcement", |message| match message {
            ShimMessage::Status(status) => status.ready,
            ShimMessage::Guest { event: GuestEvent::Ready(ready), .. } => Some(ready),
            _ => None,
        })
        .await
    }

    /// Returns the first message in which `look` finds something.
    pub(crate) async fn find<T>(&self, events: &mut Events, what: &str, look: impl Fn(ShimMessage) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let search = async {
            while let Some(message) = events.next().await {
                seen.push(format!("{message:?}"));
                if let Some(found) = look(message) {
                    return Some(found);
                }
            }
            None
        };
        match tokio::time::timeout(SOON, search).await {
            Ok(Some(found)) => found,
            outcome => panic!(
                "{what}: {}; console: {}",
                if outcome.is_ok() { format!("{seen:#?}") } else { "too late".into() },
                self.console()
            ),
        }
    }

    /// The tail of the console, for messages.
    pub(crate) fn console(&self) -> String {
        let text = fs::read(&self.plan.console.path).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    }

    /// The guest's socket.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.plan.run_dir.join(VSOCK)
    }

    pub(crate) async fn health(&self) -> Health {
        let answer = self.ask("GET /healthz HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n\r\n").await;
        health_in(&answer)
    }

    /// Tells the agent to power off or reboot.
    pub(crate) async fn power(&self, verb: Power) {
        let body = serde_json::to_string(&Shutdown { verb, grace_ms: 2000 }).unwrap();
        let length = body.len();
        let head = "POST /shutdown HTTP/1.1\r\nHost: vm\r\nContent-Type: application/json\r\nConnection: close\r\n";
        let answer = self.ask(&format!("{head}Content-Length: {length}\r\n\r\n{body}")).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }

    async fn ask(&self, request: &str) -> String {
        let socket = self.vsock();
        let dialled = vsock::connect(&socket, AGENT_PORT);
        let mut stream = soon("a stream to the agent", dialled).await.unwrap_or_else(|error| panic!("{error:?}"));
        let mut answer = Vec::new();
        let asked = async {
            stream.write_all(request.as_bytes()).await.unwrap();
            // The agent may be gone as soon as it has answered.
            let _ = stream.read_to_end(&mut answer).await;
        };
        soon("the agent's answer", asked).await;
        String::from_utf8(answer).unwrap()
    }
}

/// Parses the health in an HTTP response.
pub(crate) fn health_in(answer: &str) -> Health {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Awaits `future`; panics with `what` after the time limit.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("waited {} s for {what}", SOON.as_secs()))
}

/// Waits until `probe` succeeds; its errors describe what it sees meanwhile.
pub(crate) async fn until(what: &str, mut probe: impl FnMut() -> Result<(), String>) {
    let mut last = String::new();
    let holds = async {
        while let Err(seen) = probe() {
            last = seen;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(SOON, holds).await;
    assert!(outcome.is_ok(), "waited for {what}; last: {last}");
}

fn config() -> BootConfig {
    BootConfig {
        image: banger_proto::agent::boot::ImageDefaults::default(),
        version: CONFIG_VERSION,
        hostname: "demo".into(),
        init: Init::Agent,
        mounts: vec![Mount::Root { image: "/dev/vda".into(), work: "/dev/vdb".into(), binds: Vec::new() }],
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        resolv_conf: None,
        env: std::collections::BTreeMap::new(),
        workdir: None,
        user: None,
        network: None,
    }
}

/// The path at which `require` found it.
fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| Path::new("/usr/bin").join(program))
}

/// Files shared by all real machines; made once and kept in the cache.
struct Fixtures {
    vmlinux: PathBuf,
    initramfs: PathBuf,
    disks: WorkDisks,
}

fn fixtures() -> &'static Fixtures {
    static FIXTURES: OnceLock<Fixtures> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = cache.or_else(home).expect("HOME or XDG_CACHE_HOME is set").join("banger-tests/machines");
        fs::create_dir_all(&cache).unwrap();
        let cancel = Cancel::default();
        let job = Job { progress: &Silent, cancel: &cancel };
        let store = KernelStore::open(&cache.join("kernels"), &cache).unwrap();
        let name = "debian-6.1".parse().unwrap();
        let (kernel, _) = store.pull(&name, &Catalog::builtin(), false, &job).unwrap();
        let files = store.boot_files(&kernel, &bin_dir().join("banger-vsock-agent"), &job).unwrap();
        let disks = WorkDisks::open(cache.join("disks")).unwrap();
        Fixtures { vmlinux: files.vmlinux, initramfs: files.initramfs, disks }
    })
}

/// Writes a root file system without programs: the agent is the only one that runs.
fn write_image(path: &Path) {
    let cancel = Cancel::default();
    let mut builder = RootfsBuilder::new(path.parent().unwrap(), Limits::default(), &cancel).unwrap();
    let now = Timestamp::from_secs(1_700_000_000);
    for dir in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"] {
        builder.dir(dir.as_bytes(), Meta::root(0o755, now)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\n";
    builder.file(b"etc/passwd", Meta::root(0o644, now), passwd.len() as u64, &mut passwd.as_bytes()).unwrap();
    let format = Format { label: "image".into(), epoch: 1_700_000_000, ..Format::default() };
    builder.finish(path, &format, &Job { progress: &Silent, cancel: &cancel }).unwrap();
}
