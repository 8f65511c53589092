//! A fake QEMU without a virtual machine: the same arguments, the same monitor (QMP), a console, and on the guest
//! channel the real agent, run on the host. Its guest misbehaves on request (`banger_testkit::fake`).

#![expect(unsafe_code, reason = "descriptors are named by number")]

use banger_testkit::fake::{self, End, GUEST, Guest};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex},
};

/// Version printed for `--version`.
const VERSION: &str = "QEMU emulator version 7.2.99 (fake)";
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("--version") => writeln!(io::stdout(), "{VERSION}"),
        Some(GUEST) => fake::first_process(&args[1..]),
        _ => Machine::from_args(&args).and_then(Machine::run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "fake-qemu: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parts of the arguments that matter here.
struct Machine {
    monitor: UnixStream,
    console: io::PipeWriter,
    channel: UnixStream,
    initrd: PathBuf,
    append: String,
}

impl Machine {
    fn from_args(args: &[String]) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let mut descriptors: HashMap<String, RawFd> = HashMap::new();
        let number = |field: Option<String>| field.and_then(|field| field.parse().ok());
        let (mut monitor, mut console, mut channel, mut initrd, mut append) = (None, None, None, None, String::new());
        for pair in args.windows(2) {
            let [option, value] = pair else { continue };
            let field = |name: &str| {
                value.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
            };
            match option.as_str() {
                "-add-fd" => {
                    let both =
                        field("set").zip(number(field("fd"))).ok_or_else(|| invalid(format!("-add-fd {value}")))?;
                    descriptors.insert(format!("/dev/fdset/{}", both.0), both.1);
                }
                "-chardev" => {
                    let file = field("path").and_then(|path| descriptors.remove(&path));
                    let fd = number(field("fd")).or(file);
                    let both = field("id").zip(fd).ok_or_else(|| invalid(format!("-chardev {value}")))?;
                    descriptors.insert(both.0, both.1);
                }
                "-mon" => monitor = field("chardev"),
                "-serial" => console = value.strip_prefix("chardev:").map(str::to_owned),
                "-device" if value.starts_with("virtserialport,") => channel = field("chardev"),
                "-kernel" => drop(File::open(value).map_err(|error| invalid(format!("{value}: {error}")))?),
                "-blockdev" => {
                    let file = field("file.filename").unwrap_or_default();
                    File::open(&file).map_err(|error| invalid(format!("{file}: {error}")))?;
                }
                "-initrd" => initrd = Some(PathBuf::from(value)),
                "-append" => append.clone_from(value),
                _ => {}
            }
        }
        let mut take = |what: &str, id: Option<String>| {
            let fd = id.and_then(|id| descriptors.remove(&id)).ok_or_else(|| invalid(format!("no {what}")))?;
            // SAFETY: the number was given to this process for this, and each is taken once.
            Ok::<_, io::Error>(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        Ok(Self {
            monitor: take("monitor", monitor)?.into(),
            console: take("serial console", console)?.into(),
            channel: take("virtserialport", channel)?.into(),
            initrd: initrd.ok_or_else(|| invalid("no -initrd".into()))?,
            append,
        })
    }

    fn run(self) -> io::Result<()> {
        let monitor = Monitor::serve(self.monitor)?;
        let guest = Guest { console: self.console, initrd: self.initrd, append: self.append };
        match guest.run(self.channel, || ())? {
            End::Reset => monitor.shutdown("guest-reset"),
            End::Off => monitor.shutdown("guest-shutdown"),
        }
    }
}

/// The monitor, answering in a thread of its own.
struct Monitor(Arc<Mutex<UnixStream>>);

impl Monitor {
    fn serve(stream: UnixStream) -> io::Result<Self> {
        let lines = BufReader::new(stream.try_clone()?).lines();
        let monitor = Self(Arc::new(Mutex::new(stream)));
        monitor.say(&json!({ "QMP": { "version": { "qemu": { "major": 7, "minor": 2 } }, "capabilities": [] } }))?;
        let answering = Self(monitor.0.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(asked) = serde_json::from_str::<Value>(&line) else { continue };
                let answered = answering.say(&json!({ "return": {}, "id": asked["id"] }));
                if answered.is_err() {
                    return;
                }
            }
        });
        Ok(monitor)
    }

    fn say(&self, message: &Value) -> io::Result<()> {
        let mut stream = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        write!(stream, "{message}\r\n")
    }

    fn shutdown(&self, reason: &str) -> io::Result<()> {
        self.say(&json!({ "event": "SHUTDOWN", "data": { "guest": true, "reason": reason } }))
    }
}
