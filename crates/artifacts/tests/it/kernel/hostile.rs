//! Bundles that mean harm, servers that do, and what neither may bring about.

use super::{
    super::web::{Server, ok, redirect},
    bundle::{catalog, chain, name, packed, small, source},
    fixture::{Host, Member, append, quiet, tar, vmlinux},
};
use banger_artifacts::{
    fetch::Client,
    job::Cancel,
    kernel::{Kernel, KernelError, unpack_bundle},
};
use proptest::prelude::*;
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    time::Duration,
};

/// A host with a good kernel, on which everything else fails.
struct Victim {
    host: Host,
    good: Kernel,
}

impl Victim {
    fn new() -> Self {
        let mut host = Host::new();
        let client = Client { stall: Duration::from_millis(400), pauses: vec![Duration::ZERO; 3], ..Client::default() };
        host.store = host.store.downloading_with(client);
        let good = host.pull(&small("good")).unwrap();
        Self { host, good }
    }

    /// Pulls what `server` gives in the place of `bundle`; the reason why that failed, empty if it did not.
    fn refuses_from(&self, server: &Server, bundle: &[u8]) -> String {
        let catalog = catalog(&source(&server.url("/b.tar.zst"), bundle));
        let Err(error) = self.host.store.pull(&name(), &catalog, true, &self.host.job()) else { return String::new() };
        self.is_as_it_was();
        assert!(matches!(error, KernelError::Pull { .. }), "{error:?}");
        let text = chain(&error);
        assert!(!text.contains(char::is_control), "{text}");
        assert!(text.contains("test-6.1"), "the catalog's entry is named: {text}");
        text
    }

    fn refuses(&self, bundle: &[u8]) -> String {
        self.refuses_from(&Server::serving(bundle), bundle)
    }

    fn is_as_it_was(&self) {
        assert_eq!(self.host.stored(), ["test-6.1"]);
        assert_eq!(self.host.store.get(&name()).unwrap(), self.good);
        self.good.verify(&self.host.job()).unwrap();
    }
}

