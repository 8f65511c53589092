//! Scheme of a registry, which on loopback is found out.
//!
//! A registry on loopback is asked without TLS. One that speaks TLS refuses that, and every server has its own way: an
//! alert, an HTTP error, a redirect, or no word at all. So if the first answer is none of a registry, the same is asked
//! by TLS. What that proves counts for all of the pull: nothing, least of all a login, goes there in plain text again.

use crate::{
    fetch::{Address, Body, BodyLength, Client, FetchError, Request},
    job::Job,
};
use std::sync::{Mutex, PoisonError};

/// Scheme of one registry.
#[derive(Debug)]
pub(super) struct Scheme(Mutex<Known>);

/// What is known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: it was not asked yet, or did not answer.
    Nothing,
    /// It answered without TLS.
    Plain,
    /// It speaks TLS. This never changes again.
    Tls,
}

impl Scheme {
    /// Scheme of a registry that is asked by TLS from the start, or of one on loopback.
    pub(super) fn new(is_tls: bool) -> Self {
        Self(Mutex::new(if is_tls { Known::Tls } else { Known::Nothing }))
    }

    /// Returns the request as it is to be made now.
    pub(super) fn of(&self, request: &Request) -> Request {
        let request = request.clone();
        if self.known() == Known::Tls { request.by_tls() } else { request }
    }

    /// Records that the registry speaks TLS.
    pub(super) fn learn_tls(&self) {
        self.learn(Known::Tls);
    }

    /// Makes a request.
    pub(super) fn ask<'a>(
        &self,
        client: &Client,
        request: &Request,
        length: BodyLength,
        job: &Job<'a>,
    ) -> Result<Body<'a>, FetchError> {
        let request = self.of(request);
        let asked = request.address();
        let answer = client.ask(&request, length, job);
        if asked.is_https() {
            return answer;
        }
        let by_tls = |address: &Address| address.is_https() && address.same_authority(asked);
        match &answer {
            Ok(body) if by_tls(&body.head().address) => self.learn_tls(),
            // Its own redirect to TLS: the login was not sent along.
            Err(FetchError::Status(refused)) if by_tls(&refused.address) => {
                self.learn_tls();
                return client.ask(&request.by_tls(), length, job);
            }
            Err(error) if error.tls_host() == Some(asked.host()) => self.learn_tls(),
            Err(error) if self.known() == Known::Nothing && may_be_tls(error) => {
                let secured = client.ask(&request.by_tls(), length, job);
                if proves_tls(&secured) {
                    self.learn_tls();
                    return secured;
                }
            }
            Ok(_) | Err(FetchError::Status(_)) => self.learn(Known::Plain),
            Err(_) => {}
        }
        answer
    }

    fn known(&self) -> Known {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, what: Known) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != Known::Tls {
            *known = what;
        }
    }
}

/// Whether a server that speaks TLS may answer a request without TLS so: with an alert, which is no HTTP, with a closed
/// connection, or with a bad request.
fn may_be_tls(error: &FetchError) -> bool {
    match error {
        FetchError::Protocol { .. } | FetchError::Connect { .. } => true,
        FetchError::Status(refused) => refused.code == 400,
        _ => false,
    }
}

/// Whether the other side of a request by TLS speaks it, whatever it said.
fn proves_tls(answer: &Result<Body<'_>, FetchError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => {
            let answered = matches!(
                error,
                FetchError::Status(_)
                    | FetchError::Announced { .. }
                    | FetchError::TooLarge(_)
                    | FetchError::Redirect { .. }
                    | FetchError::Redirects { .. }
            );
            answered || error.tls_host().is_some()
        }
    }
}
