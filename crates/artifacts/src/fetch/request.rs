//! Requests: an address, and everything sent along with it.

use super::{Address, Trust};
use std::fmt;

/// HTTP request: `GET`, or `POST` of a form.
#[derive(Clone)]
pub struct Request {
    pub(super) address: Address,
    pub(super) accept: Option<String>,
    pub(super) authorization: Option<Secret>,
    pub(super) form: Option<Secret>,
    pub(super) from: u64,
    pub(super) trust: Option<Trust>,
    pub(super) hash: bool,
}

/// Secret that no log and no error may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("address", &self.address).field("from", &self.from).finish_non_exhaustive()
    }
}

impl Request {
    /// Creates a request for `address`, whose body is hashed.
    pub fn new(address: Address) -> Self {
        Self { address, accept: None, authorization: None, form: None, from: 0, trust: None, hash: true }
    }

    /// Sets the accepted media types, as in an `Accept` header.
    #[must_use]
    pub fn accept(mut self, types: impl Into<String>) -> Self {
        self.accept = Some(types.into());
        self
    }

    /// Sets the `Authorization` header. It is sent to the requested host, and to no host it redirects to.
    #[must_use]
    pub fn authorization(mut self, header: Option<Secret>) -> Self {
        self.authorization = header;
        self
    }

    /// Posts this form (`a=b&c=d`, encoded) to this address; redirects are refused.
    #[must_use]
    pub fn form(mut self, form: Secret) -> Self {
        self.form = Some(form);
        self
    }

    /// Requests the body from this byte on. A server may begin at the first byte all the same: see
    /// [`super::Head::from`].
    #[must_use]
    pub fn from(mut self, byte: u64) -> Self {
        self.from = byte;
        self
    }

    /// Sets the certificates for the requested host. Without them, and for hosts it redirects to, those of this host
    /// are trusted and none is shown.
    #[must_use]
    pub fn trust(mut self, trust: Option<Trust>) -> Self {
        self.trust = trust;
        self
    }

    /// Returns the address of the request.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Makes the request by TLS.
    #[must_use]
    pub(crate) fn by_tls(self) -> Self {
        Self { address: self.address.by_tls(), ..self }
    }

    /// Does not hash the body.
    #[must_use]
    pub fn unhashed(mut self) -> Self {
        self.hash = false;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let request = Request::new("http://127.0.0.1/x".parse().unwrap())
            .authorization(Some(Secret::new("Basic aGk=")))
            .form(Secret::new("password=hi"));
        let shown = format!("{request:?} {:?}", request.authorization);
        assert!(!shown.contains("aGk") && !shown.contains("password"), "{shown}");
    }
}
