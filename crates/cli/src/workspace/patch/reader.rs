//! Parser of a patch as `git diff` writes it, down to the line counts of its hunks.

use super::rules::{check_attributes, is_attributes, refused};
use crate::workspace::quote::unquote;
use banger_proto::failure::{Code, Failure};

/// Reason for refusing a link whose target is not wholly in the patch.
const LINK: &str = "it makes a link in a way git does not";

/// Section of a patch about one file.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) old: Vec<u8>,
    pub(super) new: Vec<u8>,
    pub(super) deleted: bool,
    /// Whether it does not say what kind of file it is.
    pub(super) unknown_kind: bool,
    /// Target of a link that it makes or changes.
    pub(super) link: Option<Vec<u8>>,
    /// Names of attributes it sets.
    pub(super) attributes: Vec<Vec<u8>>,
}

/// Content of a section's hunks.
#[derive(Debug, Default)]
struct Hunks {
    /// Added lines.
    added: Vec<u8>,
    /// Whether there are context lines, so that the added ones are not the whole file.
    has_context: bool,
}

/// Header lines between `diff --git` and the changes.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a line that was there")]
struct ExtendedHeader {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    created: bool,
    deleted: bool,
    /// Whether a mode was given.
    kind: bool,
    link: bool,
    submodule: bool,
}

/// Reader of a patch, section by section.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(patch: &'a [u8]) -> Self {
        Self { rest: patch, line: 0 }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads the next section; a failure names the path, or the line that is not `git diff`'s.
    pub(super) fn section(&mut self) -> Result<Section, Failure> {
        let line = self.next()?;
        let names = line.strip_prefix(b"diff --git ").ok_or_else(|| self.garbage())?;
        let extended = self.extended()?;
        let (old, new) = self.names(names, &extended)?;
        if extended.submodule {
            return Err(refused(&new, "it is a submodule"));
        }
        let ExtendedHeader { deleted, kind, link, .. } = extended;
        let mut section = Section { old, new, deleted, unknown_kind: !kind, ..Section::default() };
        let hunks = if self.peek().starts_with(b"--- ") {
            Some(self.hunks(&section, &extended)?)
        } else if self.peek() == b"GIT binary patch" {
            self.binary()?;
            None
        } else if kind || extended.from.is_some() {
            // Only the mode or the name changes, or the file is empty.
            if link && !deleted {
                return Err(refused(&section.new, LINK));
            }
            return Ok(section);
        } else {
            return Err(self.garbage());
        };
        // git gives the mode wherever content changes.
        if !kind {
            return Err(self.garbage());
        }
        match hunks {
            Some(hunks) if link && !deleted => {
                // The whole target is needed to check it.
                if hunks.has_context || hunks.added.is_empty() {
                    return Err(refused(&section.new, LINK));
                }
                section.link = Some(hunks.added.strip_suffix(b"\n").unwrap_or(&hunks.added).to_vec());
            }
            None if link && !deleted => return Err(refused(&section.new, LINK)),
            Some(hunks) => section.attributes = check_attributes(&section.new, &hunks.added)?,
            None if is_attributes(&section.new) => return Err(refused(&section.new, "its content is binary")),
            None => {}
        }
        Ok(section)
    }

    fn extended(&mut self) -> Result<ExtendedHeader, Failure> {
        let mut extended = ExtendedHeader::default();
        loop {
            let line = self.peek();
            let after = |prefix: &str| line.strip_prefix(prefix.as_bytes());
            let mut mode = None;
            if let Some(it) = after("old mode ").or_else(|| after("new mode ")) {
                mode = Some(it);
            } else if let Some(it) = after("deleted file mode ") {
                extended.deleted = true;
                mode = Some(it);
            } else if let Some(it) = after("new file mode ") {
                extended.created = true;
                mode = Some(it);
            } else if let Some(name) = after("rename from ") {
                extended.from = Some(self.name(name)?);
            } else if let Some(name) = after("rename to ") {
                extended.to = Some(self.name(name)?);
            } else if let Some(index) = after("index ") {
                mode = index.split(|byte| *byte == b' ').nth(1);
            } else if after("similarity index ").or_else(|| after("dissimilarity index ")).is_none() {
                return Ok(extended);
            }
            extended.kind |= mode.is_some();
            match mode {
                None | Some(b"100644" | b"100755") => {}
                Some(b"120000") => extended.link = true,
                Some(b"160000") => extended.submodule = true,
                Some(_) => return Err(self.garbage()),
            }
            self.next()?;
        }
    }

    /// Returns the old and the new name; all lines that have one must agree.
    fn names(&self, header: &[u8], extended: &ExtendedHeader) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let (old, new) = match (&extended.from, &extended.to) {
            (Some(from), Some(to)) if !extended.created && !extended.deleted => (from.clone(), to.clone()),
            (None, None) if !(extended.created && extended.deleted) => {
                let name = same_name(header).ok_or_else(|| self.garbage())?;
                (name.clone(), name)
            }
            _ => return Err(self.garbage()),
        };
        let prefixed = |prefix: &[u8], name: &[u8]| [prefix, name].concat();
        let (a, b) = (prefixed(b"a/", &old), prefixed(b"b/", &new));
        if split_names(header, &a, &b) { Ok((old, new)) } else { Err(self.garbage()) }
    }

    /// Parses a name that is alone on its line.
    fn name(&self, text: &[u8]) -> Result<Vec<u8>, Failure> {
        match text.strip_prefix(b"\"") {
            None => Ok(text.to_vec()),
            Some(inner) => match unquote(inner) {
                Some((name, b"")) => Ok(name),
                _ => Err(self.garbage()),
            },
        }
    }

    /// Reads `---`, `+++` and the hunks.
    fn hunks(&mut self, section: &Section, extended: &ExtendedHeader) -> Result<Hunks, Failure> {
        for (marker, prefix, name, absent) in [
            (b"--- ".as_slice(), b"a/".as_slice(), &section.old, extended.created),
            (b"+++ ", b"b/", &section.new, extended.deleted),
        ] {
            let line = self.next()?;
            let text = line.strip_prefix(marker).ok_or_else(|| self.garbage())?;
            // A tab follows a name with a space in it, quoted or not.
            let given = self.name(text.strip_suffix(b"\t").unwrap_or(text))?;
            let right = if absent { given == b"/dev/null" } else { given == [prefix, name].concat() };
            if !right {
                return Err(self.garbage());
            }
        }
        if !self.peek().starts_with(b"@@ -") {
            return Err(self.garbage());
        }
        let mut hunks = Hunks::default();
        while self.peek().starts_with(b"@@ -") {
            self.hunk(&mut hunks)?;
        }
        Ok(hunks)
    }

    fn hunk(&mut self, hunks: &mut Hunks) -> Result<(), Failure> {
        let line = self.next()?;
        let (mut old, mut new) = counts(line).ok_or_else(|| self.garbage())?;
        while old > 0 || new > 0 {
            let line = self.next()?;
            match line.first() {
                Some(b' ') | None if old > 0 && new > 0 => {
                    (old, new, hunks.has_context) = (old - 1, new - 1, true);
                }
                Some(b'-') if old > 0 => old -= 1,
                Some(b'+') if new > 0 => {
                    new -= 1;
                    hunks.added.extend_from_slice(&line[1..]);
                    hunks.added.push(b'\n');
                }
                Some(b'\\') if line.starts_with(b"\\ ") => {}
                _ => return Err(self.garbage()),
            }
        }
        if self.peek().starts_with(b"\\ ") {
            self.next()?;
        }
        Ok(())
    }

    /// Reads one or two blocks of base 85, each ended by an empty line.
    fn binary(&mut self) -> Result<(), Failure> {
        self.next()?;
        let mut blocks = 0;
        while blocks < 2 {
            let line = self.peek();
            let size = line.strip_prefix(b"literal ").or_else(|| line.strip_prefix(b"delta "));
            let Some(size) = size else { break };
            number(size).ok_or_else(|| self.garbage())?;
            self.next()?;
            loop {
                let line = self.next()?;
                if line.is_empty() {
                    break;
                }
                let bytes = match line[0] {
                    letter @ b'A'..=b'Z' => letter - b'A' + 1,
                    letter @ b'a'..=b'z' => letter - b'a' + 27,
                    _ => return Err(self.garbage()),
                };
                if line.len() != 1 + usize::from(bytes).div_ceil(4) * 5 {
                    return Err(self.garbage());
                }
            }
            blocks += 1;
        }
        if blocks == 0 { Err(self.garbage()) } else { Ok(()) }
    }

    fn peek(&self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    fn next(&mut self) -> Result<&'a [u8], Failure> {
        let line = self.peek();
        // git ends every line with a line feed, also the last.
        if line.len() == self.rest.len() {
            return Err(Failure::new(
                Code::Guest,
                "the patch is cut off: git in the guest ended early, or the disk there is full",
            ));
        }
        self.rest = &self.rest[line.len() + 1..];
        self.line += 1;
        Ok(line)
    }

    fn garbage(&self) -> Failure {
        self.failure("is not what git diff writes")
    }

    fn failure(&self, what: &str) -> Failure {
        let shown: String = String::from_utf8_lossy(self.peek()).chars().take(100).collect();
        Failure::new(Code::Guest, format!("the guest's patch {what}"))
            .cause(format!("near line {}: {shown:?}", self.line + 1))
    }
}

