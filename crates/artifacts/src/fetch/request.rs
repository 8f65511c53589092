//! What is asked of a server besides an address.

use super::Address;
use std::{fmt, path::Path, sync::Arc};
use ureq::tls::Certificate;

/// One request: `GET`, or `POST` of a form.
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

/// Something no log and no error may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Whom to trust, loaded once for many requests.
#[derive(Clone)]
pub struct Trust(Arc<Vec<Certificate<'static>>>);

impl Secret {
    /// Keeps it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// What it is.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} certificates)", self.0.len())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("address", &self.address).field("from", &self.from).finish_non_exhaustive()
    }
}

impl Trust {
    /// The host's own word on whom to trust (its administrator may have added to it or taken from it), and besides it
    /// the certificates in these files; one that cannot be read is left out, with a warning in the log.
    pub fn of_host(also: &[impl AsRef<Path>]) -> Self {
        let mut found = rustls_native_certs::load_native_certs();
        for path in also {
            let more = rustls_native_certs::load_certs_from_paths(Some(path.as_ref()), None);
            for error in &more.errors {
                tracing::warn!(path = %path.as_ref().display(), %error, "a certificate cannot be used");
            }
            found.certs.extend(more.certs);
        }
        Self(Arc::new(found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()))
    }

    pub(super) fn certificates(&self) -> &Arc<Vec<Certificate<'static>>> {
        &self.0
    }
}

impl Request {
    /// What is at `address`, hashed.
    pub fn new(address: Address) -> Self {
        Self { address, accept: None, authorization: None, form: None, from: 0, trust: None, hash: true }
    }

    /// The media types that are understood, as an `Accept` header has them.
    #[must_use]
    pub fn accept(mut self, types: impl Into<String>) -> Self {
        self.accept = Some(types.into());
        self
    }

    /// Who asks, as an `Authorization` header has it. It goes to the host that is asked, and to no other it leads to.
    #[must_use]
    pub fn authorization(mut self, header: Option<Secret>) -> Self {
        self.authorization = header;
        self
    }

    /// Posts this form (`a=b&c=d`, encoded), to this address and to none it leads to.
    #[must_use]
    pub fn form(mut self, form: Secret) -> Self {
        self.form = Some(form);
        self
    }

    /// Begins at this byte. A server may begin at the first all the same: see [`super::Head::from`].
    #[must_use]
    pub fn from(mut self, byte: u64) -> Self {
        self.from = byte;
        self
    }

    /// Trusts these about the host that is asked; else, and about others it leads to, those this host trusts.
    #[must_use]
    pub fn trust(mut self, trust: Option<Trust>) -> Self {
        self.trust = trust;
        self
    }

    /// What is asked first.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Leaves the hashing to the caller.
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
