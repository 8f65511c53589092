//! Pulls and imports that are killed at every step, and what they take.

use super::{
    super::web::{Server, ok},
    bundle::{catalog, name, packed, small, source},
    fixture::{Host, Member, module, tar, vmlinux},
};
use banger_artifacts::{
    job::{Cancel, Job, Progress, Silent},
    kernel::{Catalog, Description, KernelStore},
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Says a line when a phase begins, and goes no further in the one it is told to stop at.
struct StopAt(String);

impl Progress for StopAt {
    fn phase(&self, what: &str) {
        if what.contains(&self.0) {
            say("stopped");
            loop {
                std::thread::park();
            }
        }
    }

    fn advance(&self, done: u64, _: Option<u64>) {
        if self.0 == "halfway" && done > 0 {
            self.phase("halfway");
        }
    }
}

/// Past the test harness, which keeps what tests print.
fn say(line: &str) {
    fs::File::options()
        .write(true)
        .open("/proc/self/fd/1")
        .unwrap()
        .write_all(format!("\n@{line}\n").as_bytes())
        .unwrap();
}

/// Not a test by itself: the others start it as a process that they may kill.
#[test]
fn child() {
    let Ok(task) = std::env::var("BANGER_TEST_CHILD") else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let root = PathBuf::from(var("BANGER_TEST_ROOT"));
    let store = KernelStore::open(&root.join("kernels"), &root.join("cache")).unwrap();
    let (stop, cancel) = (StopAt(var("BANGER_TEST_STOP")), Cancel::default());
    let job = Job { progress: if stop.0.is_empty() { &Silent } else { &stop }, cancel: &cancel };
    match task.as_str() {
        "pull" => {
            let catalog = Catalog::read(&root.join("catalog.json")).unwrap();
            store.pull(&name(), &catalog, true, &job).unwrap();
        }
        "import" => {
            store.import(&name(), &root.join("input/k"), &Description::default(), true, &job).unwrap();
        }
        other => panic!("{other}"),
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    say(&format!("done {}", peak.trim_end_matches("kB").trim()));
}

/// The child, doing `task` in the host's directories until its progress contains `stop`.
fn start(host: &Host, task: &str, stop: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kernel::interrupted::child", "--nocapture", "--test-threads=1"])
        .env("BANGER_TEST_CHILD", task)
        .env("BANGER_TEST_ROOT", host.temp.path())
        .env("BANGER_TEST_STOP", stop)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The next thing the child says; `None` when it ends instead.
fn heard(child: &mut Child) -> Option<String> {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The catalog the child reads.
fn offer(host: &Host, server: &Server, bundle: &[u8]) {
    let source = source(&server.url("/b.tar.zst"), bundle);
    let json = format!(
        r#"{{"version":1,"entries":[{{"name":"test-6.1","distro":"tests","arch":"x86_64","kernel_version":"6.1",
            "sources":[{source}]}}]}}"#
    );
    fs::write(host.temp.path().join("catalog.json"), json).unwrap();
}

/// What is in the kernel's initrd says which one it is; all of it has to be right.
fn which(host: &Host) -> String {
    let kernel = host.store.get(&name()).unwrap();
    host.store.verify(&kernel, &host.job()).unwrap();
    fs::read_to_string(kernel.initrd().unwrap()).unwrap()
}

fn with_modules(mark: &str) -> Vec<Member<'static>> {
    vec![
        Member::File("vmlinux", vmlinux(true)),
        Member::File("initrd.img", mark.as_bytes().to_vec()),
        Member::File("modules/kernel/virtio_ring.ko", module("virtio_ring", "")),
        Member::File("modules/modules.dep", b"kernel/virtio_ring.ko:\n".to_vec()),
    ]
}

#[test]
fn a_pull_killed_at_any_step_leaves_the_old_kernel_and_can_be_repeated() {
    let bundle = packed(&tar(&with_modules("new")));
    let server = Server::serving(bundle.clone());
    for stop in ["downloading", "halfway", "checking the kernel's files", "writing the image", "bringing kernel"] {
        let host = Host::new();
        host.pull(&small("old")).unwrap();
        offer(&host, &server, &bundle);
        let mut child = start(&host, "pull", stop);
        assert_eq!(heard(&mut child).as_deref(), Some("stopped"), "{stop}");
        assert!(host.stored().iter().any(|entry| entry.starts_with(".staging-")), "{stop}: {:?}", host.stored());
        kill(child);
        assert_eq!(which(&host), "old", "{stop}");
        let mut again = start(&host, "pull", "");
        assert!(heard(&mut again).is_some_and(|said| said.starts_with("done")), "{stop}");
        assert!(again.wait().unwrap().success());
        assert_eq!(which(&host), "new", "{stop}");
        assert_eq!(host.stored(), ["test-6.1"], "{stop}: what the killed one left is swept by the next");
    }
}

#[test]
fn a_pull_killed_at_no_step_in_particular_leaves_one_of_the_two() {
    let bundles = ["even", "odd!"].map(|mark| packed(&tar(&with_modules(mark))));
    let servers = [0, 1].map(|n: usize| Server::serving(bundles[n].clone()));
    let host = Host::new();
    host.pull(&bundles[0]).unwrap();
    for round in 0..12_usize {
        let n = (round + 1) % 2;
        offer(&host, &servers[n], &bundles[n]);
        let before = which(&host);
        // From the last step a user sees, a little later each time: past the exchange of the two directories at last.
        let mut child = start(&host, "pull", "");
        let spins = round * 40;
        let staged = || host.stored().iter().any(|entry| entry.starts_with(".staging-"));
        while !staged() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        for _ in 0..spins {
            if !staged() {
                break;
            }
            let _ = fs::read_dir(host.temp.path().join("kernels")).unwrap().count();
        }
        kill(child);
        let after = which(&host);
        assert!(after == before || after == ["even", "odd!"][n], "{before} became {after}");
    }
    let mut last = start(&host, "pull", "");
    assert!(heard(&mut last).is_some());
    last.wait().unwrap();
    assert_eq!(host.stored(), ["test-6.1"]);
}

