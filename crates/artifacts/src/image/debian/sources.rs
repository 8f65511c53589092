//! Derives the apt sources for a bootstrap of a chosen suite from the host's own.
//!
//! Reads both formats of apt's sources (`sources.list` lines and deb822 stanzas), keeps Debian's own archive and
//! nothing else (a third party's repository must not leak into an image), and replaces the host's suite by the wanted
//! one. It decides from the files alone; apt finds out whether the mirror has the suite.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

/// Debian's releases and the names that move between them. Only these identify a source as Debian's; a requested suite
/// need not be among them.
const SUITES: [&str; 13] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "experimental",
];
/// Suites without updates and security archives of their own.
const ROLLING: [&str; 3] = ["sid", "unstable", "experimental"];
/// Upper bound of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Fields about trust in a source, which are kept. `Signed-By` may hold a whole key.
const TRUST: [&str; 4] = ["Signed-By", "Trusted", "Check-Valid-Until", "Check-Date"];

/// A source: an archive, suites of it, and how it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stanza {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    trust: Vec<(&'static str, String)>,
}

/// What a host says about where its packages come from.
#[derive(Debug)]
pub(super) struct HostSources {
    /// Debian's own sources, for the suite asked for; empty when the host has none.
    pub(super) stanzas: Vec<Stanza>,
    pub(super) unread: Vec<Unread>,
}

/// A file with sources that cannot be read, such as one with a password for an ordinary user.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct Unread {
    path: PathBuf,
    source: io::Error,
}

/// Reads the host's Debian sources under `etc_apt`, for `suite`.
pub(super) fn of_host(etc_apt: &Path, suite: &str) -> HostSources {
    let mut unread = Vec::new();
    let mut text_of = |path: &Path| {
        read(path).unwrap_or_else(|source| {
            unread.push(Unread { path: path.to_owned(), source });
            None
        })
    };
    let more = etc_apt.join("sources.list.d");
    let mut files: Vec<PathBuf> = match fs::read_dir(&more) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        // Read like a file, it says itself what is wrong with it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => vec![more.join("*.sources")],
        Err(_) => Vec::new(),
    };
    files.sort_unstable();
    files.insert(0, etc_apt.join("sources.list"));
    let mut stanzas: Vec<Stanza> = Vec::new();
    for file in files {
        let parse: fn(&str) -> Vec<Stanza> = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => lines,
            Some("sources") => deb822,
            _ => continue,
        };
        for stanza in text_of(&file).map(|text| parse(&text)).unwrap_or_default() {
            let uris = stanza.uris.iter().map(|uri| mirror(uri, &mut text_of)).collect();
            if let Some(stanza) = (Stanza { uris, ..stanza }).for_suite(suite)
                && !stanzas.contains(&stanza)
            {
                stanzas.push(stanza);
            }
        }
    }
    HostSources { stanzas, unread }
}

/// Formats the stanzas as a deb822 file, trusted as on the host.
pub(super) fn for_bootstrap(stanzas: &[Stanza]) -> String {
    render(stanzas, |stanza, text| {
        for (field, value) in &stanza.trust {
            let _ = writeln!(text, "{field}: {value}");
        }
    })
}

/// Formats the stanzas for the image: without credentials, trusted through Debian's own keyring, which every Debian has
/// at the same path.
pub(super) fn for_image(stanzas: &[Stanza]) -> String {
    let public: Vec<Stanza> = stanzas
        .iter()
        .map(|stanza| Stanza {
            uris: stanza.uris.iter().map(|uri| without_credentials(uri)).collect(),
            ..stanza.clone()
        })
        .collect();
    render(&public, |_, text| text.push_str("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"))
}

fn render(stanzas: &[Stanza], trust: impl Fn(&Stanza, &mut String)) -> String {
    let mut text = String::new();
    for stanza in stanzas {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "Types: deb\nURIs: {}", stanza.uris.join(" "));
        let _ = writeln!(text, "Suites: {}\nComponents: {}", stanza.suites.join(" "), stanza.components.join(" "));
        trust(stanza, &mut text);
    }
    text
}

