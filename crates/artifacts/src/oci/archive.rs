//! Images in files: an OCI layout in a directory or a tar, and the output of `docker save`.
//!
//! A tar is not unpacked: the positions of its members are read once, and members are read in place.

use super::{
    Digest, ImageSource, Limits, OciError, Platform, Reference,
    compression::Compression,
    document::{Descriptor, Document, DocumentError, MAX_DOCUMENT, Manifest, check_manifest},
    platform::listed,
};
use crate::{
    job::Job,
    tar::{self, EntryKind, Reader},
};
use flate2::read::MultiGzDecoder;
use rustix::fs::OFlags;
use serde::Deserialize;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Upper bound of the members of a tar with images.
const MAX_MEMBERS: usize = 100_000;
/// Upper bound of the bytes of their names and link targets.
const MAX_NAMES: usize = 32 << 20;
/// Upper bound of nested indexes that are followed, and of the images that are named in an error.
const MAX_DEPTH: usize = 4;
const MAX_NAMED: usize = 12;
/// Block size of tar in bytes.
const BLOCK: u64 = 512;

/// Files of an archive, by name.
#[derive(Debug)]
pub(super) struct ArchiveFiles {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory,
    Tar { file: File, members: HashMap<Vec<u8>, Member> },
}

#[derive(Debug, Clone)]
enum Member {
    Content { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// Image that was found in an archive.
#[derive(Debug)]
pub(super) struct FoundImage {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
    /// Name in the archive.
    pub(super) name: Option<String>,
}

/// Image in the output of `docker save`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    pub(super) config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl SavedImage {
    /// Returns the names of the members that are its layers, lowest first.
    pub(super) fn layers(&self) -> &[String] {
        self.layers.as_deref().unwrap_or_default()
    }

    /// Returns its first tag, or the one it was found by.
    pub(super) fn tag(&self) -> Option<&str> {
        self.repo_tags.as_ref()?.first().map(String::as_str)
    }
}

impl ArchiveFiles {
    /// Opens a directory.
    pub(super) fn directory(path: PathBuf) -> Result<Self, OciError> {
        let metadata = fs::metadata(&path).map_err(OciError::unreadable("open it"))?;
        if !metadata.is_dir() {
            return Err(OciError::Archive("it is not a directory; oci-archive: reads a layout in a tar".into()));
        }
        Ok(Self { path, kind: Kind::Directory })
    }

    /// Opens a tar, compressed or not.
    pub(super) fn tar(path: PathBuf, work: &Path, limits: Limits, job: &Job<'_>) -> Result<Self, OciError> {
        if path.is_dir() {
            return Err(OciError::Archive("it is a directory; oci: reads a layout in one".into()));
        }
        let (file, _) = open_regular(&path).map_err(OciError::unreadable("open it"))?;
        let file = match decompressed(&file, work, limits, job)? {
            Some(spool) => spool,
            None => file,
        };
        let members = members(&file, job).map_err(OciError::Archive)?;
        Ok(Self { path, kind: Kind::Tar { file, members } })
    }

