//! What can be wrong with an image that somebody else made.

use super::{Digest, Platform, document::DocumentError, platform::listed};
use crate::{
    fetch::FetchError,
    job::Cancelled,
    publish::{PublishError, is_full},
    rootfs::RootfsError,
};
use std::{fmt, io, path::PathBuf, time::Duration};

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A document that leads to it cannot be used.
    #[error("the {what} of {of} cannot be used")]
    Document {
        /// Which: `manifest`, `configuration`.
        what: &'static str,
        /// Of what.
        of: String,
        /// Why not.
        source: DocumentError,
    },
    /// A document is not what its name says.
    #[error("the {what} of {of} has the digest {is}, not {should}")]
    Digest {
        /// Which document.
        what: &'static str,
        /// Of what.
        of: String,
        /// The digest it has.
        is: Digest,
        /// The digest it should have.
        should: Digest,
    },
    /// A document has another length than announced.
    #[error("the {what} of {of} has {is} bytes, not {should}")]
    Size {
        /// Which document.
        what: &'static str,
        /// Of what.
        of: String,
        /// Its length.
        is: u64,
        /// The length announced.
        should: u64,
    },
    /// It was made for other machines.
    #[error("there is no {asked} in {of}; there is: {}", listed(there))]
    Platform {
        /// What was asked for.
        asked: Platform,
        /// In what.
        of: String,
        /// What there is.
        there: Vec<Platform>,
    },
    /// Nothing says what it was made for.
    #[error("the configuration of {of} names no platform")]
    NoPlatform {
        /// Of what.
        of: String,
    },
    /// More layers than allowed.
    #[error("{of} has {layers} layers, more than {max}")]
    TooManyLayers {
        /// What.
        of: String,
        /// How many it has.
        layers: usize,
        /// How many it may have.
        max: usize,
    },
    /// Manifest and configuration disagree.
    #[error("{of} has {layers} layers in its manifest and {diff_ids} in its configuration")]
    LayerCount {
        /// What.
        of: String,
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// One layer is not what it should be, or cannot be stored.
    #[error("{name}")]
    Layer {
        /// Which.
        name: LayerName,
        /// What is wrong.
        source: Box<LayerError>,
    },
    /// A file or directory with images in it cannot be used.
    #[error("{} cannot be used: {why}", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// What the layers add up to cannot be an image.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The cache could not be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A file could not be used.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was told to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Which layer an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerName {
    /// Counted from 1, lowest first.
    pub(super) number: usize,
    /// How many there are.
    pub(super) of: usize,
    /// The beginning of its digest.
    pub(super) digest: String,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} of {} ({}) is refused", self.number, self.of, self.digest)
    }
}

