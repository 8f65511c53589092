//! Failures of TLS in words.

use banger_proto::time;
use rustls::{AlertDescription, CertificateError, Error, ExtendedKeyPurpose, OtherError};

/// Upper bound of a certificate's names that are shown, and of the characters of each.
const MAX_NAMES: usize = 8;
const MAX_NAME: usize = 100;

/// Reason why there is no connection with a server that is trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// No trusted authority signed its certificate.
    #[error("its certificate is signed by no authority that is trusted here")]
    UnknownAuthority,
    /// Its certificate is an authority's, as one that signed itself is, and not among the trusted ones.
    #[error("its certificate is an authority's own (it may have signed itself), and not one of those trusted here")]
    Untrusted,
    /// Its certificate has expired.
    #[error("its certificate expired at {after}")]
    Expired {
        /// Moment, in UTC.
        after: String,
    },
    /// Its certificate is not valid yet.
    #[error("its certificate is not valid before {before}, and this host's clock says {now}")]
    NotYetValid {
        /// Moment, in UTC.
        before: String,
        /// This host's time.
        now: String,
    },
    /// Its certificate is for other names.
    #[error("its certificate is {}", names(presented))]
    Name {
        /// Names in the certificate.
        presented: Vec<String>,
    },
    /// Its certificate is not for servers.
    #[error("its certificate is not for servers: its extended key usage has no serverAuth{}", instead(presented))]
    Purpose {
        /// Purposes in the certificate, as far as they have a name.
        presented: Vec<&'static str>,
    },
    /// Its certificate is one of X.509 version 1.
    #[error("its certificate is one of X.509 version 1, which has no names; an extension makes it version 3")]
    Version,
    /// Its certificate was revoked.
    #[error("its certificate was revoked")]
    Revoked,
    /// Its certificate was signed in a way that is not accepted.
    #[error("its certificate, or one that signed it, has a signature of a kind that is not accepted (such as SHA-1)")]
    Signature,
    /// Its certificate is damaged, or contradicts itself.
    #[error("its certificate, or one that signed it, is not a correct one")]
    Certificate,
    /// The server ended the handshake.
    #[error("it ended the handshake: {0}")]
    Alert(String),
    /// It wants another version or other algorithms.
    #[error("it speaks no version of TLS, or has no algorithms, that are spoken here (TLS 1.2 and 1.3 are)")]
    Incompatible,
    /// It does not keep to the protocol.
    #[error("it does not keep to TLS")]
    Protocol,
    /// The name or address of the host cannot be in a certificate.
    #[error("no certificate can be for such a name")]
    HostName,
    /// This host's side failed.
    #[error("this host's side of it failed")]
    Own,
}

impl TlsError {
    /// Whether trusting an authority, or the certificate itself, would help.
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::UnknownAuthority | Self::Untrusted)
    }

    /// Whether the other side did speak TLS.
    pub(super) fn is_of_tls(&self) -> bool {
        !matches!(self, Self::Protocol | Self::HostName | Self::Own)
    }

    /// Whether it is about the server's certificate, and not about the handshake.
    pub(super) fn is_of_certificate(&self) -> bool {
        !matches!(self, Self::Alert(_) | Self::Incompatible | Self::Protocol | Self::HostName | Self::Own)
    }
}

impl From<&Error> for TlsError {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::AlertReceived(alert) => Self::Alert(described(*alert)),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            Error::UnsupportedNameType => Self::HostName,
            Error::NoCertificatesPresented => Self::Certificate,
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::DecryptError
            | Error::PeerSentOversizedRecord => Self::Protocol,
            _ => Self::Own,
        }
    }
}

fn of_certificate(error: &CertificateError) -> TlsError {
    match error {
        CertificateError::UnknownIssuer => TlsError::UnknownAuthority,
        CertificateError::ExpiredContext { not_after, .. } => TlsError::Expired { after: moment(not_after.as_secs()) },
        CertificateError::NotValidYetContext { time, not_before } => {
            TlsError::NotYetValid { before: moment(not_before.as_secs()), now: moment(time.as_secs()) }
        }
        CertificateError::NotValidForName => TlsError::Name { presented: Vec::new() },
        CertificateError::NotValidForNameContext { presented, .. } => {
            TlsError::Name { presented: presented.iter().filter_map(|name| bare(name)).collect() }
        }
        CertificateError::InvalidPurpose => TlsError::Purpose { presented: Vec::new() },
        CertificateError::InvalidPurposeContext { presented, .. } => {
            let mut presented: Vec<_> = presented.iter().filter_map(purpose).collect();
            presented.dedup();
            TlsError::Purpose { presented }
        }
        CertificateError::Revoked => TlsError::Revoked,
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => TlsError::Signature,
        CertificateError::Other(OtherError(source)) => match source.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => TlsError::Untrusted,
            Some(webpki::Error::UnsupportedCertVersion) => TlsError::Version,
            _ => TlsError::Certificate,
        },
        _ => TlsError::Certificate,
    }
}