impl Stanza {
    /// Returns this source for another suite; `None` if it is not Debian's own archive or has no such suite.
    fn for_suite(&self, suite: &str) -> Option<Self> {
        let uris: Vec<String> = self.uris.iter().filter(|uri| is_debian(uri)).cloned().collect();
        let suites: BTreeSet<String> = self.suites.iter().filter_map(|theirs| substitute(theirs, suite)).collect();
        if uris.is_empty() || suites.is_empty() || !self.components.iter().any(|component| component == "main") {
            return None;
        }
        // Non-free components are the host owner's choice and not part of a small image.
        Some(Self {
            uris,
            suites: suites.into_iter().collect(),
            components: vec!["main".into()],
            trust: self.trust.clone(),
        })
    }
}

/// Replaces the release in a suite: `bookworm-security` becomes `trixie-security`. Backports and the like are dropped.
fn substitute(theirs: &str, wanted: &str) -> Option<String> {
    let (base, rest) = theirs.split_once(['-', '/']).unwrap_or((theirs, ""));
    if !SUITES.contains(&base) && base != wanted {
        return None;
    }
    match rest {
        "" => Some(wanted.to_owned()),
        "updates" | "security" if ROLLING.contains(&wanted) => None,
        // Before bullseye the suites of the security archive were called `buster/updates`.
        "updates" if theirs.contains('/') => Some(format!("{wanted}-security")),
        "updates" | "security" => Some(format!("{wanted}-{rest}")),
        _ => None,
    }
}

/// Whether the address is a mirror of Debian: its path ends in the archive's name, perhaps with a snapshot's time
/// below. Debian's own security archive answers without a path, too.
fn is_debian(uri: &str) -> bool {
    const ARCHIVES: [&str; 2] = ["debian", "debian-security"];
    const SECURITY: [&str; 2] = ["http://security.debian.org", "https://security.debian.org"];
    if SECURITY.contains(&uri.trim_end_matches('/')) {
        return true;
    }
    let mut parts = uri.trim_end_matches('/').rsplit('/');
    let last = parts.next().unwrap_or_default();
    let snapshot = last.len() == 16 && last.ends_with('Z') && last.starts_with(|c: char| c.is_ascii_digit());
    ARCHIVES.contains(&if snapshot { parts.next().unwrap_or_default() } else { last })
}

/// Cloud images name a file with a list of mirrors; its first is taken, because the list is not in the image.
fn mirror(uri: &str, text_of: impl FnOnce(&Path) -> Option<String>) -> String {
    let Some(list) = uri.strip_prefix("mirror+file:") else { return uri.to_owned() };
    let list = list.strip_prefix("//").unwrap_or(list);
    let text = text_of(Path::new(list)).unwrap_or_default();
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.and_then(|line| line.split_whitespace().next()).unwrap_or(uri).to_owned()
}

fn without_credentials(uri: &str) -> String {
    match uri.split_once("://") {
        Some((scheme, rest)) => {
            let host_end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..host_end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[host_end..])
        }
        None => uri.to_owned(),
    }
}

/// A file's text; `None` when it is not there or no file, as apt sees it; an error when it is too large for what it
/// should be.
fn read(path: &Path) -> io::Result<Option<String>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} is over 1 MiB", path.display())));
    }
    fs::read(path).map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Parses the one-line format: `deb [options] uri suite component…`.
fn lines(text: &str) -> Vec<Stanza> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Stanza> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))?.trim_start();
    let mut trust = Vec::new();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        rest = after;
        for (key, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
            if let Some(field) = TRUST.into_iter().find(|field| field.eq_ignore_ascii_case(key)) {
                trust.push((field, value.replace(',', " ")));
            }
        }
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Stanza { uris: vec![words.next()?], suites: vec![words.next()?], components: words.collect(), trust })
}

/// The deb822 form: fields, continued on lines that begin with a blank; stanzas end at an empty line.
fn deb822(text: &str) -> Vec<Stanza> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments.split(|line| line.trim().is_empty()).filter_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Option<Stanza> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name, value.trim().to_owned()));
        }
    }
    let field =
        |wanted: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value);
    let words = |wanted| -> Vec<String> {
        field(wanted).map(|value| value.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    };
    let off = |value: &String| ["no", "false", "0", "off", "disable"].contains(&value.to_ascii_lowercase().as_str());
    if !words("Types").iter().any(|kind| kind == "deb") || field("Enabled").is_some_and(off) {
        return None;
    }
    let trust = TRUST.into_iter().filter_map(|name| field(name).map(|value| (name, value.clone()))).collect();
    Some(Stanza { uris: words("URIs"), suites: words("Suites"), components: words("Components"), trust })
}

#[cfg(test)]
mod tests;
