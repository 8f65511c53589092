//! Errors of images from elsewhere.

use super::{Digest, Platform, document::DocumentError, platform::listed};
use crate::{
    fetch::FetchError,
    job::Cancelled,
    publish::{PublishError, is_full},
    rootfs::RootfsError,
};
use std::{fmt, io, path::PathBuf, time::Duration};

/// Error of obtaining an image.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A document of the image cannot be used.
    #[error("the {what} of {of} cannot be used")]
    Document {
        /// Document: `manifest`, `configuration`.
        what: &'static str,
        /// Image, for messages.
        of: String,
        /// Reason.
        source: DocumentError,
    },
    /// A document has another digest than its reference.
    #[error("the {what} of {of} has the digest {is}, not {should}")]
    Digest {
        /// Document: `manifest` or `configuration`.
        what: &'static str,
        /// Image, for messages.
        of: String,
        /// The digest it has.
        is: Digest,
        /// The digest it should have.
        should: Digest,
    },
    /// A document has another length than announced.
    #[error("the {what} of {of} has {is} bytes, not {should}")]
    Size {
        /// Document: `manifest` or `configuration`.
        what: &'static str,
        /// Image, for messages.
        of: String,
        /// Its length.
        is: u64,
        /// The length announced.
        should: u64,
    },
    /// It was made for other platforms.
    #[error("there is no {asked} in {of}; there is: {}", listed(there))]
    Platform {
        /// Requested platform.
        asked: Platform,
        /// Image, for messages.
        of: String,
        /// Available platforms.
        there: Vec<Platform>,
    },
    /// The configuration declares no platform.
    #[error("the configuration of {of} names no platform")]
    NoPlatform {
        /// Image, for messages.
        of: String,
    },
    /// It has more layers than allowed.
    #[error("{of} has {layers} layers, more than {max}")]
    TooManyLayers {
        /// Image, for messages.
        of: String,
        /// Number of layers.
        layers: usize,
        /// Upper bound.
        max: usize,
    },
    /// Manifest and configuration disagree about the layers.
    #[error("{of} has {layers} layers in its manifest and {diff_ids} in its configuration")]
    LayerCount {
        /// Image, for messages.
        of: String,
        /// Number of layers in the manifest.
        layers: usize,
        /// Number of layers in the configuration.
        diff_ids: usize,
    },
    /// One layer is wrong, or cannot be stored.
    #[error("{name}")]
    Layer {
        /// Layer.
        name: LayerName,
        /// Cause.
        source: Box<LayerError>,
    },
    /// The disk has no room for the image, even without copies of its layers in the cache.
    #[error("the image does not fit on its disk")]
    Full(#[source] io::Error),
    /// A file or directory with images cannot be used. The error above this one has its path.
    #[error("{0}")]
    Archive(String),
    /// A file or directory with images cannot be read. The error above this one has its path.
    #[error("cannot {what}")]
    Unreadable {
        /// The step, as a verb with its object.
        what: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The layers together are not a valid image.
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
        /// Path.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Layer that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerName {
    /// Number, counted from 1, lowest first.
    pub(super) number: usize,
    /// Number of layers.
    pub(super) of: usize,
    /// First digits of its digest.
    pub(super) digest: String,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} of {} ({}) is refused", self.number, self.of, self.digest)
    }
}

