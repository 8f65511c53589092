//! Authentication at a registry: passwords and bearer tokens.

use super::{
    super::{credentials::Credential, error::RegistryError},
    challenge::Bearer,
};
use crate::{
    fetch::{Address, BodyLength, Client, FetchError, Request, Secret, Trust},
    job::{Cancel, Job, Silent},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{fmt::Write as _, io::Read};

/// Largest response of a token service, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// Client id in token requests.
const CLIENT: &str = "banger";

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
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
        if asked.is_https() && service.same_authority(asked) {
            // It may be a registry that was not told that it speaks TLS.
            return Ok(service.by_tls());
        }
        asked.leads_to(service).map_err(refused)
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
                Request::new(with_query(service, &query)?).authorization(Some(basic(&user, &password)))
            }
            None => Request::new(with_query(service, &query)?),
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
}

fn with_query(service: &Address, query: &str) -> Result<Address, RegistryError> {
    let text = format!("{service}{}{query}", if service.to_string().contains('?') { '&' } else { '?' });
    let shown = || service.to_string().chars().take(160).collect();
    text.parse().map_err(|source| RegistryError::Address { address: shown(), source })
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
    use crate::fetch::AddressError;

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
        assert_eq!(service("https://127.0.0.1:1/t", away), Err(AddressError::Home));
        let home_by_tls = "https://127.0.0.1:5000/v2/";
        assert_eq!(service("http://127.0.0.1:1/t", home_by_tls), Err(AddressError::Downgrade));
        assert_eq!(
            service("http://127.0.0.1:5000/t?x", home_by_tls).unwrap().to_string(),
            "https://127.0.0.1:5000/t?x"
        );
        for (realm, asked) in [("http://127.0.0.1:1/t", home), ("https://tokens.example.org/t", away)] {
            assert_eq!(service(realm, asked).unwrap().to_string(), realm);
        }
    }
}
