//! Installs and packs the programs as users get them.

use crate::{
    generate,
    repository::{root, text_of},
};
use anyhow::{Context, Result};
use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

/// Programs in `bin/`, where they find each other.
const PROGRAMS: [&str; 5] = ["banger", "bangerd", "bangerd-root", "banger-shim", "banger-vsock-agent"];
const DOCUMENTS: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// Directory of the pages that the programs' hints refer to.
const PAGES: &str = "docs";

/// systemd units of the network helper, with `@BINDIR@` in place of its program's directory.
const UNITS: [&str; 2] = ["bangerd-root.socket", "bangerd-root.service"];
/// Prefix of the programs in a package.
const PACKED_FOR: &str = "/usr/local";

/// Installs everything below `prefix`, for programs that will be below `final_prefix`; a running program keeps the file
/// it started from.
pub(crate) fn install(bin_dir: &Path, prefix: &Path, final_prefix: &Path) -> Result<()> {
    let bin = prefix.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
    for program in PROGRAMS {
        copy(&bin_dir.join(program), &bin.join(program), 0o755)?;
    }
    generate::into(&prefix.join("share"), &bin_dir.join("banger"))?;
    units(&final_prefix.join("bin"), &prefix.join("share/banger/systemd"))?;
    documents(&prefix.join("share/doc/banger"))
}

/// Copies the documentation into `dir`, keeping the links between the pages valid.
fn documents(dir: &Path) -> Result<()> {
    let pages = dir.join(PAGES);
    std::fs::create_dir_all(&pages).with_context(|| format!("creating {}", pages.display()))?;
    for page in std::fs::read_dir(root().join(PAGES)).context("the pages of docs")? {
        let page = page.context("the pages of docs")?;
        copy(&page.path(), &pages.join(page.file_name()), 0o644)?;
    }
    DOCUMENTS.iter().try_for_each(|document| copy(&root().join(document), &dir.join(document), 0o644))
}

/// Makes `dist/banger-<version>-<arch>.tar.gz`: the same input gives the same bytes.
pub(crate) fn pack(bin_dir: &Path) -> Result<()> {
    let name = format!("banger-{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let dist = root().join("dist");
    let tree = tempfile::tempdir()?;
    install(bin_dir, &tree.path().join(&name), Path::new(PACKED_FOR))?;
    std::fs::create_dir_all(&dist)?;
    let archive = dist.join(format!("{name}.tar.gz"));
    let time = text_of(Command::new("git").args(["log", "-1", "--format=@%ct"]).current_dir(root()))?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--use-compress-program=gzip -n"]);
    tar.arg(format!("--mtime={}", time.trim())).arg("-cf").arg(&archive).arg("-C").arg(tree.path()).arg(&name);
    text_of(&mut tar)?;
    writeln(&archive.display().to_string());
    Ok(())
}

/// Renders the units for programs in `bin` into `dir`.
pub(crate) fn units(bin: &Path, dir: &Path) -> Result<()> {
    anyhow::ensure!(bin.is_absolute(), "{} is no absolute path: systemd takes no other", bin.display());
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    for unit in UNITS {
        let template = root().join("configs/systemd").join(unit);
        let text = std::fs::read_to_string(&template).with_context(|| format!("reading {}", template.display()))?;
        let path = dir.join(unit);
        std::fs::write(&path, text.replace("@BINDIR@", &bin.display().to_string()))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).with_context(|| format!("copying {} to {}", from.display(), fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, to).with_context(|| format!("writing {}", to.display()))
}

#[expect(clippy::print_stdout, reason = "the result of the task")]
fn writeln(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_are_where_the_readme_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        documents(dir.path()).unwrap();
        let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
        let links: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        let mut here = links.iter().filter(|link| !link.contains("://")).peekable();
        assert!(here.peek().is_some());
        here.for_each(|link| assert!(dir.path().join(link).is_file(), "{link}"));
    }

    #[test]
    fn units_name_the_program_where_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        units(Path::new("/opt/banger/bin"), dir.path()).unwrap();
        let service = std::fs::read_to_string(dir.path().join("bangerd-root.service")).unwrap();
        assert!(service.contains("\nExecStart=/opt/banger/bin/bangerd-root system "), "{service}");
        assert!(!service.contains("@BINDIR@"), "{service}");
        assert!(dir.path().join("bangerd-root.socket").exists());
        assert!(units(Path::new("bin"), dir.path()).is_err());
    }
}
