//! What an error about an image from a registry or an archive means for the user.

use super::of_local_file;
use banger_artifacts::{
    fetch::{FetchError, TlsError},
    oci::{CredentialError, LayerError, OciError, RegistryError},
    rootfs::RootfsError,
};
use banger_proto::failure::Code;

/// Code and hints for an error about an image from a registry or archive.
pub(super) fn code_and_hints(error: &OciError) -> (Code, Vec<String>) {
    const LIMITS: &str = "[oci] in config.toml has the limits; raise one for an image you trust";
    match (error, error.registry()) {
        (_, Some(RegistryError::NotFound { host, known: false, .. })) => {
            (Code::NotFound, vec![format!("if it is private: `docker login {host}` or `podman login {host}`")])
        }
        (_, Some(RegistryError::NotFound { .. })) => (Code::NotFound, Vec::new()),
        (_, Some(RegistryError::Denied { host, .. })) => {
            (Code::Denied, vec![format!("`docker login {host}` or `podman login {host}` says who you are")])
        }
        (_, Some(RegistryError::Address { .. } | RegistryError::Challenge { .. })) => (Code::Unsupported, Vec::new()),
        (_, Some(RegistryError::Credentials { source: CredentialError::Helper { .. }, .. })) => {
            let path = "such a program is looked for in the daemon's PATH; after `banger daemon stop` the next command \
                        starts one with its own";
            (Code::Denied, vec![path.to_owned()])
        }
        (_, Some(RegistryError::Credentials { .. })) => (Code::Denied, Vec::new()),
        (_, Some(error)) => match error.fetch() {
            Some(FetchError::Tls { host, source }) => (Code::Unavailable, hint_for_tls(host, source)),
            Some(FetchError::ClientCertificate { host, .. }) => {
                let place = format!(
                    "a client certificate for it has its place in ~/.config/containers/certs.d/{host}/client.cert, its \
                     key beside it in client.key"
                );
                (Code::Denied, vec![place])
            }
            Some(FetchError::Proxy { .. } | FetchError::ProxySetting { .. }) => {
                let restart = "the proxy is that of the daemon's environment; after `banger daemon stop` the next command \
                               starts one with its own";
                (Code::Unavailable, vec![restart.to_owned()])
            }
            Some(FetchError::PlainText { host }) => {
                let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
                let tunnel = format!(
                    "plain http is spoken to loopback addresses only: `ssh -L {port}:127.0.0.1:{port} {name}` makes it \
                     127.0.0.1:{port} here"
                );
                (Code::Unsupported, vec![tunnel])
            }
            _ => (Code::Unavailable, Vec::new()),
        },
        (OciError::Platform { .. }, _) => (
            Code::Unsupported,
            vec![
                "`banger image pull --platform PLATFORM REFERENCE` takes another; a VM here runs this host's only"
                    .to_owned(),
            ],
        ),
        (OciError::TooManyLayers { .. }, _) => (Code::Invalid, vec![LIMITS.to_owned()]),
        (OciError::Layer { source, .. }, _) => match &**source {
            LayerError::TooLarge(_)
            | LayerError::Ratio(_)
            | LayerError::Rootfs(RootfsError::TooManyEntries(_) | RootfsError::TooManyBytes(_)) => {
                (Code::Invalid, vec![LIMITS.to_owned()])
            }
            LayerError::Io { .. } | LayerError::Publish(_) | LayerError::Rootfs(RootfsError::Io { .. }) => {
                (Code::Internal, Vec::new())
            }
            _ => (Code::Invalid, Vec::new()),
        },
        (OciError::Unreadable { source, .. }, _) => (of_local_file(source), Vec::new()),
        (
            OciError::Full(_)
            | OciError::Rootfs(_)
            | OciError::Publish(_)
            | OciError::Cancelled(_)
            | OciError::Io { .. },
            _,
        ) => (Code::Internal, Vec::new()),
        _ => (Code::Invalid, Vec::new()),
    }
}

/// What helps where a registry is not trusted.
fn hint_for_tls(host: &str, error: &TlsError) -> Vec<String> {
    let hint = match error {
        error if error.is_untrusted() => {
            let all = "an authority for many hosts, such as a company's, belongs to those of this machine: \
                       `update-ca-certificates`";
            let own = format!("a registry's own authority has its place in ~/.config/containers/certs.d/{host}/ca.crt");
            return vec![own, all.to_owned()];
        }
        TlsError::Name { .. } => {
            "a registry is called by a name of its certificate; whoever runs it adds others to its \
                                  subjectAltName"
                .to_owned()
        }
        TlsError::Expired { .. } | TlsError::NotYetValid { .. } => {
            format!("if this host's clock is right (`date`), whoever runs {host} has to renew its certificate")
        }
        TlsError::Purpose { .. } => {
            format!("whoever runs {host} makes its certificate with extendedKeyUsage = serverAuth, or without that")
        }
        _ => return Vec::new(),
    };
    vec![hint]
}
