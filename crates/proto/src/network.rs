//! Types for a VM's network: destinations, rules, published ports. They are text on the command line, in the
//! configuration and in JSON, and are checked once where they enter.

pub mod addressing;
mod cidr;
mod mac;
mod public;
mod publish;
mod rule;

pub use cidr::Cidr;
pub use mac::MacAddr;
pub use public::{CLOSED, PRIVATE, is_public};
pub use publish::Publish;
pub use rule::{Destination, Domain, Rule};

/// Error of parsing one of these types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {rule}")]
pub struct InvalidNetwork {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidNetwork {
    /// Longest part of a refused text repeated in the error, in characters.
    const SHOWN: usize = 80;

    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(Self::SHOWN).collect(), rule }
    }
}

/// Implements serde as text by `Display` and `FromStr`.
macro_rules! as_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = InvalidNetwork;
            fn try_from(text: String) -> Result<Self, InvalidNetwork> {
                text.parse()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $type {}

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
use as_text;