#[test]
fn an_import_killed_at_any_step_leaves_the_old_kernel_and_can_be_repeated() {
    for stop in ["copying", "writing the image", "checking the kernel's files", "bringing kernel"] {
        let host = Host::new();
        for member in with_modules("new") {
            let Member::File(path, content) = member else { unreachable!() };
            host.write(&format!("k/{path}"), &content);
        }
        host.pull(&small("old")).unwrap();
        let mut child = start(&host, "import", stop);
        assert_eq!(heard(&mut child).as_deref(), Some("stopped"), "{stop}");
        kill(child);
        assert_eq!(which(&host), "old", "{stop}");
        let mut again = start(&host, "import", "");
        assert!(heard(&mut again).is_some_and(|said| said.starts_with("done")), "{stop}");
        assert!(again.wait().unwrap().success());
        assert_eq!((which(&host).as_str(), host.stored()), ("new", vec!["test-6.1".to_owned()]), "{stop}");
    }
}

/// One block of noise, over and over.
struct Noise {
    block: Vec<u8>,
    at: usize,
}

impl Noise {
    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(1 << 20);
        while block.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend(state.to_le_bytes());
        }
        Self { block, at: 0 }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(self.block.len() - self.at);
        buffer[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at = (self.at + n) % self.block.len();
        Ok(n)
    }
}

/// A zstd frame that asks for the largest window a pull accepts and packs nothing: what comes out is as long as what
/// goes in, and making it costs nothing. (RFC 8878, 3.1.1: magic, no sizes, a window of 2^25, raw blocks.)
struct Unpacked<W: Write> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> Unpacked<W> {
    const BLOCK: usize = 128 << 10;

    fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(&[0x28, 0xb5, 0x2f, 0xfd, 0, (25 - 10) << 3])?;
        Ok(Self { out, block: Vec::with_capacity(Self::BLOCK) })
    }

    fn emit(&mut self, is_last: bool) -> io::Result<()> {
        let header = u32::try_from(self.block.len()).unwrap() << 3 | u32::from(is_last);
        self.out.write_all(&header.to_le_bytes()[..3])?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for Unpacked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(Self::BLOCK - self.block.len());
        self.block.extend(&bytes[..n]);
        if self.block.len() == Self::BLOCK {
            self.emit(false)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a bundle of 1 GiB, less a little: the largest a pull takes.
fn write_large(out: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(Unpacked::begin(out)?);
    super::fixture::append(&mut archive, &Member::File("vmlinux", vmlinux(true)));
    super::fixture::append(&mut archive, &Member::File("modules/modules.dep", b"kernel/large.ko:\n".to_vec()));
    for (path, length) in [("initrd.img", 510 << 20), ("modules/kernel/large.ko", 512 << 20)] {
        let mut header = tar::Header::new_gnu();
        header.set_path(path)?;
        header.set_size(length);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, Noise::new().take(length))?;
    }
    archive.into_inner()?.emit(true)
}

/// What a bundle is known by.
#[derive(Default)]
struct Measured {
    hash: Sha256,
    size: u64,
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_pull_takes_little_memory_however_large_the_bundle() {
    let host = Host::new();
    let mut measured = Measured::default();
    write_large(&mut measured).unwrap();
    let size = measured.size;
    assert!(((1 << 30) - (8 << 20)..=1 << 30).contains(&size), "{size}");
    let sha256 = super::super::hexadecimal(&measured.hash.finalize());
    let server = Server::start(move |mut request| {
        request.stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes())?;
        write_large(&mut request.stream)
    });
    let url = server.url("/large.tar.zst");
    let json = format!(
        r#"{{"version":1,"entries":[{{"name":"test-6.1","distro":"tests","arch":"x86_64","kernel_version":"6.1",
            "sources":[{{"type":"bundle","url":"{url}","sha256":"{sha256}","size":{size}}}]}}]}}"#
    );
    fs::write(host.temp.path().join("catalog.json"), json).unwrap();
    let mut child = start(&host, "pull", "");
    let said = heard(&mut child).expect("the child is done");
    assert!(child.wait().unwrap().success());
    let peak: u64 = said.strip_prefix("done ").unwrap().trim().parse().unwrap();
    assert!(peak <= 64 << 10, "{peak} KiB resident at the most");
    assert_eq!(fs::metadata(host.store.get(&name()).unwrap().initrd().unwrap()).unwrap().len(), 510 << 20);
}

#[test]
fn a_removal_waits_for_a_pull_and_then_takes_the_kernel_away() {
    let bundle = small("x");
    let answer = ok(&bundle);
    let server = Server::start(move |mut request| request.stream.write_all(&answer));
    let host = Host::new();
    let catalog = catalog(&source(&server.url("/b"), &bundle));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| host.store.pull(&name(), &catalog, true, &host.job()).unwrap());
            scope.spawn(|| drop(host.store.remove(&name(), &host.job())));
        }
    });
    if let Ok(kernel) = host.store.get(&name()) {
        host.store.verify(&kernel, &host.job()).unwrap();
        host.store.remove(&name(), &host.job()).unwrap();
    }
    assert!(host.stored().is_empty());
}