    /// Returns the position of a file's bytes: file, offset, length.
    pub(super) fn open(&self, name: &str) -> Result<(File, u64, u64), OciError> {
        match &self.kind {
            Kind::Directory => {
                let opened = open_regular(&self.path.join(name)).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => missing(name),
                    _ => OciError::unreadable(format!("open its {}", shown(name)))(error),
                });
                opened.map(|(file, length)| (file, 0, length))
            }
            Kind::Tar { file, members } => {
                let mut key = normalize(name.as_bytes());
                // `docker save` wrote links for layers that several images share.
                for _ in 0..2 {
                    match members.get(&key) {
                        Some(Member::Content { offset, size }) => {
                            let file = file.try_clone().map_err(OciError::unreadable("open it"))?;
                            return Ok((reopen(&file).unwrap_or(file), *offset, *size));
                        }
                        Some(Member::Link(target)) => key.clone_from(target),
                        None => break,
                    }
                }
                Err(missing(name))
            }
        }
    }

    /// Reads a small file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let (file, offset, size) = self.open(name)?;
        if size > MAX_DOCUMENT {
            let what = format!("its {} has more than 4 MiB", shown(name));
            return Err(OciError::Archive(what));
        }
        let mut bytes = vec![0; usize::try_from(size).expect("at most 4 MiB")];
        let read = file.read_exact_at(&mut bytes, offset);
        read.map_err(OciError::unreadable(format!("read its {}", shown(name))))?;
        Ok(bytes)
    }

    /// Returns the image of that name, or the only one, for the platform, from an OCI layout.
    pub(super) fn find(&self, name: Option<&str>, platform: &Platform) -> Result<FoundImage, OciError> {
        let what = self.called().to_owned();
        if !self.has("index.json") && self.has("manifest.json") {
            return Err(unusable("it is not in OCI's layout; docker-archive: reads what `docker save` wrote"));
        }
        let index = self.document("index.json", None, &what)?;
        let Document::Index(all) = index else { return Err(unusable("its index.json is no list")) };
        if all.is_empty() {
            return Err(unusable("it has no images"));
        }
        let mut candidates = match name {
            Some(name) => called(&all, name),
            None => all.clone(),
        };
        if candidates.is_empty() || (name.is_none() && several_names(&candidates)) {
            let names: Vec<&str> = all.iter().filter_map(|d| d.name.as_deref()).take(MAX_NAMED).collect();
            let why = match name {
                Some(name) => format!("it has no image {name:?}; it has: {}", names.join(", ")),
                None => format!("it has several images; name one after another colon: {}", names.join(", ")),
            };
            return Err(unusable(&why));
        }
        if let Ok(chosen) = choose(&candidates, platform) {
            let same = |other: &&Descriptor| other.platform == chosen.platform && other.digest != chosen.digest;
            let others: Vec<String> = candidates.iter().filter(same).take(MAX_NAMED).map(label).collect();
            if !others.is_empty() {
                let why = format!("several of its images fit: {}, {}", label(chosen), others.join(", "));
                return Err(unusable(&why));
            }
        }
        let found_as = candidates.iter().find_map(|d| d.name.clone());
        for _ in 0..MAX_DEPTH {
            let chosen = choose(&candidates, platform).map_err(|there| OciError::Platform {
                asked: platform.clone(),
                of: what.clone(),
                there,
            })?;
            match self.document(&blob_name(&chosen.digest), Some(chosen), &what)? {
                Document::Manifest(manifest) => {
                    return Ok(FoundImage { manifest, digest: chosen.digest, name: found_as });
                }
                Document::Index(more) => candidates = more,
            }
        }
        Err(unusable("its lists lead to lists without end"))
    }

    /// Returns the image of that name, or the only one, from the output of `docker save`.
    pub(super) fn saved(&self, name: Option<&str>) -> Result<SavedImage, OciError> {
        if !self.has("manifest.json") && self.has("index.json") {
            return Err(unusable("`docker save` did not write it; oci-archive: reads OCI's layout"));
        }
        let bytes = self.read("manifest.json")?;
        let of = self.called().to_owned();
        let all = saved_manifest(&bytes).map_err(|source| OciError::Document { what: "manifest", of, source })?;
        if all.is_empty() {
            return Err(unusable("it has no images"));
        }
        let tags = |saved: &SavedImage| saved.repo_tags.clone().unwrap_or_default();
        let fits = |saved: &&SavedImage| name.is_none_or(|name| tags(saved).iter().any(|tag| same_name(tag, name)));
        let mut fitting = all.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(saved), None) => {
                let mut saved = saved.clone();
                if let (Some(name), Some(tags)) = (name, &mut saved.repo_tags) {
                    tags.retain(|tag| same_name(tag, name));
                }
                Ok(saved)
            }
            (first, _) => {
                let names: Vec<String> = all.iter().flat_map(tags).take(MAX_NAMED).collect();
                let problem =
                    if first.is_some() { "several images; name one after another colon" } else { "no such image" };
                Err(unusable(&format!("it has {problem}: {}", names.join(", "))))
            }
        }
    }

    fn document(&self, name: &str, listed: Option<&Descriptor>, of: &str) -> Result<Document, OciError> {
        let bytes = self.read(name)?;
        check_manifest(&bytes, listed.map(|it| it.digest), listed.map(|it| it.size), of)?;
        Document::parse(&bytes, None).map_err(|source| OciError::Document {
            what: "manifest",
            of: of.to_owned(),
            source,
        })
    }

    fn has(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Directory => self.path.join(name).exists(),
            Kind::Tar { members, .. } => members.contains_key(name.as_bytes()),
        }
    }

    /// What errors call it: the one above them has the path.
    fn called(&self) -> &'static str {
        match self.kind {
            Kind::Directory => ImageSource::LAYOUT,
            Kind::Tar { .. } => ImageSource::ARCHIVE,
        }
    }
}

