//! What a certificate may be used for: its extended key usage, after RFC 5280, section 4.2.1.12.
//!
//! webpki checks it for certificates that an authority signed. One that is trusted itself is checked here, by Go's
//! rule: without the extension it is for anything, and with it for servers only if that is said.

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
/// Tag of the extensions, the last of a certificate's fields.
const EXTENSIONS: u8 = 0xa3;
/// `id-ce-extKeyUsage`, 2.5.29.37.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// `anyExtendedKeyUsage`, 2.5.29.37.0.
const ANY: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
/// `id-kp-serverAuth`, 1.3.6.1.5.5.7.3.1.
const SERVER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// Whether a certificate may be a server's; `None` if it cannot be read.
pub(super) fn is_for_servers(certificate: &[u8]) -> Option<bool> {
    let (body, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(body, SEQUENCE)?;
    while !fields.is_empty() {
        let (tag, value, rest) = next(fields)?;
        if tag == EXTENSIONS {
            return extensions(expect(value, SEQUENCE)?.0);
        }
        fields = rest;
    }
    Some(true)
}

fn extensions(mut all: &[u8]) -> Option<bool> {
    while !all.is_empty() {
        let (extension, rest) = expect(all, SEQUENCE)?;
        let (name, mut value) = expect(extension, OID)?;
        if name == EXTENDED_KEY_USAGE {
            // Whether it is critical makes no difference.
            if let Some((_, after)) = expect(value, BOOLEAN) {
                value = after;
            }
            return purposes(expect(expect(value, OCTET_STRING)?.0, SEQUENCE)?.0);
        }
        all = rest;
    }
    Some(true)
}

fn purposes(mut all: &[u8]) -> Option<bool> {
    while !all.is_empty() {
        let (purpose, rest) = expect(all, OID)?;
        if purpose == SERVER || purpose == ANY {
            return Some(true);
        }
        all = rest;
    }
    Some(false)
}

/// Splits off a value with this tag.
fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, value, rest) = next(bytes)?;
    (tag == wanted).then_some((value, rest))
}

/// Splits off the next value: its tag, the value, and what comes after it.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // No certificate has four gigabytes.
        let digits = usize::from(first & 0x7f);
        let (length, rest) = rest.split_at_checked(digits).filter(|_| (1..=4).contains(&digits))?;
        (length.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_testkit::{certificate, require};
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    fn made(extensions: &[&str]) -> CertificateDer<'static> {
        let dir = tempfile::tempdir().unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=x"];
        let extensions: Vec<&str> = extensions.iter().flat_map(|one| ["-addext", one]).collect();
        CertificateDer::from_pem_file(certificate(dir.path(), "x", &[&key[..], &extensions].concat()).0).unwrap()
    }

    #[test]
    fn servers_certificates_are_those_that_say_so_or_nothing() {
        if !require("openssl") {
            return;
        }
        for (extensions, is) in [
            (&[][..], true),
            (&["subjectAltName=DNS:x"], true),
            (&["extendedKeyUsage=serverAuth"], true),
            (&["extendedKeyUsage=critical,clientAuth,serverAuth", "subjectAltName=DNS:x"], true),
            (&["extendedKeyUsage=anyExtendedKeyUsage"], true),
            (&["extendedKeyUsage=clientAuth"], false),
            (&["extendedKeyUsage=critical,codeSigning", "subjectAltName=DNS:x"], false),
        ] {
            assert_eq!(is_for_servers(&made(extensions)), Some(is), "{extensions:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        if !require("openssl") {
            return;
        }
        let whole = made(&["extendedKeyUsage=clientAuth"]);
        for end in 0..whole.len() {
            assert_eq!(is_for_servers(&whole[..end]), None, "{end}");
        }
        for bytes in [&[0x30, 0x80][..], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(is_for_servers(bytes), None);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_bytes_end(bytes: Vec<u8>, tail: Vec<u8>) {
            let _ = is_for_servers(&bytes);
            let _ = extensions(&[&[0x30, 3, OID][..], &tail].concat());
        }
    }
}
