//! Kernels, packages and stores small enough to be made in a test.

use banger_artifacts::{
    job::{Cancel, Job, Progress, Silent},
    kernel::{Codec, KernelStore},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};
use tempfile::TempDir;

/// What `uname -r` of the made-up kernels says.
pub(super) const RELEASE: &str = "6.1.0-7-test";

/// A store below a temporary directory, and room for inputs.
pub(super) struct Host {
    pub(super) temp: TempDir,
    pub(super) store: KernelStore,
    pub(super) cancel: Cancel,
    pub(super) phases: Phases,
}

/// Progress that remembers its phases and notices.
#[derive(Default)]
pub(super) struct Phases(pub(super) Mutex<Vec<String>>);

impl Progress for Phases {
    fn phase(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
    fn advance(&self, _: u64, _: Option<u64>) {}
    fn notice(&self, text: &str) {
        self.0.lock().unwrap().push(format!("notice: {text}"));
    }
}

impl Host {
    pub(super) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = KernelStore::open(&temp.path().join("kernels"), &temp.path().join("cache")).unwrap();
        Self { temp, store, cancel: Cancel::default(), phases: Phases::default() }
    }

    pub(super) fn job(&self) -> Job<'_> {
        Job { progress: &self.phases, cancel: &self.cancel }
    }

    /// A path for an input.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("input").join(name)
    }

    /// Writes an input file.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// What is in the store's directory, hidden files included: nothing may be left over.
    pub(super) fn stored(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.temp.path().join("kernels"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A job nobody watches.
pub(super) fn quiet(cancel: &Cancel) -> Job<'_> {
    Job { progress: &Silent, cancel }
}

/// A minimal kernel image: a banner, one loaded segment and, when asked for, the PVH note.
pub(super) fn vmlinux(pvh: bool) -> Vec<u8> {
    let mut content = format!("Linux version %s\0Linux version {RELEASE} (a@b) #1 SMP\0").into_bytes();
    content.extend(b"ACPI: Core revision %08x");
    // Something that packs, but not to nothing.
    content.extend((0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()));
    let mut note = Vec::new();
    if pvh {
        for word in [4_u32, 4, 18] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0\0\0\0\x01");
    }
    let data = 64 + 2 * 56;
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, value) in [(16, 2_u16), (18, 62), (32, 64), (54, 56), (56, 2)] {
        elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    for (kind, offset, size) in [(1_u32, data + note.len(), content.len()), (4, data, note.len())] {
        let mut entry = [0; 56];
        entry[..4].copy_from_slice(&kind.to_le_bytes());
        entry[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
        entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend(entry);
    }
    elf.extend(note);
    elf.extend(content);
    elf
}

/// A bzImage around `payload`, which is packed already; `unpacked` is the length it unpacks to. As the kernel's build
/// does it: gzip carries its length itself, behind the others it is appended.
pub(super) fn bzimage(codec: Codec, payload: &[u8], unpacked: usize) -> Vec<u8> {
    let mut payload = payload.to_vec();
    if codec != Codec::Gzip {
        payload.extend(u32::try_from(unpacked).unwrap().to_le_bytes());
    }
    let (mut image, length_at) = bzimage_head();
    let length_at = usize::try_from(length_at).unwrap();
    image[length_at..length_at + 4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend(payload);
    image.extend(b"what follows the payload");
    image
}

/// What stands before the payload of a bzImage, and where in it the payload's length belongs.
pub(super) fn bzimage_head() -> (Vec<u8>, u64) {
    const SETUP_SECTORS: usize = 3;
    const OFFSET: usize = 100;
    let mut image = vec![0; (SETUP_SECTORS + 1) * 512 + OFFSET];
    let version = 0x300_usize;
    image[0x1f1] = u8::try_from(SETUP_SECTORS).unwrap();
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&u16::try_from(version - 0x200).unwrap().to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&u32::try_from(OFFSET).unwrap().to_le_bytes());
    let text = format!("{RELEASE} (a@b) #1 SMP\0");
    image[version..version + text.len()].copy_from_slice(text.as_bytes());
    (image, 0x24c)
}

/// `data` packed by the program the kernel's build calls for it.
pub(super) fn packed(codec: Codec, data: &[u8]) -> Vec<u8> {
    let (program, args): (_, &[&str]) = match codec {
        Codec::Gzip => ("gzip", &["-n", "-f", "-9"]),
        Codec::Bzip2 => ("bzip2", &["-9"]),
        Codec::Lzma => ("lzma", &["-9", "-c"]),
        Codec::Xz => ("xz", &["--check=crc32", "--x86", "--lzma2=,dict=32MiB", "-c"]),
        Codec::Lz4Legacy => ("lz4", &["-l", "-9", "-c", "-"]),
        Codec::Zstd => ("zstd", &["-22", "--ultra", "-c"]),
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let data = data.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&data));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
    output.stdout
}

/// The same with the encoders banger's own dependencies bring along.
pub(super) fn packed_in_rust(codec: Codec, data: &[u8]) -> Vec<u8> {
    use liblzma::stream::{LzmaOptions, Stream};
    fn all<W: Write>(mut encoder: W, data: &[u8], finish: impl FnOnce(W) -> Vec<u8>) -> Vec<u8> {
        encoder.write_all(data).unwrap();
        finish(encoder)
    }
    match codec {
        Codec::Gzip => all(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()), data, |encoder| {
            encoder.finish().unwrap()
        }),
        Codec::Bzip2 => all(bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best()), data, |encoder| {
            encoder.finish().unwrap()
        }),
        Codec::Xz => all(liblzma::write::XzEncoder::new(Vec::new(), 6), data, |encoder| encoder.finish().unwrap()),
        Codec::Lzma => {
            let stream = Stream::new_lzma_encoder(&LzmaOptions::new_preset(6).unwrap()).unwrap();
            all(liblzma::write::XzEncoder::new_stream(Vec::new(), stream), data, |encoder| encoder.finish().unwrap())
        }
        Codec::Zstd => zstd::encode_all(data, 3).unwrap(),
        Codec::Lz4Legacy => {
            let mut out = 0x184c_2102_u32.to_le_bytes().to_vec();
            for chunk in data.chunks(8 << 20) {
                let block = lz4_flex::block::compress(chunk);
                out.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
                out.extend(block);
            }
            out
        }
    }
}