fn unusable(why: &str) -> OciError {
    OciError::Archive(why.chars().take(600).collect())
}

fn missing(name: &str) -> OciError {
    unusable(&format!("there is no {} in it", shown(name)))
}

/// Formats a member's name, which may be from a document in the archive.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(200).collect::<String>())
}

/// Opens a regular file and returns its length. Does not block if the path is a fifo without a writer.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok((file, metadata.len()))
}

/// Decompresses a tar; `None` if it is not compressed.
fn decompressed(file: &File, work: &Path, limits: Limits, job: &Job<'_>) -> Result<Option<File>, OciError> {
    let mut magic = [0; 4];
    file.read_at(&mut magic, 0).map_err(OciError::unreadable("read it"))?;
    let decoder: Box<dyn Read + '_> = match Compression::detect(magic) {
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        Compression::Zstd => Box::new(zstd::Decoder::new(file).map_err(OciError::unreadable("read it"))?),
        Compression::None => {
            let packed = match magic {
                [0xfd, b'7', b'z', b'X'] => "xz",
                [b'B', b'Z', b'h', b'1'..=b'9'] => "bzip2",
                _ => return Ok(None),
            };
            let why = format!("it is compressed with {packed}, which is not read here; `{packed} -d` unpacks it");
            return Err(OciError::Archive(why));
        }
    };
    job.progress.phase("unpacking the archive");
    let mut spool = tempfile::tempfile_in(work).map_err(OciError::io("make a file in", work))?;
    let packed = file.metadata().map_err(OciError::unreadable("read it"))?.len();
    let max = limits.max_unpacked.min(packed.saturating_mul(limits.max_ratio).max(limits.ratio_exempt));
    copy_bounded(decoder, &mut spool, max, job).map_err(OciError::unreadable("unpack it"))?;
    Ok(Some(spool))
}

/// Parses the manifest of the output of `docker save`.
pub(super) fn saved_manifest(json: &[u8]) -> Result<Vec<SavedImage>, DocumentError> {
    if json.len() as u64 > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge);
    }
    Ok(serde_json::from_slice(json)?)
}

/// Returns the best of several manifests for a platform, or the platforms there are.
pub(super) fn choose<'d>(all: &'d [Descriptor], asked: &Platform) -> Result<&'d Descriptor, Vec<Platform>> {
    // A manifest without a platform may fit: its configuration decides.
    let score = |descriptor: &Descriptor| descriptor.platform.as_ref().map_or(1, |platform| platform.serves(asked));
    let mut best: Option<(&Descriptor, u8)> = None;
    for descriptor in all {
        let score = score(descriptor);
        if score > best.map_or(0, |(_, best)| best) {
            best = Some((descriptor, score));
        }
    }
    best.map(|(descriptor, _)| descriptor).ok_or_else(|| {
        let mut there: Vec<Platform> = Vec::new();
        for platform in all.iter().filter_map(|descriptor| descriptor.platform.as_ref()) {
            if !there.contains(platform) {
                there.push(platform.clone());
            }
        }
        tracing::debug!(asked = %asked, there = listed(&there), "no manifest fits");
        there
    })
}