#[test]
fn hostile_members_are_refused_by_name() {
    let victim = Victim::new();
    let kernel = || Member::File("vmlinux", vmlinux(true));
    let file = |path| Member::File(path, b"x".to_vec());
    let other_machine = || {
        let mut elf = vmlinux(true);
        elf[18] = 183;
        elf
    };
    let cases: Vec<(&[&str], Vec<Member<'_>>)> = vec![
        (&["\"/etc/passwd\"", "not a plain relative path"], vec![kernel(), file("/etc/passwd")]),
        (&["\"../x\"", "not a plain relative path"], vec![kernel(), file("../x")]),
        (&["\"modules/../../x\"", "not a plain relative path"], vec![kernel(), file("modules/../../x")]),
        (&["\"modules/..\"", "not a plain relative path"], vec![kernel(), Member::Directory("modules/..")]),
        // Links that lead out: absolute, relative, through a directory link, to nothing, to each other.
        (&["modules/a", "lead to anything inside"], vec![kernel(), Member::Link("modules/a", "/etc/passwd")]),
        (
            &["modules/a", "lead to anything inside"],
            vec![kernel(), Member::Link("modules/a", "../../../../../etc/passwd")],
        ),
        (&["modules/a", "lead to anything inside"], vec![kernel(), Member::Link("modules/a", "../vmlinux")]),
        (&["modules/a", "lead to anything inside"], vec![kernel(), Member::Link("modules/a", "..")]),
        (
            &["modules/", "lead to anything inside"],
            vec![
                kernel(),
                file("modules/d/e/f"),
                Member::Link("modules/l", "d/e"),
                Member::Link("modules/m", "l/../../../x"),
            ],
        ),
        (
            &["modules/a", "lead to anything inside"],
            vec![kernel(), Member::Link("modules/a", "b"), Member::Link("modules/b", "a")],
        ),
        // A directory that becomes a link, a link that becomes a directory, and writing through one.
        (
            &["modules/d", "is there twice"],
            vec![kernel(), Member::Directory("modules/d"), file("modules/d/x"), Member::Link("modules/d", "/tmp")],
        ),
        (&["modules/d", "is there twice"], vec![kernel(), Member::Link("modules/d", "/tmp"), file("modules/d/x")]),
        (&["modules/f", "is there twice"], vec![kernel(), file("modules/f"), file("modules/f/x")]),
        (&["modules/f", "is there twice"], vec![kernel(), file("modules/f"), Member::Directory("modules/f")]),
        (&["modules", "file or link"], vec![kernel(), Member::Link("modules", "/tmp"), file("modules/x")]),
        (&["modules", "file or link"], vec![kernel(), file("modules")]),
        (&["vmlinux", "is a link"], vec![Member::Link("vmlinux", "/boot/vmlinuz")]),
        (&["vmlinux", "is a link"], vec![file("initrd.img"), Member::HardLink("vmlinux", "initrd.img")]),
        (&["initrd.img", "is a link"], vec![kernel(), Member::Link("initrd.img", "/etc/shadow")]),
        (&["manifest.json", "is a link"], vec![kernel(), Member::Link("manifest.json", "/etc/shadow")]),
        // Hard links out.
        (
            &["\"/etc/passwd\"", "not a plain relative path"],
            vec![kernel(), Member::HardLink("modules/h", "/etc/passwd")],
        ),
        (&["\"../../x\"", "not a plain relative path"], vec![kernel(), Member::HardLink("modules/h", "../../x")]),
        (&["modules/h", "lead to anything inside"], vec![kernel(), Member::HardLink("modules/h", "vmlinux")]),
        (&["modules/h", "lead to anything inside"], vec![kernel(), Member::HardLink("modules/h", "modules/none")]),
        (
            &["modules/h", "lead to anything inside"],
            vec![kernel(), Member::Link("modules/l", "/etc"), Member::HardLink("modules/h", "modules/l/passwd")],
        ),
        // Kinds that have no place: character and block device, fifo, sparse file, and what tar has no number for.
        (&["modules/c", "is a device"], vec![kernel(), Member::Typed("modules/c", b'3')]),
        (&["modules/b", "is a device"], vec![kernel(), Member::Typed("modules/b", b'4')]),
        (&["modules/p", "is a fifo"], vec![kernel(), Member::Fifo("modules/p")]),
        (&["modules/s", "unknown type"], vec![kernel(), Member::Typed("modules/s", b's')]),
        (&["vmlinux", "is a fifo"], vec![Member::Fifo("vmlinux")]),
        (&["vmlinux", "is a directory"], vec![Member::Directory("vmlinux/")]),
        // Too many of one, or none that will do.
        (&["vmlinux", "is there twice"], vec![kernel(), kernel()]),
        (&["vmlinux", "is there twice"], vec![kernel(), Member::File("./vmlinux", vmlinux(false))]),
        (&["initrd.img", "is there twice"], vec![kernel(), file("initrd.img"), file("initrd.img")]),
        (&["there is no member vmlinux"], vec![file("initrd.img")]),
        (&["there is no member vmlinux"], vec![]),
        (&["vmlinux cannot be used", "not an ELF file"], vec![Member::File("vmlinux", Vec::new())]),
        (&["vmlinux cannot be used", "not an ELF file"], vec![Member::File("vmlinux", vec![b'M'; 4096])]),
        (&["vmlinux cannot be used", "another machine"], vec![Member::File("vmlinux", other_machine())]),
        (&["vmlinux cannot be used", "cut off"], vec![Member::File("vmlinux", vmlinux(true)[..9_000].to_vec())]),
        (&["etc/passwd", "has no place"], vec![kernel(), file("etc/passwd")]),
        (&["vmlinux/x", "has no place"], vec![kernel(), file("vmlinux/x")]),
        (&["work/lib/modules/x", "has no place"], vec![kernel(), file("work/lib/modules/x")]),
    ];
    for (expected, members) in cases {
        let text = victim.refuses(&packed(&tar(&members)));
        assert!(expected.iter().all(|expected| text.contains(expected)), "{expected:?}: {text:?}");
    }
}