/// Returns the name in `a/NAME b/NAME`.
fn same_name(header: &[u8]) -> Option<Vec<u8>> {
    if header.starts_with(b"\"") {
        let (a, _) = unquote(&header[1..])?;
        return a.strip_prefix(b"a/").map(<[u8]>::to_vec);
    }
    // `a/` and ` b/` are five bytes, the rest is the name twice.
    let length = header.len().checked_sub(5)? / 2;
    header.strip_prefix(b"a/")?.get(..length).map(<[u8]>::to_vec)
}

/// Whether a header is these two names, quoted or not.
fn split_names(header: &[u8], a: &[u8], b: &[u8]) -> bool {
    let rest = match header.strip_prefix(b"\"") {
        Some(inner) => match unquote(inner) {
            Some((name, rest)) if name == a => rest,
            _ => return false,
        },
        None => match header.strip_prefix(a) {
            Some(rest) => rest,
            None => return false,
        },
    };
    let Some(rest) = rest.strip_prefix(b" ") else { return false };
    match rest.strip_prefix(b"\"") {
        Some(inner) => unquote(inner) == Some((b.to_vec(), b"")),
        None => rest == b,
    }
}

/// Parses the line counts of `@@ -1,2 +3,4 @@`.
fn counts(line: &[u8]) -> Option<(u64, u64)> {
    let text = line.strip_prefix(b"@@ -")?;
    let end = text.windows(3).position(|window| window == b" @@")?;
    let (old, new) = std::str::from_utf8(&text[..end]).ok()?.split_once(" +")?;
    let count = |range: &str| match range.split_once(',') {
        Some((start, count)) => number(start.as_bytes()).and_then(|_| number(count.as_bytes())),
        None => number(range.as_bytes()).map(|_| 1),
    };
    Some((count(old)?, count(new)?))
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.len() < 19 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