/// Returns the path of a blob in an OCI layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Whether there are images of several names. One image under several names is one.
fn several_names(all: &[Descriptor]) -> bool {
    let is_other = |other: &Descriptor| other.name != all[0].name && other.digest != all[0].digest;
    all.iter().any(is_other)
}

/// Returns the descriptors of that name, or, when there are none, those of that bare tag.
fn called(all: &[Descriptor], name: &str) -> Vec<Descriptor> {
    let is = |there: Option<&str>| there.is_some_and(|there| same_name(there, name));
    let named: Vec<Descriptor> = all.iter().filter(|d| is(d.name.as_deref())).cloned().collect();
    if named.is_empty() { all.iter().filter(|d| d.tag.as_deref() == Some(name)).cloned().collect() } else { named }
}

/// Name and digest of an image, for a list of candidates.
fn label(descriptor: &Descriptor) -> String {
    format!("{} ({})", descriptor.name.as_deref().unwrap_or("unnamed"), descriptor.digest.short())
}

/// Whether a name in an archive is the one asked for, in either's short or full form.
fn same_name(there: &str, asked: &str) -> bool {
    let full = |text: &str| text.parse::<Reference>().map(|reference| reference.to_string()).ok();
    there == asked || full(there).is_some_and(|there| Some(there) == full(asked))
}

/// Opens the file again with a position of its own, so that several layers can be read at once.
fn reopen(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd as _;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Returns the positions of the members of a tar.
fn members(file: &File, job: &Job<'_>) -> Result<HashMap<Vec<u8>, Member>, String> {
    let mut found = HashMap::new();
    let (mut at, mut names) = (0, 0);
    let mut input = BufReader::with_capacity(16 << 10, file);
    for _ in 0..MAX_MEMBERS {
        job.cancel.check().map_err(|error| error.to_string())?;
        input.seek(SeekFrom::Start(at)).map_err(|error| error.to_string())?;
        let mut reader = Reader::new(&mut input, tar::Limits::NONE).open_ended();
        let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? else { return Ok(found) };
        let offset = at + reader.position();
        let member = match entry.kind {
            EntryKind::File => Some(Member::Content { offset, size: entry.size }),
            EntryKind::HardLink(target) => Some(Member::Link(normalize(&target))),
            EntryKind::Symlink(target) => {
                let directory =
                    entry.path.iter().rposition(|&byte| byte == b'/').map_or(&[][..], |at| &entry.path[..at]);
                Some(Member::Link(normalize(&[directory, b"/", &target].concat())))
            }
            EntryKind::Dir | EntryKind::Node(_) => None,
        };
        if let Some(member) = member {
            names += entry.path.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
            if names > MAX_NAMES {
                return Err(format!("the names of its members have more than {MAX_NAMES} bytes"));
            }
            found.insert(normalize(&entry.path), member);
        }
        at = offset.checked_add(entry.size.next_multiple_of(BLOCK)).ok_or("a member has no end")?;
    }
    Err(format!("it has more than {MAX_MEMBERS} members"))
}

/// Normalizes a name: `./a//b/../c` becomes `a/c`.
fn normalize(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn copy_bounded(mut from: impl Read, to: &mut File, max: u64, job: &Job<'_>) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    loop {
        job.cancel.check().map_err(io::Error::other)?;
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        done += got as u64;
        if done > max {
            return Err(io::Error::other(format!("it unpacks to more than {max} bytes")));
        }
        to.write_all(&buffer[..got])?;
        job.progress.advance(done, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_mean() {
        for (name, means) in [("./a//b/../c", "a/c"), ("/x/", "x"), ("../../etc", "etc"), ("", "")] {
            assert_eq!(normalize(name.as_bytes()), means.as_bytes());
        }
    }
}
