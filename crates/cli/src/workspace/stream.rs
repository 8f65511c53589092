//! Writes the repository as one tar stream: a git directory made for the guest, and the files git cannot write there.

use super::{
    changes::{RepoPath, join_nul},
    files::Item,
    git::{drain_stderr, git_failed},
    guest_config::{self, GuestConfig},
    leftovers::Leftovers,
    pack::{self, Sink},
    plan::Plan,
    quote::quoted,
    refs::{self, HEAD, IMPORTED, MergedRefs},
    shadow_repository::{RULES, rules_of},
};
use banger_proto::{
    agent::workspace::{FRESH, REMOVED, SCRATCH, WRITTEN},
    api::workspace::Mode,
};
use std::{
    collections::{BTreeMap, HashSet},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};
use tar::{Builder, EntryType, Header};

/// Ids of the empty blob, SHA-1 and SHA-256: git knows it without having it.
const EMPTY: [&str; 2] =
    ["e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"];

/// Most listings of a directory of packs whose files vanish while they are read; each is a whole repacking by somebody.
const MAX_LISTINGS: usize = 20;

/// Writes everything except the files that can be written in the guest out of git's objects.
pub(crate) fn write(plan: &Plan, left: &Leftovers, to: impl Write) -> io::Result<()> {
    let mut stream = Stream { builder: Builder::new(to), base: PathBuf::new() };
    stream.repository(plan, left)?;
    stream.builder.into_inner()?.flush()
}

/// Writes the files that the guest's git would have written, for a guest without git.
pub(crate) fn write_files(plan: &Plan, to: impl Write) -> io::Result<()> {
    let mut stream = Stream { builder: Builder::new(to), base: PathBuf::new() };
    stream.written(plan)?;
    stream.builder.into_inner()?.flush()
}

struct Stream<W: Write> {
    builder: Builder<W>,
    /// Path of the repository in the workspace: empty, or a submodule's.
    base: PathBuf,
}

impl<W: Write> Stream<W> {
    fn repository(&mut self, plan: &Plan, left: &Leftovers) -> io::Result<()> {
        for dir in ["", "objects", "objects/pack", "refs", "refs/heads", "info"] {
            self.dir(&Path::new(".git").join(dir))?;
        }
        // Removed at the end: while it exists, the import is not complete.
        self.dir(Path::new(SCRATCH))?;
        let here = left.at(self.base.as_os_str().as_bytes());
        // Objects come before refs, and backup refs before what they save: an interrupted stream leaves no ref to a
        // missing object, and overwrites no ref that has no backup yet.
        match plan.request.mode {
            // A list of alternates may be a stranger's. Only objects that the repository's own commits and index name
            // are sent; git selects them.
            Mode::Full if !plan.repository.borrows() => {
                self.objects(&plan.repository.objects(), Path::new(".git/objects"))?;
            }
            Mode::Full | Mode::Overlay => self.packs(plan)?,
        }
        let shallow: Vec<&str> = here.shallow_commits(plan).collect();
        if !shallow.is_empty() {
            self.git_file("shallow", (shallow.join("\n") + "\n").as_bytes())?;
        }
        for (name, object) in &here.backups {
            self.git_file(name, format!("{object}\n").as_bytes())?;
        }
        self.git_file("HEAD", plan.head.as_bytes())?;
        self.refs(plan, &here.refs, left.refs_unknown)?;
        self.config_and_rules(plan, &here.config, left.overwrite)?;
        if let Ok(index) = File::open(plan.shadow.index()) {
            let size = index.metadata()?.len();
            self.file(Path::new(".git/index"), size, 0o644, &mut index.take(size))?;
        }
        self.git_file("banger-staged", plan.staged.as_bytes())?;
        for (name, list, wanted) in [
            // In full mode always: the agent does not know what an earlier import left in submodules.
            (WRITTEN, plan.changes.written.as_slice(), !plan.changes.all || plan.request.mode == Mode::Full),
            (FRESH, &plan.changes.converted, !plan.changes.converted.is_empty()),
            // One list for the whole workspace.
            (REMOVED, &left.removed, self.base.as_os_str().is_empty() && !left.removed.is_empty()),
        ] {
            if wanted {
                let list = join_nul(list);
                self.file(&Path::new(SCRATCH).join(name), list.len() as u64, 0o644, &mut &*list)?;
            }
        }
        for path in plan.changes.sent.iter().chain(&plan.changes.untracked) {
            self.send_file(plan, path)?;
        }
        for (path, submodule) in &plan.submodules {
            let base = self.base.clone();
            self.base.push(OsStr::from_bytes(path));
            self.repository(submodule, left)?;
            self.base = base;
        }
        Ok(())
    }

