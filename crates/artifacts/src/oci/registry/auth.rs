//! Authentication at a registry: challenges and bearer tokens.

use super::super::{credentials::Credential, error::RegistryError};
use crate::{
    fetch::{Address, AddressError, BodyLength, Client, FetchError, Request, Secret, Trust},
    job::{Cancel, Job, Silent},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{fmt::Write as _, io::Read};

/// Largest response of a token service, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// Client id in token requests.
const CLIENT: &str = "banger";

/// Challenge in a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// Token of a token service.
    Bearer(Bearer),
}

/// Parameters of a token service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    realm: String,
    service: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Challenge {
    /// Returns the best of the offered challenges: with a token, not every request carries the password.
    pub(super) fn best(offered: &[String]) -> Option<Self> {
        let all: Vec<Self> = offered.iter().filter_map(|text| Self::parse(text)).collect();
        let is_bearer = |challenge: &Self| matches!(challenge, Self::Bearer(_));
        let (bearer, basic): (Vec<Self>, Vec<Self>) = all.into_iter().partition(is_bearer);
        bearer.into_iter().chain(basic).next()
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer(Bearer { realm: realm?, service }))
    }
}

/// Parses `key="value",key=value`: quoted or not, with `\` before any character in quotes.
fn parameters(mut rest: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, after)) = rest.trim_start_matches([',', ' ']).split_once('=') {
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut end = quoted.len();
            let mut characters = quoted.char_indices();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                    other => value.push(other),
                }
            }
            rest = &quoted[end..];
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value.push_str(after[..end].trim());
            rest = &after[end..];
        }
        found.push((key.trim().to_owned(), value));
    }
    found
}

/// Returns the `Authorization` header of a user name and a password.
pub(super) fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

impl Bearer {
    /// Returns the address of the token service of a registry at `asked`. Refuses plain text if the registry is reached
    /// by `https://`.
    pub(super) fn service(&self, asked: &Address) -> Result<Address, RegistryError> {
        let refused = |source| RegistryError::Address { address: self.realm.chars().take(160).collect(), source };
        let service: Address = self.realm.parse().map_err(refused)?;
        if asked.is_https() && !service.is_https() {
            return Err(refused(AddressError::Downgrade));
        }
        Ok(service)
    }

    /// Fetches a token for `scope` from `service` and returns it as an `Authorization` header.
    pub(super) fn token(
        &self,
        client: &Client,
        service: &Address,
        trust: Option<Trust>,
        credential: Option<Credential>,
        scope: &str,
        cancel: &Cancel,
    ) -> Result<Secret, RegistryError> {
        let mut query = format!("scope={}", encoded(scope));
        if let Some(service) = &self.service {
            let _ = write!(query, "&service={}", encoded(service));
        }
        let request = match credential {
            Some(Credential::Identity(token)) => {
                let form = format!(
                    "grant_type=refresh_token&client_id={CLIENT}&refresh_token={}&{query}",
                    encoded(token.reveal())
                );
                Request::new(service.clone()).form(Secret::new(form))
            }
            Some(Credential::Basic(user, password)) => {
                Request::new(self.address(&query)?).authorization(Some(basic(&user, &password)))
            }
            None => Request::new(self.address(&query)?),
        };
        let host = || service.host().to_owned();
        let failed = |error: FetchError| RegistryError::Token { host: host(), source: error.into() };
        let job = Job { progress: &Silent, cancel };
        let request = request.trust(trust).unhashed();
        let mut body = client.ask(&request, BodyLength::UpTo(MAX_ANSWER), &job).map_err(failed)?;
        let mut answer = Vec::new();
        // `finish` returns the failure, with its reason.
        let _ = body.read_to_end(&mut answer);
        body.finish().map_err(failed)?;
        let malformed = |why: String| RegistryError::Token { host: host(), source: why.into() };
        let Token { token, access_token } =
            serde_json::from_slice(&answer).map_err(|error| malformed(error.to_string()))?;
        let token = if token.is_empty() { access_token } else { token };
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed("its answer has no token".into()));
        }
        Ok(Secret::new(format!("Bearer {token}")))
    }

    fn address(&self, query: &str) -> Result<Address, RegistryError> {
        let separator = if self.realm.contains('?') { '&' } else { '?' };
        let text = format!("{}{separator}{query}", self.realm);
        let shown = || self.realm.chars().take(160).collect();
        text.parse().map_err(|source| RegistryError::Address { address: shown(), source })
    }
}

/// Percent-encodes text for a query or a form.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    #[test]
    fn challenges() {
        for (text, challenge) in [
            (r#"Bearer realm="https://a/t",service="s",scope="x:y""#, Some(bearer("https://a/t", Some("s")))),
            (r#"bearer Service=s, realm="https://a/\"t""#, Some(bearer("https://a/\"t", Some("s")))),
            (r#"Bearer realm="https://a"#, Some(bearer("https://a", None))),
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Bearer service=s", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(text), challenge, "{text}");
        }
        let both = ["Basic realm=x".to_owned(), "Bearer realm=y".to_owned()];
        assert_eq!(Challenge::best(&both), Some(bearer("y", None)));
    }

    #[test]
    fn what_is_sent_is_encoded() {
        assert_eq!(encoded("repository:a/b:pull &é"), "repository%3Aa%2Fb%3Apull%20%26%C3%A9");
        assert_eq!(basic("me", &Secret::new("pw")).reveal(), "Basic bWU6cHc=");
    }

    #[test]
    fn a_token_service_is_asked_as_everything_is_and_no_less_privately_than_the_registry() {
        let service = |realm: &str, asked: &str| {
            Bearer { realm: realm.into(), service: None }.service(&asked.parse().unwrap()).map_err(
                |error| match error {
                    RegistryError::Address { source, .. } => source,
                    other => panic!("{other}"),
                },
            )
        };
        let (home, away) = ("http://127.0.0.1:5000/v2/", "https://reg.example.org/v2/");
        assert_eq!(service("http://tokens.example.org/t", away), Err(AddressError::Plain));
        assert_eq!(service("http://127.0.0.1:1/t", away), Err(AddressError::Downgrade));
        for (realm, asked) in [("http://127.0.0.1:1/t", home), ("https://tokens.example.org/t", away)] {
            assert_eq!(service(realm, asked).unwrap().to_string(), realm);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_challenge_ends(text: String) {
            let _ = Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
