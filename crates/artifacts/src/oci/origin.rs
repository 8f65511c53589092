//! Sources of images, as a person types them.

use super::{InvalidReference, Reference};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Source of an image: a registry, or a file or directory with images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// `alpine:3.20`, `registry.local:5000/team/app@sha256:…`.
    Registry(Reference),
    /// `oci:DIR[:NAME]`: a directory with an OCI layout.
    Layout(ArchivePath),
    /// `oci-archive:FILE[:NAME]`: an OCI layout in a tar.
    OciArchive(ArchivePath),
    /// `docker-archive:FILE[:NAME]`: the output of `docker save`.
    DockerArchive(ArchivePath),
}

/// Path, optionally followed by a colon and the name of one image in it. Where the path ends is decided when it is
/// opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePath(String);

/// Error: the text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// It is not a reference to a registry either.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The path is relative: it would depend on the working directory of whoever reads it.
    #[error("{0:?} is not an absolute path")]
    Relative(String),
}

impl ArchivePath {
    /// Returns the path and the name, if there is one.
    pub(super) fn split(&self) -> (PathBuf, Option<&str>) {
        let whole = Path::new(&self.0);
        if whole.exists() {
            return (whole.into(), None);
        }
        // A full reference as the name has colons of its own, so the first existing path counts.
        let mut parts = self.0.match_indices(':').map(|(at, _)| (&self.0[..at], &self.0[at + 1..]));
        let fits = parts.find(|(path, _)| Path::new(path).exists());
        fits.map_or((whole.into(), None), |(path, name)| (path.into(), Some(name)))
    }
}

impl ImageSource {
    /// What errors call a layout, if the error above them has its path.
    pub(super) const LAYOUT: &str = "the layout";
    /// What they call a tar.
    pub(super) const ARCHIVE: &str = "the archive";

    /// What errors call the source: its reference; or the kind of file it is, because the error above has its path.
    pub(crate) fn called(&self) -> String {
        match self {
            Self::Registry(reference) => reference.to_string(),
            Self::Layout(_) => Self::LAYOUT.to_owned(),
            Self::OciArchive(_) | Self::DockerArchive(_) => Self::ARCHIVE.to_owned(),
        }
    }
}

impl FromStr for ImageSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let place = |path: &str| {
            let shown = || InvalidSource::Relative(path.chars().take(200).collect());
            if path.starts_with('/') && !path.contains('\0') { Ok(ArchivePath(path.to_owned())) } else { Err(shown()) }
        };
        match text.split_once(':') {
            Some(("oci", path)) => Ok(Self::Layout(place(path)?)),
            Some(("oci-archive", path)) => Ok(Self::OciArchive(place(path)?)),
            Some(("docker-archive", path)) => Ok(Self::DockerArchive(place(path)?)),
            _ => Ok(Self::Registry(text.parse()?)),
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(ArchivePath(place)) => write!(f, "oci:{place}"),
            Self::OciArchive(ArchivePath(place)) => write!(f, "oci-archive:{place}"),
            Self::DockerArchive(ArchivePath(place)) => write!(f, "docker-archive:{place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed() {
        for (text, shown) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("oci:/tmp/x", "oci:/tmp/x"),
            ("oci-archive:/tmp/x.tar:v1", "oci-archive:/tmp/x.tar:v1"),
            ("docker-archive:/x", "docker-archive:/x"),
        ] {
            assert_eq!(text.parse::<ImageSource>().unwrap().to_string(), shown);
        }
        for bad in ["", "oci:x", "oci:", "docker-archive:../x", "oci-archive:/a\0b", "A"] {
            assert!(bad.parse::<ImageSource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_what_no_path_is() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("a.tar");
        std::fs::write(&file, "").unwrap();
        let file = file.to_str().unwrap();
        let split = |text: String| ArchivePath(text).split().1.map(str::to_owned);
        assert_eq!(split(file.to_owned()), None);
        assert_eq!(split(format!("{file}:v1")).as_deref(), Some("v1"));
        assert_eq!(split(format!("{file}:localhost:5000/a/b:v1")).as_deref(), Some("localhost:5000/a/b:v1"));
        assert_eq!(split(format!("{file}.none")), None);
    }
}