    /// Writes branches, tags and other refs, and the record of them, by which a later import finds the guest's work.
    fn refs(&mut self, plan: &Plan, merged: &MergedRefs, refs_unknown: bool) -> io::Result<()> {
        let arriving = plan.refs();
        let (in_files, packed) =
            if refs_unknown { (arriving.clone(), "") } else { (BTreeMap::new(), plan.packed.as_str()) };
        // A loose ref wins over a packed one. Arriving refs are loose, too, where the guest may have a loose file.
        let stale = merged.stale.iter().filter_map(|name| Some((name.as_str(), *arriving.get(name.as_str())?)));
        let loose: BTreeMap<&str, &str> = plan
            .loose
            .iter()
            .map(|(name, object)| (name.as_str(), object.as_str()))
            .chain(stale)
            .chain(in_files)
            .collect();
        for (name, object) in loose {
            self.git_file(name, format!("{object}\n").as_bytes())?;
        }
        // A removed ref may be packed, too; and the guest's own refs may be stored in another way than in files.
        let lines = [packed.as_bytes(), merged.own.as_bytes(), merged.unchanged.as_bytes(), &merged.not_utf8].concat();
        if !lines.is_empty() || !merged.removed.is_empty() {
            self.git_file("packed-refs", &lines)?;
        }
        self.git_file(HEAD, plan.commit.as_deref().unwrap_or_default().as_bytes())?;
        self.git_file(IMPORTED, [refs::lines(&arriving), merged.unchanged.clone()].concat().as_bytes())
    }

    /// Writes configuration and rules, merged with the guest's, and the record of what was imported.
    fn config_and_rules(&mut self, plan: &Plan, guest: &GuestConfig, overwrite: bool) -> io::Result<()> {
        self.git_file("config", &guest.merge_config(&plan.config, overwrite).text())?;
        self.git_file(guest_config::CONFIG, &plan.config.text())?;
        for rules in RULES {
            let arriving = rules_of(&plan.repository, rules)?;
            let Some(number) = guest_config::RULES.iter().position(|(name, _)| *name == rules) else {
                if let Some(text) = arriving {
                    self.git_file(rules, &text)?;
                }
                continue;
            };
            if let Some(text) = guest.merge_rules(number, arriving.as_deref()) {
                self.git_file(rules, &text)?;
            }
            self.git_file(guest_config::RULES[number].1, &arriving.unwrap_or_default())?;
        }
        Ok(())
    }

    fn written(&mut self, plan: &Plan) -> io::Result<()> {
        for path in &plan.changes.written {
            self.send_file(plan, path)?;
        }
        for (path, submodule) in &plan.submodules {
            let base = self.base.clone();
            self.base.push(OsStr::from_bytes(path));
            self.written(submodule)?;
            self.base = base;
        }
        Ok(())
    }

    /// Writes packs with the imported commits, all objects they name, and objects that only the index has.
    fn packs(&mut self, plan: &Plan) -> io::Result<()> {
        let wanted = plan.history.tips.iter().chain(&plan.changes.objects);
        let mut input = String::new();
        for id in wanted.filter(|id| !EMPTY.contains(&id.as_str())) {
            input.push_str(id);
            input.push('\n');
        }
        let failed = |error: banger_proto::failure::Failure| io::Error::other(error.to_string());
        if !input.is_empty() {
            let args = ["rev-list", "--objects", "--no-object-names", "--stdin"];
            let mut list = plan.shadow.call().args(args).spawn(Stdio::piped()).map_err(failed)?;
            let complaints = list.stderr.take().map(drain_stderr);
            let ids = list.stdout.take().map_or_else(Stdio::null, Stdio::from);
            let mut cat = plan.shadow.call().args(["cat-file", "--batch", "--buffer"]).spawn(ids).map_err(failed)?;
            let more_complaints = cat.stderr.take().map(drain_stderr);
            let mut stdin = list.stdin.take();
            let feeder = std::thread::spawn(move || stdin.as_mut().map(|stdin| stdin.write_all(input.as_bytes())));
            let objects = cat.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let packed = pack::write(BufReader::with_capacity(1 << 20, objects), plan.hash, self);
            if packed.is_err() {
                let _ = cat.kill();
            }
            let _ = feeder.join();
            let statuses = [list.wait()?, cat.wait()?];
            let complaint =
                [complaints, more_complaints].map(|thread| thread.and_then(|it| it.join().ok()).unwrap_or_default());
            // A truncated list looks like a short one to its reader.
            if packed.is_ok() && statuses.iter().any(|status| !status.success()) {
                return Err(failed(git_failed("read the repository's objects", complaint.join(" ").trim())));
            }
            packed?;
        }
        if plan.changes.objects.iter().any(|id| EMPTY.contains(&id.as_str())) {
            pack::write_empty_blob(plan.hash, self)?;
        }
        Ok(())
    }