#[test]
fn floods_and_bombs_are_cut_off() {
    let victim = Victim::new();
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    append(&mut archive, &Member::File("vmlinux", vmlinux(true)));
    let mut header = tar::Header::new_gnu();
    header.set_path("initrd.img").unwrap();
    header.set_size(100 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append(&header, std::io::repeat(0).take(100 << 20)).unwrap();
    let bomb = archive.into_inner().unwrap().finish().unwrap();
    assert!(bomb.len() < 300_000, "{}", bomb.len());
    let text = victim.refuses(&bomb);
    assert!(text.contains("more than 100 times its size, in member initrd.img"), "{text}");

    // Not much is written, but the headers have to be read; they do not pack so well as to be a bomb.
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    append(&mut archive, &Member::File("vmlinux", vmlinux(true)));
    let mut noise = 1_u64;
    for _ in 0..1_000_000 {
        let mut header = tar::Header::new_gnu();
        header.set_path("modules").unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        for byte in &mut header.as_mut_bytes()[265..329] {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = noise.to_be_bytes()[0];
        }
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
    }
    let text = victim.refuses(&archive.into_inner().unwrap().finish().unwrap());
    assert!(text.contains("after member modules: it has more than 100000 members"), "{text}");

    // A window nobody needs, which would take more memory than a whole pull may.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&tar(&[Member::File("vmlinux", vmlinux(true))])).unwrap();
    let text = victim.refuses(&encoder.finish().unwrap());
    assert!(text.contains("too much memory"), "{text}");
}

#[test]
fn damaged_streams_are_refused() {
    let victim = Victim::new();
    let whole = tar(&[Member::File("vmlinux", vmlinux(true)), Member::File("initrd.img", vec![7; 5000])]);
    let bundle = packed(&whole);
    for cut in [3, 100, bundle.len() / 2, bundle.len() - 1] {
        let text = victim.refuses(&bundle[..cut]);
        assert!(text.contains("damaged or incomplete") || text.contains("cannot read the archive"), "{cut}: {text}");
    }
    for trailing in [&b"garbage"[..], &[0; 4], &b"\x28\xb5\x2f\xfd"[..]] {
        let text = victim.refuses(&[&bundle[..], trailing].concat());
        assert!(text.contains("after member initrd.img"), "{text}");
    }
    for trailing in [&b"x"[..], &tar(&[Member::File("vmlinux", vmlinux(true))])[..], &vec![0; 3 << 20]] {
        let text = victim.refuses(&packed(&[&whole[..], trailing].concat()));
        assert!(text.contains("something after its last member initrd.img"), "{text}");
        let text = victim.refuses(&[&bundle[..], &packed(trailing)].concat());
        assert!(text.contains("something after its last member initrd.img"), "{text}");
    }
    let in_the_middle = packed(&whole[..whole.len() - 4000]);
    let text = victim.refuses(&in_the_middle);
    assert!(text.contains("after member initrd.img"), "{text}");
    assert!(victim.refuses(b"this is not zstd").contains("cannot read the archive"));
    assert!(victim.refuses(&whole).contains("cannot read the archive"), "packed it is not");
    let mut flipped = bundle.clone();
    flipped[bundle.len() / 2] ^= 0x40;
    let server = Server::serving(flipped);
    assert!(!victim.refuses_from(&server, &bundle).is_empty());
}

#[test]
fn hostile_servers_bring_nothing_about() {
    let victim = Victim::new();
    let bundle = small("new");
    let other = small("old");
    assert_eq!(bundle.len(), other.len());
    let length = bundle.len();
    let (whole, longer) = (bundle.clone(), [&bundle[..], b"more"].concat());
    let stalling = bundle[..length / 2].to_vec();
    let half = stalling.clone();
    let servers = [
        ("and the catalog says", Server::serving(other)),
        ("the server announces", Server::serving(longer.clone())),
        ("the server announces", Server::serving(&bundle[..length - 1])),
        ("there are more than", Server::raw([b"HTTP/1.1 200 OK\r\n\r\n", &longer[..]].concat())),
        ("the server stopped after", Server::raw([b"HTTP/1.1 200 OK\r\n\r\n", &whole[..length - 1]].concat())),
        ("the server stopped after", Server::raw(ok(&bundle)[..length / 2].to_vec())),
        (
            "nothing more came for",
            Server::start(move |mut request| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                request.stream.write_all(&[head.as_bytes(), &half[..]].concat())?;
                request.stall()
            }),
        ),
        ("nothing more came for", Server::start(|mut request| request.stall())),
        ("cannot connect to", Server::start(|_| Ok(()))),
        ("from one address to the next", Server::raw(redirect("/b.tar.zst"))),
        ("which is refused", Server::raw(redirect("http://192.0.2.1/b.tar.zst"))),
        (
            "answers 500 Internal Server Error: \"<b>no\"",
            Server::raw("HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\n<b>no"),
        ),
    ];
    for (expected, server) in servers {
        let text = victim.refuses_from(&server, &bundle);
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(text.contains(&server.url("/b.tar.zst")), "{text}");
    }
    let kernel = victim.host.pull(&bundle).unwrap();
    assert_eq!(fs::read(kernel.initrd().unwrap()).unwrap(), b"new");
}

