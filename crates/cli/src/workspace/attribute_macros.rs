//! Attribute macros of this host's git (`[attr]lfs filter=lfs`, gitattributes(5)): a patch that gives a file such an
//! attribute makes git run what the macro names, without naming it itself.

use super::{
    cannot,
    git::Git,
    patch::{Summary, attribute_line, refused, runs},
    repository::Repository,
};
use banger_proto::failure::Failure;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Largest file of attributes, in bytes.
const MAX_RULES: u64 = 64 << 20;
/// System-wide file of attributes.
const SYSTEM: &str = "/etc/gitattributes";

/// Names of macros that may run a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AttributeMacros(BTreeSet<Vec<u8>>);

impl AttributeMacros {
    /// Refuses a patch that gives a file one of the macros which are defined for the repository at `root`, or wherever
    /// else this user works.
    pub(super) fn check(summary: &Summary, root: Option<&Path>) -> Result<(), Failure> {
        if summary.attributes.is_empty() {
            return Ok(());
        }
        let known = Self::of(&files(root)?)?;
        for (path, name) in &summary.attributes {
            if known.0.contains(name) {
                let name = String::from_utf8_lossy(name);
                return Err(refused(path, &format!("it sets {name:?}, which this host lets stand for a program")));
            }
        }
        Ok(())
    }

    fn of(files: &[PathBuf]) -> Result<Self, Failure> {
        let mut texts = Vec::new();
        for file in files {
            texts.extend(read(file).map_err(|error| cannot("read", file, &error))?);
        }
        Ok(Self::defined(&texts))
    }

    /// Collects the macros of all texts. Where a name is defined twice, both definitions count.
    fn defined(texts: &[Vec<u8>]) -> Self {
        let lines = texts.iter().flat_map(|text| text.split(|byte| *byte == b'\n')).filter_map(attribute_line);
        let defined: Vec<_> = lines.filter_map(|line| Some((line.defines()?.to_vec(), line))).collect();
        let mut known = BTreeSet::new();
        // A macro may name another one.
        loop {
            let before = known.len();
            for (name, line) in &defined {
                let stands = |word: &[u8]| runs(word) || known.contains(word);
                if line.words().any(stands) {
                    known.insert(name.clone());
                }
            }
            if known.len() == before {
                return Self(known);
            }
        }
    }
}

/// Returns the files in which git looks for macros: in a tree only at its top.
fn files(root: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    let git = Git::find()?;
    let repository = root.and_then(|root| Repository::at(&git, root).ok());
    let mut files = vec![PathBuf::from(SYSTEM)];
    let call = repository.as_ref().map_or_else(|| git.call(), |repository| git.reading(&repository.git_dir));
    let named = call.with_user_settings().args(["config", "--type=path", "--get", "core.attributesFile"]).line()?;
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let users = || Some(dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")))?.join("git/attributes"));
    let named = named.map(|named| repository.as_ref().map_or(PathBuf::from("/"), |it| it.root.clone()).join(named));
    files.extend(named.or_else(users));
    if let Some(repository) = repository {
        files.extend([repository.root.join(".gitattributes"), repository.common_dir.join("info/attributes")]);
    }
    Ok(files)
}

/// Reads a whole file of attributes, through symbolic links as well: its content is shown to nobody.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_RULES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_RULES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_stand_for_programs_are_found() {
        let known = |text: &str| {
            let names = AttributeMacros::defined(&[text.as_bytes().to_vec()]).0.into_iter();
            names.map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(known("[attr]lfs filter=lfs diff=lfs -text\n[attr]plain text -diff\n* lfs\n"), ["lfs"]);
        assert_eq!(known("[attr]a b\n[attr]b c\n[attr]c merge=x\n[attr]d a\n"), ["a", "b", "c", "d"]);
        assert_eq!(known("  \"\\133attr]quoted\" filter=x\r\n#[attr]no filter=x\n[attr]off -lfs filter\n"), ["quoted"]);
        assert_eq!(known("\u{feff}[attr]first diff=x\n"), ["first"]);
        assert_eq!(known("[attr]cpp diff=cpp\nx filter=lfs\n[attr] filter=x\n"), [""; 0]);
    }
}
