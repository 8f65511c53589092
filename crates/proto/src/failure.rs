//! Shape of a failed request on every surface, with a closed set of codes.

use crate::name::OperationId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Kind of a failure. The set is closed: scripts may match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No VM, image, kernel or file has that name.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request makes no sense as written.
    Invalid,
    /// Not allowed: another user's daemon, a path outside, a policy.
    Denied,
    /// This host, kernel or version cannot do it.
    Unsupported,
    /// Something needed is missing or down now: no space, no program, no daemon.
    Unavailable,
    /// Waited for without any progress, until a timeout.
    Timeout,
    /// The guest did something wrong: garbage, a panic, an early power-off.
    Guest,
    /// Legal in another state, but not in this one.
    Conflict,
    /// A bug in banger.
    Internal,
}

impl Code {
    /// The code as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Guest => "guest",
            Self::Conflict => "conflict",
            Self::Internal => "internal",
        }
    }
}

/// Failure as on every surface: CLI text, `--json`, the daemon's HTTP body, the agent's HTTP body.
///
/// A guest command's exit status is *not* a failure and is never put in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Kind of the failure.
    pub code: Code,
    /// Description of the failure, lower case, no full stop.
    pub message: String,
    /// Causes, outermost first. None repeats the message.
    #[serde(default)]
    pub causes: Vec<String>,
    /// Hints that help, each a sentence or a command.
    #[serde(default)]
    pub hints: Vec<String>,
    /// Id of the daemon operation it happened in, which is also in the daemon's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
}

impl Failure {
    /// A failure without causes or hints.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), hints: Vec::new(), operation: None }
    }

    /// A failure whose causes are the source chain of `error`, `error` itself first.
    pub fn caused_by(code: Code, message: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut failure = Self::new(code, message);
        let mut next = Some(error);
        while let Some(error) = next {
            failure.causes.push(error.to_string());
            next = error.source();
        }
        failure
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a cause below those already there.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_as_they_serialize() {
        for code in [
            Code::NotFound,
            Code::AlreadyExists,
            Code::Invalid,
            Code::Denied,
            Code::Unsupported,
            Code::Unavailable,
            Code::Timeout,
            Code::Guest,
            Code::Conflict,
            Code::Internal,
        ] {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("{:?}", code.as_str()));
        }
    }

    #[test]
    fn the_cause_chain_is_kept_in_order() {
        let inner = "z".parse::<u8>().unwrap_err();
        let failure = Failure::caused_by(Code::Invalid, "cannot read the number", &inner).cause("it is a letter");
        assert_eq!(failure.to_string(), "cannot read the number: invalid digit found in string: it is a letter");
    }
}
