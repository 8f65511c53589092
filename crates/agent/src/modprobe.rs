//! A small `modprobe` for images without one. The kernel calls it to load a module by name or alias.
//!
//! It reads `modules.dep` and `modules.alias` of `/lib/modules/<release>`, and loads the module and its dependencies.
//! Options are ignored; compressed modules are left to the kernel (`MODULE_INIT_COMPRESSED_FILE`).

use crate::hosted::print_error;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    system::{finit_module, uname},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2).
const COMPRESSED: i32 = 4;
/// Most modules that one request may load.
const MAX_LOADED: usize = 128;

/// Loads the modules in the arguments.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let tree = PathBuf::from(format!("/lib/modules/{}", uname().release().to_string_lossy()));
    let mut code = ExitCode::SUCCESS;
    for name in args.iter().filter_map(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-')) {
        if let Err(error) = load(&tree, name) {
            print_error(&format!("modprobe: {name}: {error}"));
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn load(tree: &Path, name: &str) -> io::Result<()> {
    let mut files = find(tree, name)?;
    if files.is_empty() {
        for module in aliased(tree, name)? {
            files.extend(find(tree, &module)?);
        }
    }
    if files.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    for file in files.iter().take(MAX_LOADED) {
        let plain = Path::new(file).extension().is_some_and(|extension| extension == "ko");
        let flags = if plain { 0 } else { COMPRESSED };
        let module = open(tree.join(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        match finit_module(&module, c"", flags) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the files of the module and its dependencies in load order; empty if there is no such module.
fn find(tree: &Path, name: &str) -> io::Result<Vec<String>> {
    for line in BufReader::new(File::open(tree.join("modules.dep"))?).lines() {
        let line = line?;
        let Some((file, needs)) = line.split_once(':') else { continue };
        if same_name(stem(file), name) {
            // modules.dep lists the nearest dependency first; the farthest must be loaded first.
            let mut files: Vec<String> = needs.split_whitespace().map(str::to_owned).collect();
            files.reverse();
            files.push(file.to_owned());
            return Ok(files);
        }
    }
    Ok(Vec::new())
}

fn aliased(tree: &Path, name: &str) -> io::Result<Vec<String>> {
    let mut modules = Vec::new();
    for line in BufReader::new(File::open(tree.join("modules.alias"))?).lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next())
            && matches(pattern.as_bytes(), name.as_bytes())
        {
            modules.push(module.to_owned());
        }
    }
    Ok(modules)
}

fn stem(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name)
}

/// Compares module names; hyphens and underscores are equal.
fn same_name(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| a == b || (b"-_".contains(&a) && b"-_".contains(&b)))
}

/// Matches a shell pattern with `*`, `?` and `[…]`, as in aliases; hyphens and underscores are equal.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        let set_end = pattern
            .get(p)
            .filter(|byte| **byte == b'[')
            .and_then(|_| pattern[p..].iter().position(|byte| *byte == b']').map(|length| p + length));
        match (pattern.get(p), set_end) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(_), Some(end)) if in_set(&pattern[p + 1..end], name[n]) => {
                p = end + 1;
                n += 1;
            }
            (Some(byte), None)
                if *byte == b'?' || *byte == name[n] || (b"-_".contains(byte) && b"-_".contains(&name[n])) =>
            {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == b'-' {
            if (set[at]..=set[at + 2]).contains(&byte) {
                return true;
            }
            at += 3;
        } else {
            if set[at] == byte {
                return true;
            }
            at += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(
            tree.path().join("modules.dep"),
            "kernel/a.ko: kernel/b-x.ko.xz kernel/c.ko\nkernel/b-x.ko.xz: kernel/c.ko\nkernel/c.ko:\n",
        )
        .unwrap();
        std::fs::write(tree.path().join("modules.alias"), "# x\nalias net-pf-1[0-2]* b_x\nalias fs-* a\n").unwrap();
        assert_eq!(find(tree.path(), "a").unwrap(), ["kernel/c.ko", "kernel/b-x.ko.xz", "kernel/a.ko"]);
        assert_eq!(find(tree.path(), "b_x").unwrap(), ["kernel/c.ko", "kernel/b-x.ko.xz"]);
        assert!(find(tree.path(), "d").unwrap().is_empty());
        assert_eq!(aliased(tree.path(), "net-pf-11-proto-3").unwrap(), ["b_x"]);
        assert_eq!(aliased(tree.path(), "fs-ext4").unwrap(), ["a"]);
        assert!(aliased(tree.path(), "net-pf-13").unwrap().is_empty());
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("virtio:d00000002v*", "virtio:d00000002v00001af4", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("a-b", "a_b", true),
            ("[", "[", true),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_ends(pattern: Vec<u8>, name: Vec<u8>) {
            matches(&pattern, &name);
        }
    }
}