    /// Writes the repository's object files as they are. If somebody repacks meanwhile, listed files vanish, and their
    /// objects are in a new pack by then. So packs come last and are listed again until all listed files were there.
    fn objects(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        for dir in listed(from)? {
            let name = dir.file_name();
            if dir.file_type()?.is_dir() && name.len() == 2 && is_hexadecimal(&name.to_string_lossy()) {
                self.objects_in(&dir.path(), &to.join(&name), &mut HashSet::new())?;
            }
        }
        let (from, to, mut sent) = (from.join("pack"), to.join("pack"), HashSet::new());
        for _ in 0..MAX_LISTINGS {
            if self.objects_in(&from, &to, &mut sent)? {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "somebody repacks its objects again and again"))
    }

    /// Writes the object files of one directory that were not `sent` yet; returns whether all were there.
    fn objects_in(&mut self, from: &Path, to: &Path, sent: &mut HashSet<OsString>) -> io::Result<bool> {
        let entries = listed(from)?;
        if !entries.is_empty() {
            self.dir(to)?;
        }
        let mut complete = true;
        for entry in entries {
            let name = entry.file_name();
            // The target of a link is somebody else's.
            let is_file = entry.file_type()?.is_file();
            if !is_file || sent.contains(&name) || !is_object(&name.to_string_lossy()) {
                continue;
            }
            let file = match File::open(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    complete = false;
                    continue;
                }
                other => other?,
            };
            let size = file.metadata()?.len();
            self.file(&to.join(&name), size, 0o444, &mut file.take(size))?;
            sent.insert(name);
        }
        Ok(complete)
    }

    /// Writes a file of the working tree as it is.
    fn send_file(&mut self, plan: &Plan, path: &RepoPath) -> io::Result<()> {
        let name = PathBuf::from(OsStr::from_bytes(path));
        let unread = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", quoted(path)));
        match plan.tree.item(path).map_err(unread)? {
            Some(Item::File(file, stat)) => {
                // git stores one bit of a file's mode.
                let mode = if stat.st_mode & 0o100 == 0 { 0o644 } else { 0o755 };
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                // The header has the length already: a file that changes its size meanwhile is cut or padded.
                self.file(&name, size, mode, &mut file.take(size).chain(io::repeat(0)).take(size))
            }
            Some(Item::Link(target)) => {
                let mut header = header(EntryType::Symlink, 0, 0o777);
                let target = PathBuf::from(OsStr::from_bytes(&target));
                self.builder.append_link(&mut header, self.base.join(name), target)
            }
            // Removed since it was listed.
            None => Ok(()),
        }
    }

    fn git_file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.file(&Path::new(".git").join(name), content.len() as u64, 0o644, &mut &*content)
    }

    fn file(&mut self, name: &Path, size: u64, mode: u32, content: &mut dyn Read) -> io::Result<()> {
        let mut header = header(EntryType::Regular, size, mode);
        self.builder.append_data(&mut header, self.base.join(name), content)
    }

    fn dir(&mut self, name: &Path) -> io::Result<()> {
        let mut header = header(EntryType::Directory, 0, 0o755);
        self.builder.append_data(&mut header, self.base.join(name), io::empty())
    }
}

impl<W: Write> Sink for Stream<W> {
    fn pack(&mut self, name: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
        self.file(&Path::new(".git/objects/pack").join(format!("{name}.pack")), size, 0o444, content)
    }

    fn index(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = Path::new(".git/objects/pack").join(format!("{name}.idx"));
        self.file(&path, content.len() as u64, 0o444, &mut &*content)
    }
}

/// Lists a directory in the order of names; empty where there is none, for git removes empty ones.
fn listed(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let mut entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// Whether a file of that name holds objects: one of them (its directory has the first digits of the id), or a pack. A
/// multi-pack-index does not: it may name a pack that was replaced.
fn is_object(name: &str) -> bool {
    let packed = name.strip_prefix("pack-").and_then(|rest| rest.split_once('.')).map(|(id, _)| id);
    let id = packed.unwrap_or(name);
    matches!(id.len(), 38 | 40 | 62 | 64) && is_hexadecimal(id)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Makes a header of an entry owned by root.
fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    // All files get the current time, whenever they were written here: what the guest built was built without them.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    header.set_mtime(now.map_or(0, |time| time.as_secs()));
    header
}

#[cfg(test)]
mod tests;
