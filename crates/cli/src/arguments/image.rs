//! Images as commands are told of them: a name, a reference, or a file or directory behind a prefix.

use super::absolute;
use banger_proto::{
    failure::{Code, Failure},
    name::ImageName,
};
use std::path::Path;

/// Prefixes of a source that is a file or directory.
const FILES: [&str; 3] = ["oci:", "oci-archive:", "docker-archive:"];

/// Checks what was typed for an image that may be pulled. A source that is a file has any path; everything else is a
/// name.
pub(crate) fn image(text: &str) -> Result<String, String> {
    match split(text) {
        Some(_) => Ok(text.to_owned()),
        None => text.parse::<ImageName>().map(String::from).map_err(|error| error.to_string()),
    }
}

/// Returns the name by which the daemon finds an image that is used as soon as it is pulled. Such a name has fewer
/// characters than a path may have.
pub(crate) fn image_name(typed: String) -> Result<ImageName, Failure> {
    let name = source(typed)?;
    name.parse().map_err(|error: banger_proto::name::InvalidName| {
        Failure::new(Code::Invalid, error.to_string())
            .hint(format!("`banger image pull --name NAME '{name}'` takes any path; --image NAME is that image then"))
    })
}

/// Makes the path of a source that is a file absolute, because the daemon has another working directory. A path that
/// leads nowhere stays as it is: an image may have a name that begins with one of the prefixes.
pub(crate) fn source(typed: String) -> Result<String, Failure> {
    match split(&typed) {
        Some((prefix, path)) if leads_somewhere(path) => {
            Ok(format!("{prefix}{}", absolute(Path::new(path))?.display()))
        }
        _ => Ok(typed),
    }
}

fn split(text: &str) -> Option<(&'static str, &str)> {
    FILES.iter().find_map(|prefix| Some((*prefix, text.strip_prefix(prefix)?)))
}

/// Whether there is a file or directory at the path, or at what precedes one of its colons, which the name of an image
/// in it may follow. One that cannot be looked at counts: the daemon says why.
fn leads_somewhere(path: &str) -> bool {
    let ends = path.match_indices(':').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).any(|path| !path.is_empty() && !matches!(Path::new(path).try_exists(), Ok(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_and_names_left_alone() {
        let here = std::env::current_dir().unwrap().display().to_string();
        let is = |typed: &str| source(typed.into()).unwrap();
        // Tests run in the directory of their crate.
        for there in
            ["oci:src", "oci:./src", "oci-archive:Cargo.toml", "docker-archive:Cargo.toml:app:v1", "oci:src:v1"]
        {
            let (prefix, path) = there.split_once(':').unwrap();
            let path = path.strip_prefix("./").unwrap_or(path);
            assert_eq!(is(there), format!("{prefix}:{here}/{path}"));
        }
        for same in ["alpine:3.20", "docker-archive:/a.tar:x", "oci:v1", "oci:", "oci::src", "oci:none:src", "src"] {
            assert_eq!(is(same), same);
        }
    }

    #[test]
    fn a_name_is_checked_where_it_is_typed_and_a_path_where_it_becomes_one() {
        assert!(image("-x").is_err() && image("a b").is_err());
        assert_eq!(image("oci-archive:my app.tar").unwrap(), "oci-archive:my app.tar");
        let refused = image_name("oci-archive:my app.tar".into()).unwrap_err();
        assert_eq!(refused.code, Code::Invalid);
        assert!(refused.hints[0].contains("--name NAME 'oci-archive:my app.tar'"), "{refused}");
    }
}