/// What is below `root`, with contents, except for what is in `root/into`.
fn outside(root: &Path) -> Vec<(String, Vec<u8>)> {
    fn level(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            let content = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.push((format!("{} {:?}", path.display(), kind.file_type()), content));
            if kind.is_dir() && !path.ends_with("into") {
                level(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    level(root, &mut found);
    found.sort();
    found
}

/// Unpacks into a directory beside which something stands that must not change.
fn unpack(stream: &[u8]) -> Result<(), KernelError> {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("into")).unwrap();
    fs::create_dir(temp.path().join("beside")).unwrap();
    fs::write(temp.path().join("secret"), "secret").unwrap();
    let before = outside(temp.path());
    let result = unpack_bundle(stream, &temp.path().join("into"), &quiet(&Cancel::default()));
    assert_eq!(outside(temp.path()), before);
    for entry in fs::read_dir(temp.path().join("into")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(["vmlinux", "initrd.img", "work"].iter().any(|known| name == *known), "{}", name.display());
    }
    if result.is_ok() {
        let root = fs::canonicalize(temp.path().join("into")).unwrap();
        assert_links_stay(&root, &root);
    }
    result
}

/// No link below `dir` leads out of `root`.
fn assert_links_stay(root: &Path, dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            let target = fs::canonicalize(&path);
            assert!(target.as_ref().is_ok_and(|target| target.starts_with(root)), "{}: {target:?}", path.display());
        } else if path.is_dir() {
            assert_links_stay(root, &path);
        }
    }
}

/// Paths and link targets that meet each other often.
fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(&["modules", "a", "b", "c", "..", ".", "", "vmlinux", "work", "lib"][..]);
    let whole = prop::sample::select(
        &[
            "vmlinux",
            "initrd.img",
            "manifest.json",
            "modules",
            "/",
            "/tmp",
            "../secret",
            "../../secret",
            "modules/a/../../..",
        ][..],
    );
    prop_oneof![
        3 => prop::collection::vec(part, 1..5).prop_map(|parts| format!("modules/{}", parts.join("/"))),
        1 => whole.prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_archive_writes_outside(members in prop::collection::vec((0_u8..8, path(), path()), 0..12)) {
        // A kernel comes first, so that what is refused is refused for its path, and links are looked at to the end.
        let kernel = std::iter::once(Member::File("vmlinux", vmlinux(true)));
        let members: Vec<_> = kernel
            .chain(members.iter().map(|(kind, path, other)| match kind {
                0 | 1 => Member::File(path, other.clone().into_bytes()),
                2 => Member::Directory(path),
                3 | 4 => Member::Link(path, other),
                5 => Member::HardLink(path, other),
                6 => Member::Mode(path, 0o7777, Vec::new()),
                _ => Member::Typed(path, other.bytes().last().unwrap_or(b'7')),
            }))
            .collect();
        let _ = unpack(&packed(&tar(&members)));
    }

    #[test]
    fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), packs: bool) {
        let members = [
            Member::Directory("modules"),
            Member::Link("modules/a", "b"),
            Member::File("modules/b", b"content".to_vec()),
            Member::File("vmlinux", vmlinux(true)),
        ];
        let mut bytes = if packs { packed(&tar(&members)) } else { tar(&members) };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = unpack(&if packs { bytes } else { packed(&bytes) });
    }
}

/// What fuzzing and people came up with; `fuzz/` has the target that adds to it. Each file is tried as a bundle and as
/// the archive in one.
#[test]
fn the_corpus_is_replayed() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/bundle");
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let content = fs::read(&path).unwrap();
        let _ = unpack(&content);
        let result = unpack(&packed(&content));
        let is_hostile = path.file_name().unwrap().to_string_lossy().starts_with("refused-");
        assert_eq!(is_hostile, result.is_err(), "{}: {result:?}", path.display());
        count += 1;
    }
    assert!(count >= 10, "{count} files");
}
