//! Client of a registry, after OCI's distribution specification: documents by tag or digest, blobs by digest.
//!
//! Uses `https://`, and plain text to loopback addresses only, as for every download, until TLS is found there.
//! Credentials are sent when they are asked for, and only to the host they are for.

use super::{
    Credentials, Digest, Reference,
    credentials::Credential,
    document::{ACCEPTED, MAX_DOCUMENT},
    error::RegistryError,
};
use crate::{
    fetch::{self, Address, Body, BodyLength, Client, FetchError, Refused, Request, Secret, Trust},
    job::{Job, Progress},
};
use std::{
    path::PathBuf,
    sync::{Mutex, Once, PoisonError},
    time::{Duration, Instant},
};

mod auth;
mod certificates;
mod challenge;
mod scheme;
use certificates::Certificates;
use challenge::Challenge;
use scheme::Scheme;

/// Number of attempts of a request if the network fails or the registry is busy.
const ATTEMPTS: usize = 4;

/// Repository of a registry.
pub(super) struct Repository<'a> {
    client: &'a Client,
    credentials: &'a Credentials,
    reference: Reference,
    base: String,
    scheme: Scheme,
    /// Directories with one directory of certificates per host.
    certificates: Vec<PathBuf>,
    /// Those for this registry, and whether the user was told which are passed over.
    trust: Trust,
    told: Once,
    /// `Authorization` header of the last request.
    authorization: Mutex<Option<Secret>>,
}

/// Progress of documents, which are too small for reports. Notices about waiting are passed on.
struct Small<'a>(&'a dyn Progress);

impl Progress for Small<'_> {
    fn phase(&self, _what: &str) {}
    fn advance(&self, _done: u64, _total: Option<u64>) {}

    fn notice(&self, text: &str) {
        self.0.notice(text);
    }
}

/// Response in memory.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: Option<String>,
}

impl<'a> Repository<'a> {
    /// Opens the repository of `reference`. `certificates` are directories with one directory per registry, like
    /// Docker's and Podman's `certs.d`.
    pub(super) fn new(
        client: &'a Client,
        credentials: &'a Credentials,
        certificates: &[PathBuf],
        reference: Reference,
    ) -> Self {
        let host = reference.host();
        let plain = format!("http://{host}/");
        // Only loopback addresses are accepted with http; a registry there that speaks TLS has its certificate in
        // `certs.d`.
        let own = Certificates::of(certificates, reference.registry());
        let is_tls = plain.parse::<Address>().is_err() || own.want_tls();
        let base = format!("{}://{host}/v2/{}", if is_tls { "https" } else { "http" }, reference.repository());
        let (scheme, certificates) = (Scheme::new(is_tls), certificates.to_vec());
        let (trust, told, authorization) = (own.read(), Once::new(), Mutex::default());
        Self { client, credentials, reference, base, scheme, certificates, trust, told, authorization }
    }

    /// Fetches the document of a tag or digest.
    pub(super) fn document(&self, version: &str, job: &Job<'_>) -> Result<Answer, RegistryError> {
        let request = self.request(&format!("manifests/{version}"))?.accept(ACCEPTED).unhashed();
        let what = format!("{}:{version}", self.reference.repository()).replace(":sha256:", "@sha256:");
        self.small(&request, &what, MAX_DOCUMENT, job)
    }

    /// Fetches a small blob: a configuration.
    pub(super) fn small_blob(&self, digest: &Digest, job: &Job<'_>) -> Result<Answer, RegistryError> {
        let request = self.request(&format!("blobs/{digest}"))?.unhashed();
        self.small(&request, &format!("{}@{digest}", self.reference.repository()), MAX_DOCUMENT, job)
    }