/// A moment in UTC, in seconds since 1970.
fn moment(seconds: u64) -> String {
    time::rfc3339(seconds)
}

/// Takes a name out of webpki's notation, `DnsName("a.example")` or `IpAddress(127.0.0.1)`; other kinds are not names
/// of servers. A name is whatever the certificate says.
fn bare(name: &str) -> Option<String> {
    let name = name.strip_suffix(')')?;
    let dns = name.strip_prefix("DnsName(").map(|quoted| quoted.trim_matches('"'));
    let name = dns.or_else(|| name.strip_prefix("IpAddress("))?;
    Some(name.escape_debug().take(MAX_NAME).collect())
}

fn names(presented: &[String]) -> String {
    let shown = presented.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "for no name and no address (subjectAltName has them; a common name does not count)".to_owned(),
        n if n > MAX_NAMES => format!("for {shown} and {} others, and for none that it is asked by", n - MAX_NAMES),
        _ => format!("for {shown}, and for nothing else"),
    }
}

fn purpose(purpose: &ExtendedKeyPurpose) -> Option<&'static str> {
    match purpose {
        ExtendedKeyPurpose::ClientAuth => Some("clientAuth"),
        ExtendedKeyPurpose::ServerAuth => Some("serverAuth"),
        ExtendedKeyPurpose::Other(_) => None,
    }
}

fn instead(presented: &[&str]) -> String {
    if presented.is_empty() { String::new() } else { format!(", only {}", presented.join(", ")) }
}

/// What an alert means, and its name in the standard.
fn described(alert: AlertDescription) -> String {
    let (meaning, name) = match alert {
        AlertDescription::HandshakeFailure => {
            ("there are no algorithms that both sides accept, or it misses something", "handshake_failure")
        }
        AlertDescription::ProtocolVersion => {
            ("it speaks no version of TLS that is spoken here (1.2 and 1.3 are)", "protocol_version")
        }
        AlertDescription::InsufficientSecurity => {
            ("it wants algorithms that are not spoken here", "insufficient_security")
        }
        AlertDescription::UnrecognisedName => ("it knows no host of this name", "unrecognized_name"),
        AlertDescription::AccessDenied => ("it gives no access", "access_denied"),
        AlertDescription::InternalError => ("it failed itself", "internal_error"),
        AlertDescription::BadCertificate => ("the client's certificate is not accepted", "bad_certificate"),
        AlertDescription::UnsupportedCertificate => {
            ("a certificate of this kind is not accepted", "unsupported_certificate")
        }
        AlertDescription::CertificateRevoked => ("the client's certificate was revoked", "certificate_revoked"),
        AlertDescription::CertificateExpired => ("the client's certificate expired", "certificate_expired"),
        AlertDescription::CertificateUnknown => ("the client's certificate is not accepted", "certificate_unknown"),
        AlertDescription::UnknownCA => ("it does not trust who signed the client's certificate", "unknown_ca"),
        AlertDescription::CertificateRequired => ("it wants a client certificate", "certificate_required"),
        AlertDescription::UserCanceled => ("it gave up", "user_canceled"),
        other => return format!("alert {}", u8::from(other)),
    };
    format!("{meaning} ({name})")
}

/// Whether an alert is, or may be, about the client's certificate or the lack of one.
pub(super) fn is_about_client(error: &Error) -> bool {
    let Error::AlertReceived(alert) = error else { return false };
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_far_as_there_is_room_and_never_as_they_are() {
        let said = |presented: Vec<String>| TlsError::Name { presented }.to_string();
        assert!(said(Vec::new()).contains("for no name"));
        let many: Vec<String> = (0..10).filter_map(|n| bare(&format!("DnsName(\"{n}.example\")"))).collect();
        let text = said(many);
        assert!(
            text.contains("0.example, 1.example") && text.contains("and 2 others") && !text.contains("8.ex"),
            "{text}"
        );
        let odd = ["DnsName(\"\u{1b}[31mred\")", "IpAddress(127.0.0.1)", "DirectoryName", "Unsupported(0x01)"];
        let odd: Vec<String> = odd.iter().filter_map(|name| bare(name)).collect();
        assert_eq!(odd, ["\\u{1b}[31mred", "127.0.0.1"]);
        assert_eq!(bare(&format!("DnsName(\"{}\")", "x".repeat(10_000))).map(|name| name.len()), Some(MAX_NAME));
    }

    #[test]
    fn every_alert_has_words() {
        for alert in 0..=u8::MAX {
            let text = described(AlertDescription::from(alert));
            assert!(text.ends_with(')') || text == format!("alert {alert}"), "{text}");
        }
    }
}
