//! What may be said about a VM's network: destinations, rules, published ports. Text on the command line, in the
//! configuration and in JSON; checked once where it enters.

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

/// Why a text says nothing about a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {rule}")]
pub struct InvalidNetwork {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidNetwork {
    /// Longest piece of a refused text that is repeated.
    const SHOWN: usize = 80;

    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(Self::SHOWN).collect(), rule }
    }
}

/// Text in JSON, by `Display` and `FromStr`.
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
