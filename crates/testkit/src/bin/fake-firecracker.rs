//! A fake Firecracker without a virtual machine: the same API, a console on standard output, hybrid vsock, and behind
//! it the real agent, run on the host. Its guest misbehaves on request (`banger_testkit::fake`), and it attempts what a
//! compromised VMM would attempt (`banger_testkit::escape_attempts`).

use banger_proto::agent::link::{KNOCK_PORT, LINK_PORT};
use banger_testkit::{
    escape_attempts,
    fake::{self, End, GUEST, Guest},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread,
};

/// Version printed for `--version`.
const VERSION: &str = "1.15.99";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("--version") => writeln!(io::stdout(), "Firecracker v{VERSION}"),
        Some(GUEST) => fake::first_process(&args[1..]),
        _ => serve(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "fake-firecracker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves the API in a thread of its own and runs the guest in this one; the process ends with the guest.
fn serve(args: &[String]) -> io::Result<()> {
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let socket = option("--api-sock").ok_or_else(|| invalid("no --api-sock"))?;
    let id = option("--id").cloned().unwrap_or_default();
    let listener = UnixListener::bind(socket)?;
    let (start, started) = mpsc::channel();
    thread::spawn(move || {
        let mut api = Api { id, bodies: HashMap::new(), running: false, start };
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that goes away in the middle is no reason to stop.
            let _ = api.answer(&stream);
        }
    });
    let machine: Machine = started.recv().map_err(io::Error::other)?;
    machine.run()
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

/// Configuration so far, and the one machine started from it.
struct Api {
    id: String,
    bodies: HashMap<String, Value>,
    running: bool,
    start: mpsc::Sender<Machine>,
}

impl Api {
    fn answer(&mut self, stream: &UnixStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            match header.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, answer) = match self.act(method, path, &body) {
            Ok(Value::Null) => ("204 No Content", String::new()),
            Ok(value) => ("200 OK", value.to_string()),
            Err(error) => ("400 Bad Request", json!({ "fault_message": error.to_string() }).to_string()),
        };
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
    }

    fn act(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Value> {
        if (method, path) == ("GET", "/") {
            let state = if self.running { "Running" } else { "Not started" };
            return Ok(json!({ "id": self.id, "state": state, "vmm_version": VERSION, "app_name": "Firecracker" }));
        }
        let body: Value = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
        match (method, path) {
            ("PUT", "/actions") if body["action_type"] == "InstanceStart" && !self.running => {
                self.start.send(Machine::of(&self.bodies)?).map_err(io::Error::other)?;
                self.running = true;
            }
            ("PUT", "/machine-config" | "/boot-source" | "/vsock" | "/entropy") if !self.running => {
                self.bodies.insert(path.to_owned(), body);
            }
            ("PUT", _) if path.starts_with("/drives/") && !self.running => {
                let file = body["path_on_host"].as_str().unwrap_or_default();
                File::open(file).map_err(|error| invalid(format!("{file}: {error}")))?;
            }
            ("PUT", _) if path.starts_with("/network-interfaces/") && !self.running => {}
            _ => return Err(invalid(format!("{method} {path} is not supported now"))),
        }
        Ok(Value::Null)
    }
}

/// Parts of a machine that matter here.
struct Machine {
    initrd: PathBuf,
    append: String,
    vsock: PathBuf,
    listener: UnixListener,
}

impl Machine {
    fn of(bodies: &HashMap<String, Value>) -> io::Result<Self> {
        let text = |path: &str, field: &str| {
            let text = bodies.get(path).and_then(|body| body[field].as_str());
            text.map(str::to_owned).ok_or_else(|| invalid(format!("no {field} in {path}")))
        };
        if bodies.get("/machine-config").is_none_or(|body| body["mem_size_mib"].as_u64().is_none()) {
            return Err(invalid("no mem_size_mib"));
        }
        let kernel = text("/boot-source", "kernel_image_path")?;
        File::open(&kernel).map_err(|error| invalid(format!("{kernel}: {error}")))?;
        let vsock = PathBuf::from(text("/vsock", "uds_path")?);
        Ok(Self {
            initrd: text("/boot-source", "initrd_path")?.into(),
            append: text("/boot-source", "boot_args")?,
            listener: UnixListener::bind(&vsock)?,
            vsock,
        })
    }

    fn run(self) -> io::Result<()> {
        if escape_attempts::is_asked(&self.append) {
            io::stdout().write_all(escape_attempts::attempt(&self.append).as_bytes())?;
            loop {
                thread::park();
            }
        }
        let (host, agent) = UnixStream::pair()?;
        let Self { initrd, append, vsock, listener } = self;
        // Before the guest starts: a thread that has unshared its pid namespace cannot create threads any more.
        thread::spawn(move || carry(&listener, &host));
        let serves = move || knock(&vsock);
        match (Guest { console: io::stdout(), initrd, append }).run(agent, serves)? {
            End::Reset => Ok(()),
            // Firecracker keeps running when its guest halts.
            End::Off => loop {
                thread::park();
            },
        }
    }
}

/// Connects to the host as the agent does when it listens.
fn knock(vsock: &Path) {
    let mut name = vsock.as_os_str().to_owned();
    name.push(format!("_{KNOCK_PORT}"));
    // A host that does not listen misses it, as with a real guest's agent.
    let _ = UnixStream::connect(name);
}

/// Connects one caller after the other with the agent.
fn carry(listener: &UnixListener, agent: &UnixStream) {
    for caller in listener.incoming().map_while(Result::ok) {
        let _ = speak(caller, agent);
    }
}

fn speak(mut caller: UnixStream, agent: &UnixStream) -> io::Result<()> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        caller.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    if line != format!("CONNECT {LINK_PORT}\n").into_bytes() {
        return Ok(());
    }
    caller.write_all(b"OK 1073741824\n")?;
    let (mut to_agent, mut from_caller) = (agent.try_clone()?, caller.try_clone()?);
    let inward = thread::spawn(move || io::copy(&mut from_caller, &mut to_agent));
    let outward = io::copy(&mut &*agent, &mut caller);
    let _ = caller.shutdown(Shutdown::Both);
    let _ = inward.join();
    outward.map(drop)
}