/// One member of a tar archive.
pub(super) enum Member<'a> {
    File(&'a str, Vec<u8>),
    /// A file with these mode bits.
    Mode(&'a str, u32, Vec<u8>),
    Directory(&'a str),
    Link(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Fifo(&'a str),
    /// A member with this type byte.
    Typed(&'a str, u8),
}

/// A tar archive with the members, however bad their names are.
pub(super) fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for member in members {
        append(&mut archive, member);
    }
    archive.into_inner().unwrap()
}

pub(super) fn append<W: Write>(archive: &mut tar::Builder<W>, member: &Member<'_>) {
    let (kind, path, link, content) = match member {
        Member::File(path, content) | Member::Mode(path, _, content) => {
            (tar::EntryType::Regular, *path, "", content.as_slice())
        }
        Member::Directory(path) => (tar::EntryType::Directory, *path, "", &[][..]),
        Member::Link(path, target) => (tar::EntryType::Symlink, *path, *target, &[][..]),
        Member::HardLink(path, target) => (tar::EntryType::Link, *path, *target, &[][..]),
        Member::Fifo(path) => (tar::EntryType::Fifo, *path, "", &[][..]),
        Member::Typed(path, kind) => (tar::EntryType::new(*kind), *path, "", &[][..]),
    };
    let mut header = tar::Header::new_gnu();
    // Straight into the header: the crate would not write some of these.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(if let Member::Mode(_, mode, _) = member { *mode } else { 0o644 });
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

/// A Debian package with the members, named `linux-image-<release>`, for `architecture`.
pub(super) fn deb(architecture: &str, members: &[Member<'_>]) -> Vec<u8> {
    let control =
        format!("Package: linux-image-{RELEASE}\nVersion: 6.1.5-1\nArchitecture: {architecture}\nDescription: x\n");
    let mut control_archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(control.len() as u64);
    control_archive.append_data(&mut header, "./control", control.as_bytes()).unwrap();
    let parts = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", packed_in_rust(Codec::Xz, &control_archive.into_inner().unwrap())),
        ("data.tar.xz", packed_in_rust(Codec::Xz, &tar(members))),
    ];
    let mut ar = b"!<arch>\n".to_vec();
    for (name, content) in parts {
        ar.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes());
        ar.extend(&content);
        ar.resize(ar.len().next_multiple_of(2), b'\n');
    }
    ar
}

/// A module `depmod` understands, made by nobody's compiler: an ELF object that exports the symbol `<name>_sym` and has
/// those of the modules in `depends` (comma-separated) undefined.
pub(super) fn module(name: &str, depends: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0name={name}\0vermagic={RELEASE} SMP \0").into_bytes();
    let exported = format!("{name}_sym\0").into_bytes();
    let (mut texts, mut symbols) = (vec![0], vec![0; 24]);
    for wanted in depends.split(',').filter(|wanted| !wanted.is_empty()) {
        let mut symbol = [0; 24];
        symbol[..4].copy_from_slice(&u32::try_from(texts.len()).unwrap().to_le_bytes());
        symbol[4] = 0x10; // global; section 0: undefined
        symbols.extend(symbol);
        texts.extend(format!("{wanted}_sym\0").bytes());
    }
    let names = b"\0.modinfo\0__ksymtab_strings\0.strtab\0.symtab\0.shstrtab\0";
    let name_of = |text: &str| names.windows(text.len()).position(|at| at == text.as_bytes()).unwrap();
    // Name, type, link, size of an entry, content.
    let sections: [(&str, u32, u32, u64, &[u8]); 5] = [
        (".modinfo", 1, 0, 0, &info),
        ("__ksymtab_strings", 1, 0, 0, &exported),
        (".strtab", 3, 0, 0, &texts),
        (".symtab", 2, 3, 24, &symbols),
        (".shstrtab", 3, 0, 0, names),
    ];
    let mut elf = vec![0; 64];
    let mut table = vec![0; 64];
    for (name, kind, link, entry, content) in sections {
        elf.resize(elf.len().next_multiple_of(8), 0);
        let mut section = [0; 64];
        section[..4].copy_from_slice(&u32::try_from(name_of(name)).unwrap().to_le_bytes());
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[24..32].copy_from_slice(&(elf.len() as u64).to_le_bytes());
        section[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        section[40..44].copy_from_slice(&link.to_le_bytes());
        section[56..64].copy_from_slice(&entry.to_le_bytes());
        table.extend(section);
        elf.extend(content);
    }
    elf.resize(elf.len().next_multiple_of(8), 0);
    let table_at = elf.len() as u64;
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[40..48].copy_from_slice(&table_at.to_le_bytes());
    for (at, value) in [(16, 1_u16), (18, 62), (20, 1), (52, 64), (58, 64), (60, 6), (62, 5)] {
        elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    elf.extend(table);
    elf
}

/// The names of `path`'s entries, sorted.
pub(super) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
