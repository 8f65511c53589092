//! Reads a `.deb`: an `ar` archive of two tar archives.
//!
//! Returns the package's name and version and a stream of its files. It does not know which files matter and runs
//! nothing from the package.

use super::{
    archive::{self, ArchiveError, Limits, Member},
    codec::{Codec, CodecError, MAGIC_LEN},
};
use crate::job::Cancel;
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

/// Magic of an `ar` archive.
pub(super) const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Length of a member's header.
const HEADER: u64 = 60;
/// Upper bound of members read; a package has three or four.
const MAX_MEMBERS: usize = 16;
/// Upper bound of a `control` file, in bytes.
const MAX_CONTROL: u64 = 1 << 20;
/// Limits of the control archive, which holds scripts and checksums.
const CONTROL_LIMITS: Limits = Limits { entries: 1000, bytes: 64 << 20 };

/// Error of reading a package.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It could not be read.
    #[error("cannot read the package")]
    Io(#[from] io::Error),
    /// It is no package at all.
    #[error("it is not a Debian package")]
    NotDeb,
    /// It is a package, but damaged or incomplete.
    #[error("the package is malformed ({0})")]
    Malformed(&'static str),
    /// The compression of a part failed.
    #[error("cannot unpack the package")]
    Codec(#[from] CodecError),
    /// The content of a part is refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// An open package.
#[derive(Debug)]
pub struct Deb {
    file: File,
    data: Part,
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Architecture under Debian's name: `amd64`.
    pub architecture: String,
}

/// Range of the file, and its compression.
#[derive(Debug, Clone, Copy)]
struct Part {
    at: u64,
    length: u64,
    codec: Option<Codec>,
}

impl Deb {
    /// Locates the parts of `file` and reads its `control`.
    pub fn open(file: File, cancel: &Cancel) -> Result<Self, DebError> {
        let (control, data) = parts(&file)?;
        let mut text = None;
        archive::each(control.open(&file)?, CONTROL_LIMITS, cancel, |path, member| {
            if let Member::File(content) = member
                && path.as_os_str() == "control"
            {
                let mut bytes = Vec::new();
                content.take(MAX_CONTROL).read_to_end(&mut bytes)?;
                text = Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            Ok::<_, DebError>(())
        })?;
        let text = text.ok_or(DebError::Malformed("it has no control file"))?;
        let field = |name| field(&text, name).map(str::to_owned).ok_or(DebError::Malformed("its control file"));
        Ok(Self {
            package: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            data,
            file,
        })
    }

    /// Visits its files.
    pub fn each<E: From<ArchiveError> + From<DebError>>(
        &self,
        limits: Limits,
        cancel: &Cancel,
        visit: impl FnMut(&std::path::Path, Member<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        archive::each(self.data.open(&self.file)?, limits, cancel, visit)
    }
}

/// Returns the value of `name` in a block of `Name: value` lines.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .take_while(|line| !line.trim().is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

impl Part {
    fn open(self, file: &File) -> Result<Box<dyn Read + '_>, DebError> {
        let mut file = file;
        file.seek(SeekFrom::Start(self.at))?;
        let input = BufReader::with_capacity(1 << 20, file.take(self.length));
        match self.codec {
            Some(codec) => Ok(codec.decoder(input)?),
            None => Ok(Box::new(input)),
        }
    }
}

/// Locates the control and the data archive.
fn parts(file: &File) -> Result<(Part, Part), DebError> {
    let len = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    if len < MAGIC.len() as u64 {
        return Err(DebError::NotDeb);
    }
    file.read_exact_at(&mut magic, 0)?;
    if magic != *MAGIC {
        return Err(DebError::NotDeb);
    }
    let (mut control, mut data) = (None, None);
    let mut at = MAGIC.len() as u64;
    for index in 0..MAX_MEMBERS {
        if at + HEADER > len {
            break;
        }
        let mut header = [0; 60];
        file.read_exact_at(&mut header, at)?;
        // ASCII only, so that fields can be sliced by bytes.
        let text = std::str::from_utf8(&header).ok().filter(|text| text.is_ascii());
        let text = text.ok_or(DebError::Malformed("a member's header"))?;
        let name = text[..16].trim_end().trim_end_matches('/');
        let length: u64 = text[48..58].trim().parse().map_err(|_| DebError::Malformed("a member's length"))?;
        at += HEADER;
        // The length has at most ten digits, so this cannot overflow.
        if &text[58..] != "`\n" || at + length > len {
            return Err(DebError::Malformed("a member is cut off"));
        }
        if (index == 0) != (name == "debian-binary") {
            return Err(DebError::NotDeb);
        }
        let slot = if name.starts_with("control.tar") {
            Some(&mut control)
        } else if name.starts_with("data.tar") {
            Some(&mut data)
        } else {
            None
        };
        if let Some(slot) = slot
            && slot.replace(part(file, at, length, name)?).is_some()
        {
            return Err(DebError::Malformed("a member is there twice"));
        }
        at += length.next_multiple_of(2);
    }
    match (control, data) {
        (Some(control), Some(data)) => Ok((control, data)),
        _ => Err(DebError::Malformed("a part is missing")),
    }
}

fn part(file: &File, at: u64, length: u64, name: &str) -> Result<Part, DebError> {
    if ["control.tar", "data.tar"].contains(&name) {
        return Ok(Part { at, length, codec: None });
    }
    let mut magic = [0; MAGIC_LEN];
    if length < MAGIC_LEN as u64 {
        return Err(DebError::Malformed("a part is empty"));
    }
    file.read_exact_at(&mut magic, at)?;
    Ok(Part { at, length, codec: Some(Codec::sniff(&magic)?) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    fn member(ar: &mut Vec<u8>, name: &str, content: &[u8]) {
        ar.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes());
        ar.extend(content);
        if content.len() % 2 == 1 {
            ar.push(b'\n');
        }
    }

    /// A package made of a `control` text and a data archive, both packed with zstd.
    pub(in crate::kernel) fn package(control: &str, data: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(control.len() as u64);
        tar.append_data(&mut header, "./control", control.as_bytes()).unwrap();
        let mut ar = MAGIC.to_vec();
        member(&mut ar, "debian-binary", b"2.0\n");
        member(&mut ar, "control.tar.zst", &zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap());
        member(&mut ar, "data.tar.zst", &zstd::encode_all(data, 1).unwrap());
        ar
    }

    fn open(bytes: &[u8]) -> Result<Deb, DebError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Deb::open(file, &Cancel::default())
    }

    const CONTROL: &str =
        "Package: linux-image-6.1\nVersion: 6.1.5-1\nArchitecture: amd64\nDescription: x\n Version: 9\n";

    #[test]
    fn name_version_and_files_are_read() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        tar.append_data(&mut header, "./boot/x", &b"hello"[..]).unwrap();
        let deb = open(&package(CONTROL, &tar.into_inner().unwrap())).unwrap();
        assert_eq!((deb.package.as_str(), deb.version.as_str()), ("linux-image-6.1", "6.1.5-1"));
        let mut seen = String::new();
        deb.each(Limits { entries: 10, bytes: 10_000 }, &Cancel::default(), |path, member| {
            if let Member::File(content) = member {
                seen = format!("{} ", path.display());
                content.read_to_string(&mut seen)?;
            }
            Ok::<_, DebError>(())
        })
        .unwrap();
        assert_eq!(seen, "boot/x hello");
    }

    #[test]
    fn damaged_packages_are_refused() {
        let whole = package(CONTROL, b"");
        assert!(matches!(open(b""), Err(DebError::NotDeb)));
        assert!(matches!(open(b"\x7fELF............"), Err(DebError::NotDeb)));
        for cut in [9, 70, 130, whole.len() - 3] {
            assert!(open(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(open(&package("Package: x\n", b"")).is_err());
        let mut huge = whole.clone();
        huge[8 + 48..8 + 58].copy_from_slice(b"9999999999");
        assert!(matches!(open(&huge), Err(DebError::Malformed(_))));
        for at in [8 + 15, 8 + 47, 8 + 57] {
            let mut split = whole.clone();
            split[at..at + 2].copy_from_slice("\u{e9}".as_bytes());
            assert!(matches!(open(&split), Err(DebError::Malformed(_))), "a letter across two fields at {at}");
        }
        let twice = [&whole[..], &whole[8 + 64..]].concat();
        assert!(matches!(open(&twice), Err(DebError::Malformed("a member is there twice"))));
    }
}
