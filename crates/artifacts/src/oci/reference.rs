//! References to images in a registry, as a person types them.
//!
//! The short forms are Docker's: without a registry it is `docker.io`, a single word there is below `library/`, without
//! a tag it is `latest`. [`Reference::familiar`] is the way back, and the name an image has on this host.

use super::Digest;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Registry of references without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Prefix of its images without an owner.
const LIBRARY: &str = "library/";
/// Tag of references without one.
const DEFAULT_TAG: &str = "latest";
/// Longest repository and longest tag, in bytes.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// Reference to an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Error: the text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {why}")]
pub struct InvalidReference {
    text: String,
    why: &'static str,
}

impl Reference {
    /// Returns the registry as it is written: `docker.io`, `registry.local:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the host of the registry's API.
    pub(super) fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { &self.registry }
    }

    /// Returns the repository in the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns what to request from the registry: the digest, else the tag.
    pub(super) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Returns the digest, if the reference has one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the shortest form with the same meaning: `docker.io/library/alpine:3.20` becomes `alpine:3.20`.
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let short = [self.repository.strip_prefix(LIBRARY), Some(&self.repository)];
        let mut short = short.into_iter().flatten().map(|name| format!("{name}{}", self.suffix()));
        let same = |text: &String| text.parse::<Self>().is_ok_and(|meant| meant.to_string() == whole);
        short.find(same).unwrap_or(whole)
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map_or(String::new(), |tag| format!(":{tag}"));
        match (&self.digest, tag.is_empty()) {
            (Some(digest), _) => format!("{tag}@{digest}"),
            (None, true) => format!(":{DEFAULT_TAG}"),
            (None, false) => tag,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference { text: text.chars().take(120).collect(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| invalid("after @ there is no sha256 digest"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_host(registry) {
            return Err(invalid("the registry is not a host name with an optional port"));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(invalid("the tag is not 1 to 128 of a-z, A-Z, 0-9 and _.-, beginning with none of .-"));
        }
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        let library = if registry == DEFAULT_REGISTRY && !path.contains('/') { LIBRARY } else { "" };
        let repository = format!("{library}{path}");
        if repository.len() > MAX_REPOSITORY || !repository.split('/').all(is_component) {
            return Err(invalid("the name is not lower-case words of a-z, 0-9 and ._- with / between them"));
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// Whether the first component of a name is a registry and not an owner.
fn is_registry(word: &str) -> bool {
    word.contains(['.', ':']) || word == "localhost" || word.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => ("v6", Some(port)),
                None => return port.is_empty(),
            }
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !word.starts_with('-')
            && !word.ends_with('-')
    };
    host.len() <= 253
        && host.split('.').all(word)
        && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn is_tag(tag: &str) -> bool {
    (1..=MAX_TAG).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Whether the text is made of lower-case words joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_and_back() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (typed, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("index.docker.io/me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("me/app:v1", "docker.io/me/app:v1", "me/app:v1"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "registry.local:5000/team/app",
                "registry.local:5000/team/app:latest",
                "registry.local:5000/team/app:latest",
            ),
            ("ghcr.io/a/b_c/d-e.f__g:X_1", "ghcr.io/a/b_c/d-e.f__g:X_1", "ghcr.io/a/b_c/d-e.f__g:X_1"),
            ("HOST/a", "HOST/a:latest", "HOST/a:latest"),
            // A form with another meaning is not shortened.
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ] {
            let reference: Reference = typed.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((reference.to_string(), reference.familiar()), (full.to_owned(), familiar.to_owned()));
            assert_eq!(full.parse::<Reference>().unwrap(), familiar.parse().unwrap());
        }
        let pinned: Reference = format!("alpine:3@{digest}").parse().unwrap();
        assert_eq!(pinned.version(), digest);
        assert_eq!(pinned.familiar(), format!("alpine:3@{digest}"));
        let pinned: Reference = format!("alpine@{digest}").parse().unwrap();
        assert_eq!(
            (pinned.to_string(), pinned.host()),
            (format!("docker.io/library/alpine@{digest}"), "registry-1.docker.io")
        );
    }

    #[test]
    fn what_is_none() {
        for bad in [
            "",
            "/",
            ":",
            "@",
            "a:",
            "a@",
            "a@sha256:x",
            "A",
            "a//b",
            "a/",
            "/a",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a b",
            "a:b:c",
            "a:.x",
            "host:x/a",
            "host:99999/a",
            "[::1/a",
            "[zz]:5/a",
            "a/../b",
            "a.b./c",
            "-x.y/a",
            "a:\n",
            "é",
            "a:é",
            &format!("a:{}", "x".repeat(129)),
            &"a/".repeat(200),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_text_is_a_reference_or_not(text: String) {
            if let Ok(reference) = text.parse::<Reference>() {
                assert_eq!(reference.familiar().parse::<Reference>().unwrap().to_string(), reference.to_string());
            }
        }
    }
}
