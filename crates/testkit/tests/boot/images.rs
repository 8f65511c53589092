//! Images of other people boot as they are, pulled from a real registry: a Debian with systemd and everything an image
//! may hold, and a single program.

use crate::{BOOT, delete};
use banger_testkit::{Entry, ImageLayout, LayerWriter, Registry, TestEnv, require, shared};
use serde_json::json;
use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tar::EntryType;

/// Pulling half a gigabyte with a debug build and booting systemd, on a busy machine.
const PULL: Duration = Duration::from_secs(400);
/// Length of the large file, nearly all of it a hole: over what 32 bits count.
const LARGE: u64 = (4 << 30) + (1 << 20);
/// Files in one directory.
const MANY: u32 = 100_000;
/// `cap_net_bind_service=ep` as `setcap` writes it.
const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Prints who it is, where, with what; whether it may take a port below 1024; and ends with 42.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <netinet/in.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
    char dir[4096];
    const char *greeting = getenv("GREETING");
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(80) };
    int s = socket(AF_INET, SOCK_STREAM, 0);
    const char *port = bind(s, (struct sockaddr *)&address, sizeof address) ? "no" : "yes";
    printf("%d:%d as %d in %s: %s %s, port 80: %s\n", getuid(), getgid(), geteuid(), getcwd(dir, sizeof dir),
        greeting ? greeting : "-", argc > 1 ? argv[1] : "-", port);
    return 42;
}
"#;

/// The program, static.
fn program(dir: &Path) -> Vec<u8> {
    let (source, program) = (dir.join("program.c"), dir.join("program"));
    fs::write(&source, PROGRAM).expect("room");
    let output = Command::new("gcc").args(["-static", "-O1", "-s", "-o"]).args([&program, &source]).output();
    let output = output.expect("gcc, which links everything here");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(program).expect("it was written")
}

/// The files of the golden image.
fn debian(env: &TestEnv, dir: &Path) -> PathBuf {
    let images: Vec<_> = fs::read_dir(env.layout().images()).expect("images").flatten().collect();
    let rootfs = images.iter().map(|image| image.path().join("rootfs.ext4")).find(|path| path.is_file());
    let tree = dir.join("debian");
    fs::create_dir(&tree).expect("a new directory");
    let request = format!("rdump / {}", tree.display());
    let output =
        Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(rootfs.expect("the golden image")).output();
    assert!(output.expect("debugfs").status.success());
    tree
}

/// Everything an image may hold that is not in a Debian.
fn odd_things(layer: &mut LayerWriter, program: &[u8]) {
    const EXECUTABLE: Entry<'_> = Entry { mode: 0o755, ..Entry::FILE };
    layer.add("opt/work", &Entry::DIR, "");
    layer.add("opt/probe", &EXECUTABLE, program);
    layer.add("opt/capable", &Entry { xattrs: &[("security.capability", &BIND)], ..EXECUTABLE }, program);
    layer.add("opt/setuid", &Entry { mode: 0o4755, ..Entry::FILE }, program);
    // One more name for a file of the layer below.
    layer.add("opt/release", &Entry { kind: EntryType::Link, link: b"usr/lib/os-release", ..Entry::FILE }, "");
    layer.add("opt/null", &Entry { kind: EntryType::Char, mode: 0o666, device: (1, 3), ..Entry::FILE }, "");
    layer.add("opt/disk", &Entry { kind: EntryType::Block, device: (259, 70_000), ..Entry::FILE }, "");
    layer.add("opt/pipe", &Entry { kind: EntryType::Fifo, ..Entry::FILE }, "");
    layer.add("opt/owned", &Entry { owner: (4_000_000_000, 3_999_999_999), ..Entry::FILE }, "");
    layer.add("opt/old", &Entry { mtime: "-86400.25", ..Entry::FILE }, "");
    layer.add("opt/new", &Entry { mtime: "4102444800", ..Entry::FILE }, "");
    layer.add(b"opt/caf\xe9", &Entry::FILE, "latin");
    layer.add(format!("opt/{}", "n".repeat(255)), &Entry::FILE, "long name");
    layer.add(deep(), &Entry::FILE, "long path");
    // Zeros pack so well that alone they would be a bomb.
    layer.stream("opt/noise", &Entry::FILE, 8 << 20, fs::File::open("/dev/urandom").expect("it is there"));
    let end = b"end";
    let zeros = io::repeat(0).take(LARGE - end.len() as u64);
    layer.stream("opt/large", &Entry::FILE, LARGE, zeros.chain(&end[..]));
    for n in 0..MANY {
        layer.add(format!("opt/many/file-{n}"), &Entry::FILE, n.to_string());
    }
}

/// A path of 4,096 bytes, the most an image may have.
fn deep() -> String {
    let path = format!("opt/{}", format!("{}/", "d".repeat(200)).repeat(20));
    let rest = 4096 - path.len();
    format!("{path}{}", "f".repeat(rest))
}