/// What is wrong with one layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its media type.
    #[error("{0}")]
    Unfit(&'static str),
    /// Its bytes are not those of its name.
    #[error("it has the digest {is}")]
    Digest {
        /// The digest it has.
        is: Digest,
    },
    /// What the cache had of it was something else. It is forgotten, so that the layer comes anew another time.
    #[error("its copy in the cache was damaged")]
    Stale,
    /// It has another length than announced.
    #[error("it has {is} bytes, not {should}")]
    Size {
        /// Its length.
        is: u64,
        /// The length announced.
        should: u64,
    },
    /// Unpacked it is not what the configuration says.
    #[error("unpacked it has the digest {is}, not {should}")]
    DiffId {
        /// The digest it has.
        is: Digest,
        /// The digest the configuration names.
        should: Digest,
    },
    /// It cannot be unpacked.
    #[error("it cannot be decompressed")]
    Decode(#[source] io::Error),
    /// A bomb, or an image larger than anybody wants.
    #[error("the image unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// A bomb.
    #[error("it unpacks to more than {0} times its size")]
    Ratio(u64),
    /// What it holds cannot be stored.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// It did not come.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It could not be kept.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A file could not be used.
    #[error("cannot {what}")]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It was told to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Longest pause a registry is granted.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Why a registry did not give something.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is nothing under that name, or it is hidden from who asks.
    #[error("{host} has no {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Who asked said who they are.
        known: bool,
    },
    /// Who asks may not have it.
    #[error("{host} does not give {what} to {}", if *known { "these credentials" } else { "strangers" })]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Who asked said who they are.
        known: bool,
        /// What the service that gives out tokens had to say, where it was that one who refused.
        source: Option<Box<RegistryError>>,
    },
    /// The registry wants to be told who asks in a way banger does not know.
    #[error("{host} wants a login of a kind that banger does not know: {challenge:?}")]
    Challenge {
        /// The registry.
        host: String,
        /// What it said, cut.
        challenge: String,
    },
    /// The service that gives out tokens gave none.
    #[error("{host} gave no token")]
    Token {
        /// Who was asked.
        host: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Too many requests at the moment.
    #[error("{host} has had too many requests{}", after(*retry_after))]
    Busy {
        /// The registry.
        host: String,
        /// When to come again.
        retry_after: Option<Duration>,
    },
    /// The name leads to an address that is not asked.
    #[error("{address:?} is not used")]
    Address {
        /// The address.
        address: String,
        /// Why not.
        source: crate::fetch::AddressError,
    },
    /// The credentials could not be read.
    #[error("the credentials for {host} cannot be had")]
    Credentials {
        /// For which registry.
        host: String,
        /// Why not.
        source: super::credentials::CredentialError,
    },
    /// The download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl RegistryError {
    /// Whether the same request may work in a moment.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            _ => self.fetch().is_some_and(FetchError::is_transient),
        }
    }

    /// The request that failed, to the registry or for a token.
    pub fn fetch(&self) -> Option<&FetchError> {
        match self {
            Self::Fetch(error) => Some(error),
            Self::Token { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }

    /// Whether it is the service that gives out tokens that does not give one to who asks, who said so by an `identity` or not.
    pub(super) fn is_no_token_for_them(&self, identity: bool) -> bool {
        let (Self::Token { .. }, Some(FetchError::Status(refused))) = (self, self.fetch()) else { return false };
        // To OAuth 2 an identity that is good no longer is a bad request (`invalid_grant`).
        matches!(refused.code, 401 | 403) || (identity && refused.code == 400)
    }

    /// How long the registry wants to be left alone, as far as that is granted.
    pub(super) fn wants_pause(&self) -> Option<Duration> {
        let wanted = match (self, self.fetch()) {
            (Self::Busy { retry_after, .. }, _) => *retry_after,
            (_, Some(FetchError::Status(refused))) => refused.retry_after,
            _ => None,
        };
        wanted.map(|wanted| wanted.min(MAX_PAUSE))
    }
}

fn after(wait: Option<Duration>) -> String {
    wait.map_or(String::new(), |wait| format!(" and wants a pause of {} s", wait.as_secs()))
}

impl OciError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// The registry's part in it, if it had one.
    pub fn registry(&self) -> Option<&RegistryError> {
        match self {
            Self::Registry(error) => Some(error),
            Self::Layer { source, .. } => match &**source {
                LayerError::Registry(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether nothing is wrong but what the cache had, so that the same pull may work at once.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Self::Layer { source, .. } if matches!(**source, LayerError::Stale))
    }

    /// Whether it was told to stop.
    pub fn is_cancelled(&self) -> bool {
        let fetch = self.registry().and_then(RegistryError::fetch);
        let fetch = matches!(fetch, Some(FetchError::Cancelled(_)));
        let layer = |error: &LayerError| {
            matches!(
                error,
                LayerError::Cancelled(_)
                    | LayerError::Rootfs(RootfsError::Cancelled(_))
                    | LayerError::Publish(PublishError::Cancelled(_))
            )
        };
        fetch
            || match self {
                Self::Cancelled(_)
                | Self::Rootfs(RootfsError::Cancelled(_))
                | Self::Publish(PublishError::Cancelled(_)) => true,
                Self::Layer { source, .. } => layer(source),
                _ => false,
            }
    }

    /// Whether the disk (or the user's quota) was full: freeing space and trying again helps.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Rootfs(error) => error.is_out_of_space(),
            Self::Io { source, .. } | Self::Publish(PublishError::Io { source, .. }) => is_full(source),
            Self::Layer { source, .. } => match &**source {
                LayerError::Rootfs(error) => error.is_out_of_space(),
                LayerError::Io { source, .. } | LayerError::Publish(PublishError::Io { source, .. }) => is_full(source),
                _ => false,
            },
            _ => false,
        }
    }
}
