//! Generates man pages and shell completions from the definition the program parses with.

use crate::repository::text_of;
use anyhow::{Context, Result};
use clap_mangen::Man;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Shells, and the paths of their completions below `share/`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/banger"),
    ("zsh", "zsh/site-functions/_banger"),
    ("fish", "fish/vendor_completions.d/banger.fish"),
];

/// Writes everything below `share`; `banger` is asked for the completions.
pub(crate) fn into(share: &Path, banger: &Path) -> Result<()> {
    let mut command = banger_cli::command();
    // `vm run` and the top-level `run` are pages of their own, named `banger-vm-run` and `banger-run`.
    command.build();
    man_pages(&command, &share.join("man/man1"))?;
    for (shell, path) in COMPLETIONS {
        write(&share.join(path), text_of(Command::new(banger).args(["completion", shell]))?.as_bytes())?;
    }
    Ok(())
}

fn man_pages(command: &clap::Command, dir: &Path) -> Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.clone()).manual("banger").date("");
    man.render(&mut page)?;
    write(&dir.join(man.get_filename()), &page)?;
    for child in command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help") {
        man_pages(child, dir)?;
    }
    Ok(())
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a path below the target directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_options() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = banger_cli::command();
        command.build();
        man_pages(&command, dir.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("banger-vm-run.1").contains("\\-\\-rm"), "{}", page("banger-vm-run.1"));
        assert!(page("banger.1").contains("banger\\-vm(1)"), "{}", page("banger.1"));
        let visible = |command: &clap::Command| {
            command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help").count()
        };
        for group in ["vm", "image", "kernel"] {
            let pages = std::fs::read_dir(dir.path()).unwrap().flatten();
            let prefix = format!("banger-{group}-");
            let found = pages.filter(|file| file.file_name().to_string_lossy().starts_with(&prefix)).count();
            let children = visible(command.find_subcommand(group).unwrap());
            assert!(found >= children && children > 0, "{group}: {found} pages for {children} commands");
        }
    }
}
