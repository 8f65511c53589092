//! Enums that are one word as text: on the command line, in the configuration and in messages.

/// Implements `Display` and `FromStr` for a closed set of words. An unknown word is refused with the list of the known
/// ones.
macro_rules! words {
    ($type:ty { $($variant:path => $word:literal),+ }) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $($variant => $word),+ })
            }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($variant),)+
                    _ => Err(format!("{text:?} is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}
pub(crate) use words;