/// Says one line about each of them.
const LOOK: &str = r"
cd /opt
# The agent answers before the image's init has taken its place and its name.
for n in $(seq 600); do grep -q systemd /proc/1/comm && break; sleep 0.1; done
cat /proc/1/comm
[ release -ef /usr/lib/os-release ] && stat -c 'links %h' release
stat -c '%n %F %Hr:%Lr' null disk; stat -c '%n %F' pipe
echo nothing > null && echo written
stat -c '%n %u %g' owned
stat -c '%n %Y' old new
cat caf*; echo
cat nnnn*; echo
cd d*/ && while cd d*/ 2>/dev/null; do :; done; cat f*; echo
cd /opt
stat -c '%n %s' large; tail -c 4 large | od -An -c
[ $(stat -c %b large) -lt 100 ] && echo sparse
ls -f many | wc -l; cat many/file-77777; echo
";
const SEEN: &str = r"systemd
links 2
null character special file 1:3
disk block special file 259:70000
pipe fifo
written
owned 4000000000 3999999999
old -86401
new 4102444800
latin
long name
long path
large 4296015872
  \0   e   n   d
sparse
100002
77777
";

#[test]
fn a_debian_with_systemd_and_everything_an_image_may_hold() {
    if ["registry", "packers", "e2fsck", "root"].iter().any(|it| !require(it)) {
        return;
    }
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let dir = env.home().join("made");
    fs::create_dir(&dir).expect("a new directory");
    let (program, tree) = (program(&dir), debian(&env, &dir));
    let mut image = ImageLayout::new(&dir.join("layout"));
    image.layer(&["zstd", "-1", "-q"], |layer| layer.tree(&tree));
    fs::remove_dir_all(&tree).expect("ours");
    image.layer(&["zstd", "-1", "-q"], |layer| odd_things(layer, &program));
    let run = json!({"Env": ["GREETING=hello"], "WorkingDir": "/opt/work", "User": "1234:4321"});
    let source = image.finish("v1", &run);
    let registry = Registry::start(&dir, "");
    registry.push(&[], &source, "team/debian:v1");
    fs::remove_dir_all(dir.join("layout")).expect("ours");

    let reference = registry.reference("team/debian:v1");
    let args =
        ["vm", "run", "-d", "--quiet", "--memory", "512M", "--init", "auto", "--name", "odd", "--image", &reference];
    env.banger(args).patience(PULL).run().expect(0);
    let look = env.banger(["vm", "exec", "-u", "0", "odd", "--", "sh", "-c", LOOK]).patience(BOOT).run().expect(0);
    assert_eq!(look.out(), SEEN, "{look}");
    for (args, said) in [
        (&["odd", "--", "/opt/probe", "x"][..], "1234:4321 as 1234 in /opt/work: hello x, port 80: no\n"),
        (&["odd", "--", "/opt/capable"], "1234:4321 as 1234 in /opt/work: hello -, port 80: yes\n"),
        (&["odd", "--", "/opt/setuid"], "1234:4321 as 0 in /opt/work: hello -, port 80: yes\n"),
        (
            &["-u", "7", "-w", "/", "-e", "GREETING=bye", "odd", "--", "/opt/probe"],
            "7:7 as 7 in /: bye -, port 80: no\n",
        ),
    ] {
        let out = env.banger(["vm", "exec"].iter().chain(args)).patience(BOOT).run().expect(42);
        assert_eq!(out.out(), said, "{args:?}: {out}");
    }
    // The image's user cannot be sshd; whoever enters is whom ssh names.
    if require("ssh") {
        let out = env.banger(["vm", "ssh", "odd", "--", "id", "-un"]).patience(BOOT).run().expect(0);
        assert_eq!(out.out(), "root\n", "{out}");
    }
    // It is a process with this home in its arguments.
    drop(registry);
    delete(&env, "odd");
}

#[test]
fn a_single_program_without_a_shell() {
    if !require("registry") {
        return;
    }
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let dir = env.home().join("made");
    fs::create_dir(&dir).expect("a new directory");
    let program = program(&dir);
    let mut image = ImageLayout::new(&dir.join("layout"));
    image.layer(&[], |layer| layer.add("serve", &Entry { mode: 0o755, ..Entry::FILE }, &program));
    let run = json!({"Env": ["GREETING=hello"], "WorkingDir": "/srv/data", "User": "1234:4321",
        "Entrypoint": ["/serve"], "Cmd": ["quietly"]});
    let source = image.finish("v1", &run);
    let registry = Registry::start(&dir, "");
    registry.push(&[], &source, "serve:v1");
    let reference = registry.reference("serve:v1");

    // Its own command, and nothing else in the image: no shell, no init, no /etc.
    let machine = ["--quiet", "--memory", "256M", "--image", &reference];
    let out = env.banger(["vm", "run", "--rm"].iter().chain(&machine)).patience(BOOT).run().expect(42);
    assert_eq!(out.out(), "1234:4321 as 1234 in /srv/data: hello quietly, port 80: no\n", "{out}");

    env.banger(["vm", "run", "-d", "--name", "one"].iter().chain(&machine)).patience(BOOT).run().expect(0);
    let exec = |args: &[&str]| env.banger(["vm", "exec"].iter().chain(args)).patience(BOOT).run();
    let out = exec(&["one", "--", "/serve", "x"]).expect(42);
    assert_eq!(out.out(), "1234:4321 as 1234 in /srv/data: hello x, port 80: no\n", "{out}");
    let out = exec(&["-u", "0", "-w", "/", "-e", "GREETING=bye", "one", "--", "/serve"]).expect(42);
    assert_eq!(out.out(), "0:0 as 0 in /: bye -, port 80: yes\n", "{out}");
    let out = exec(&["one", "--", "sh"]).expect(127);
    assert!(out.err().contains("sh"), "{out}");
    drop(registry);
    delete(&env, "one");
}
