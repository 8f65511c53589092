//! Names of attributes that this host's own rules let stand for others (`[attr]lfs filter=lfs`): a patch that gives a file
//! such a name makes git run what the rules say, without saying so itself.

use super::{
    about,
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

/// Largest file of rules.
const MAX_RULES: u64 = 64 << 20;
/// Everybody's rules.
const SYSTEM: &str = "/etc/gitattributes";

/// What of them may run a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Macros(BTreeSet<Vec<u8>>);

impl Macros {
    /// A refusal of a patch that gives a file one of the names which count in the repository at `root`, or wherever else
    /// this user works.
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
            texts.extend(read(file).map_err(|error| about("read", file, &error))?);
        }
        Ok(Self::defined(&texts))
    }

    /// Wherever one name is defined twice, both count.
    fn defined(texts: &[Vec<u8>]) -> Self {
        let lines = texts.iter().flat_map(|text| text.split(|byte| *byte == b'\n')).filter_map(attribute_line);
        let defined: Vec<_> = lines.filter_map(|line| Some((line.defines()?.to_vec(), line))).collect();
        let mut known = BTreeSet::new();
        // One may stand for another.
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

/// Where git finds such rules: it takes them from nowhere below the top of a tree.
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

/// All of a file of rules, wherever its name leads: nothing of it is shown to anybody.
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
            let names = Macros::defined(&[text.as_bytes().to_vec()]).0.into_iter();
            names.map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(known("[attr]lfs filter=lfs diff=lfs -text\n[attr]plain text -diff\n* lfs\n"), ["lfs"]);
        assert_eq!(known("[attr]a b\n[attr]b c\n[attr]c merge=x\n[attr]d a\n"), ["a", "b", "c", "d"]);
        assert_eq!(known("  \"\\133attr]quoted\" filter=x\r\n#[attr]no filter=x\n[attr]off -lfs filter\n"), ["quoted"]);
        assert_eq!(known("\u{feff}[attr]first diff=x\n"), ["first"]);
        assert_eq!(known("[attr]cpp diff=cpp\nx filter=lfs\n[attr] filter=x\n"), [""; 0]);
    }
}
