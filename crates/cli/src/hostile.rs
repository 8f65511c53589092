//! Any bytes in a guest's place: what fuzzing drives, and what its corpora are replayed with. No command uses it.
//!
//! Each function panics when what came was not refused, bounded or escaped as its reader promises.

use crate::{
    copy,
    exec::session,
    output::escape,
    workspace::{patch, send},
};
use std::{fs, path::Path};

/// What an agent sends after it accepted an exec session.
pub fn exec(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(session::hear(data));
}

/// A tar stream from a guest: nothing outside the one name it may make is touched.
pub fn archive(data: &[u8]) {
    let temp = tempfile::tempdir().expect("there is room for a directory");
    let (into, secret) = (temp.path().join("into"), temp.path().join("secret"));
    fs::create_dir(&into).expect("the directory is empty");
    fs::write(&secret, "secret").expect("there is room for a file");
    let _ = copy::unpack::unpack(data, &into, "out".as_ref());
    assert_eq!(names(temp.path()), ["into", "secret"]);
    assert!(names(&into).iter().all(|name| name == "out"), "{:?}", names(&into));
    assert_eq!(fs::read(&secret).expect("it is still there"), b"secret");
}

/// A patch from a guest: what it touches is inside the tree and not git's own.
pub fn patch(data: &[u8]) {
    let Ok(summary) = patch::check(data) else { return };
    for path in &summary.files {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let bad = |part: &[u8]| part.is_empty() || part == b".." || part.eq_ignore_ascii_case(b".git");
        assert!(!parts.iter().any(|part| bad(part)), "{}", String::from_utf8_lossy(path));
    }
}

/// What a guest says of a workspace, its agent in JSON and its git in lists: a place is plain, an id is one.
pub fn workspace(data: &[u8]) {
    let (paths, ids) = send::hear(data);
    for path in paths {
        let climbs = path.split('/').any(|part| part == "..");
        assert!(path.starts_with('/') && !climbs && !path.contains(char::is_control), "{path:?}");
    }
    let is_id = |id: &String| matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(ids.iter().all(is_id), "{ids:?}");
}

/// Text on its way to a terminal, whole and in pieces as long as the first byte says: the same comes out, and nothing in
/// it moves a cursor.
pub fn terminal(data: &[u8]) {
    let Some((length, text)) = data.split_first() else { return };
    let whole = shown([text].into_iter());
    assert_eq!(whole, shown(text.chunks(usize::from(*length).max(1))));
    let line = escape::escape(&String::from_utf8_lossy(text)).into_owned();
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(!whole.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')), "{whole:?}");
}

fn shown<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut escaper = escape::StreamEscaper::default();
    let mut shown: String = pieces.map(|piece| escaper.push(piece)).collect();
    shown.push_str(&escaper.finish());
    shown
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is still there").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