/// Error of one layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its media type is not that of a layer.
    #[error("{0}")]
    Unfit(&'static str),
    /// Its bytes have another digest than its name.
    #[error("it has the digest {is}")]
    Digest {
        /// The digest it has.
        is: Digest,
    },
    /// Its copy in the cache was damaged. The copy is removed, so that the next attempt downloads the layer.
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
    /// Decompressed it has another digest than the configuration says.
    #[error("unpacked it has the digest {is}, not {should}")]
    DiffId {
        /// The digest it has.
        is: Digest,
        /// The digest the configuration names.
        should: Digest,
    },
    /// It cannot be decompressed.
    #[error("it cannot be decompressed")]
    Decode(#[source] io::Error),
    /// The image is a decompression bomb, or too large.
    #[error("the image unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// The layer is a decompression bomb.
    #[error("it unpacks to more than {0} times its size")]
    Ratio(u64),
    /// Its entries cannot be stored.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// It was not downloaded.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It could not be put into the cache.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A file could not be used.
    #[error("cannot {what}")]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Upper bound of the pause a registry may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Reason why a registry did not deliver something.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is nothing of that name, or these credentials may not see it.
    #[error("{host} has no {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// Requested resource.
        what: String,
        /// Whether credentials were sent.
        known: bool,
    },
    /// These credentials do not give access.
    #[error("{host} does not give {what} to {}", if *known { "these credentials" } else { "strangers" })]
    Denied {
        /// The registry.
        host: String,
        /// Requested resource.
        what: String,
        /// Whether credentials were sent.
        known: bool,
        /// Response of the token service, if it was the one that refused.
        source: Option<Box<RegistryError>>,
    },
    /// The registry wants an authentication scheme that banger does not know.
    #[error("{host} wants a login of a kind that banger does not know: {challenge:?}")]
    Challenge {
        /// The registry.
        host: String,
        /// Its challenge, truncated.
        challenge: String,
    },
    /// The token service gave no token.
    #[error("{host} gave no token")]
    Token {
        /// Host of the token service.
        host: String,
        /// Reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry had too many requests.
    #[error("{host} has had too many requests{}", after(*retry_after))]
    Busy {
        /// The registry.
        host: String,
        /// Pause the registry asks for.
        retry_after: Option<Duration>,
    },
    /// The reference leads to an address that is refused.
    #[error("{address:?} is not used")]
    Address {
        /// The address.
        address: String,
        /// Reason.
        source: crate::fetch::AddressError,
    },
    /// The credentials could not be read.
    #[error("the credentials for {host} cannot be had")]
    Credentials {
        /// Registry.
        host: String,
        /// Reason.
        source: super::credentials::CredentialError,
    },
    /// The download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl RegistryError {
    /// Whether the same request may succeed in a moment.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            _ => self.fetch().is_some_and(FetchError::is_transient),
        }
    }

    /// Returns the request that failed, to the registry or for a token.
    pub fn fetch(&self) -> Option<&FetchError> {
        match self {
            Self::Fetch(error) => Some(error),
            Self::Token { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the token service refused a token for these credentials; `identity` says whether they were an identity
    /// token.
    pub(super) fn is_no_token_for_them(&self, identity: bool) -> bool {
        let (Self::Token { .. }, Some(FetchError::Status(refused))) = (self, self.fetch()) else { return false };
        // OAuth 2 answers an expired identity token with a bad request (`invalid_grant`).
        matches!(refused.code, 401 | 403) || (identity && refused.code == 400)
    }

    /// Returns the pause the registry asks for, up to the upper bound.
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
    /// Error of a layer that could not be stored. A full disk says nothing about the layer.
    pub(super) fn layer(name: LayerName, source: LayerError) -> Self {
        match source {
            LayerError::Rootfs(RootfsError::Io { source, .. }) if is_full(&source) => Self::Full(source),
            source => Self::Layer { name, source: Box::new(source) },
        }
    }

    pub(super) fn unreadable(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unreadable { what: what.into(), source }
    }

    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// Returns the registry's error, if it was one.
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

    /// Whether only the cached copy was damaged, so that the same pull may succeed at once.
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
            Self::Full(_) => true,
            Self::Rootfs(error) => error.is_out_of_space(),
            Self::Io { source, .. }
            | Self::Unreadable { source, .. }
            | Self::Publish(PublishError::Io { source, .. }) => is_full(source),
            Self::Layer { source, .. } => match &**source {
                LayerError::Rootfs(error) => error.is_out_of_space(),
                LayerError::Io { source, .. } | LayerError::Publish(PublishError::Io { source, .. }) => is_full(source),
                _ => false,
            },
            _ => false,
        }
    }
}