    /// Requests a blob of `size` bytes from byte `from` on.
    pub(super) fn blob<'b>(
        &self,
        digest: &Digest,
        size: u64,
        from: u64,
        job: &Job<'b>,
    ) -> Result<Body<'b>, RegistryError> {
        let request = self.request(&format!("blobs/{digest}"))?.from(from).unhashed();
        // A server may ignore the offset and send everything.
        let length = if from == 0 { BodyLength::Exactly(size) } else { BodyLength::UpTo(size) };
        self.ask(&request, &format!("{}@{digest}", self.reference.repository()), length, job)
    }

    fn request(&self, path: &str) -> Result<Request, RegistryError> {
        let text = format!("{}/{path}", self.base);
        let address = text.parse().map_err(|source| RegistryError::Address { address: text, source })?;
        Ok(Request::new(address).trust(Some(self.trust.clone())))
    }

    fn small(&self, request: &Request, what: &str, max: u64, job: &Job<'_>) -> Result<Answer, RegistryError> {
        let quiet = Job { progress: &Small(job.progress), cancel: job.cancel };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let since = Instant::now();
            let outcome = self.ask(request, what, BodyLength::UpTo(max), &quiet).and_then(|mut body| {
                let mut bytes = Vec::new();
                // `finish` returns the failure, with its reason.
                let _ = std::io::Read::read_to_end(&mut body, &mut bytes);
                let media_type = body.head().media_type.clone();
                body.finish()?;
                Ok(Answer { bytes, media_type })
            });
            let failure = match outcome {
                Err(failure) if failure.passes() => failure,
                outcome => return outcome,
            };
            let Some(usual) = self.client.pauses.get(attempt - 1).filter(|_| attempt < ATTEMPTS) else {
                return Err(failure);
            };
            tracing::info!(what, attempt, "asking the registry again");
            self.pause_before_retry(&failure, since, *usual, job)?;
        }
    }

    /// Pauses before the request is repeated: as long as the registry wants, else `usual`.
    pub(super) fn pause_before_retry(
        &self,
        failure: &RegistryError,
        since: Instant,
        usual: Duration,
        job: &Job<'_>,
    ) -> Result<(), RegistryError> {
        let pause = failure.wants_pause().unwrap_or(usual);
        Ok(fetch::pause_before_retry(self.reference.registry(), failure, since, pause, job)?)
    }

    /// Makes a request, and authenticates if that is required.
    fn ask<'b>(
        &self,
        request: &Request,
        what: &str,
        length: BodyLength,
        job: &Job<'b>,
    ) -> Result<Body<'b>, RegistryError> {
        self.told.call_once(|| {
            let unfit = self.trust.passed_over().iter();
            unfit.for_each(|unfit| job.progress.notice(&unfit.to_string()));
        });
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = self.scheme.ask(self.client, &request.clone().authorization(known.clone()), length, job);
        let request = self.scheme.of(request);
        let asked = request.address();
        let refused = match first {
            // A host the registry redirects to has no say in where the password goes.
            Err(FetchError::Status(refused)) if refused.code == 401 && refused.address.same_authority(asked) => refused,
            other => return other.map_err(|error| self.explain(error, asked, what, known.is_some())),
        };
        if refused.challenges.is_empty() {
            return Err(self.denied(what, known.is_some()));
        }
        let challenge = Challenge::best(&refused.challenges).ok_or_else(|| RegistryError::Challenge {
            host: self.host(),
            challenge: refused.challenges.join(", ").chars().take(160).collect(),
        })?;
        let credential = self.credentials.find(self.reference.registry(), self.reference.repository(), job);
        let credential = credential.map_err(|source| RegistryError::Credentials { host: self.host(), source })?;
        let (is_known, identity) = (credential.is_some(), matches!(credential, Some(Credential::Identity(_))));
        let secret = match challenge {
            Challenge::Basic => match credential {
                Some(Credential::Basic(user, password)) => auth::basic(&user, &password),
                _ => return Err(self.denied(what, is_known)),
            },
            Challenge::Bearer(bearer) => {
                let scope = format!("repository:{}:pull", self.reference.repository());
                let (service, trust) = self.trust_in(bearer.service(asked)?, asked);
                let token = bearer.token(self.client, &service, Some(trust), credential, &scope, job.cancel);
                let token = token.map_err(|error| match error {
                    refused if refused.is_no_token_for_them(identity) => self.refused(what, is_known, refused),
                    other => other,
                })?;
                if service.is_https() && service.same_authority(asked) {
                    self.scheme.learn_tls();
                }
                token
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret.clone());
        let second = self.scheme.ask(self.client, &request.clone().authorization(Some(secret)), length, job);
        second.map_err(|error| self.explain(error, asked, what, is_known))
    }

    /// Returns the token service as it is to be asked, and the certificates for it: its own, if it has some, which are
    /// for TLS; else the registry's, if both have the same name.
    fn trust_in(&self, service: Address, asked: &Address) -> (Address, Trust) {
        let own = Certificates::of(&self.certificates, service.host());
        if own.want_tls() {
            return (service.by_tls(), own.read());
        }
        let trust = if service.same_name(asked) { self.trust.clone() } else { own.read() };
        (service, trust)
    }

    /// Converts an error of a request to one of the registry.
    fn explain(&self, error: FetchError, asked: &Address, what: &str, known: bool) -> RegistryError {
        let FetchError::Status(refused) = &error else { return error.into() };
        if !refused.address.same_authority(asked) {
            return error.into();
        }
        let Refused { code, retry_after, .. } = **refused;
        match code {
            404 => RegistryError::NotFound { host: self.host(), what: what.to_owned(), known },
            401 | 403 => self.denied(what, known),
            429 => RegistryError::Busy { host: self.host(), retry_after },
            _ => error.into(),
        }
    }

    fn denied(&self, what: &str, known: bool) -> RegistryError {
        RegistryError::Denied { host: self.host(), what: what.to_owned(), known, source: None }
    }

    /// Like [`Self::denied`], when the token service refused.
    fn refused(&self, what: &str, known: bool, by: RegistryError) -> RegistryError {
        RegistryError::Denied { host: self.host(), what: what.to_owned(), known, source: Some(by.into()) }
    }

    fn host(&self) -> String {
        self.reference.registry().to_owned()
    }
}
