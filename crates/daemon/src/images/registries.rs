//! What pulls from registries are made with on this host.

use crate::failures::Explain;
use banger_artifacts::{
    fetch::Client,
    oci::{BlobCache, Credentials, Limits, Registries},
};
use banger_proto::{failure::Failure, layout::Layout};
use std::{ffi::OsString, path::PathBuf};

/// Registries as this user reaches them: their cache, their logins, the certificates put down for them.
pub(super) fn of_user(layout: &Layout, limits: Limits) -> Result<Registries, Failure> {
    let env = |name: &str| std::env::var_os(name);
    Ok(Registries {
        client: Client::default(),
        credentials: Credentials::in_files(credential_files(env)),
        certificates: certificate_directories(env),
        cache: BlobCache::open(layout.cache.join("oci/blobs/sha256"))
            .map_err(|error| banger_artifacts::image::ImageError::from(error).explain())?,
        limits,
    })
}

/// Where Podman and Docker keep logins, in the order Podman looks.
fn credential_files(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let docker = path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")));
    [
        path("REGISTRY_AUTH_FILE"),
        path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Where Podman and Docker keep the certificates of registries.
fn certificate_directories(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let docker = path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")));
    [config.map(|dir| dir.join("containers/certs.d")), docker.map(|dir| dir.join("certs.d"))]
        .into_iter()
        .flatten()
        .chain(["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_podman_come_before_those_of_docker() {
        let env = |name: &str| match name {
            "HOME" => Some("/home/me".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            "DOCKER_CONFIG" => Some("relative".into()),
            _ => None,
        };
        let files = [
            "/run/user/7/containers/auth.json",
            "/home/me/.config/containers/auth.json",
            "/home/me/.docker/config.json",
        ];
        assert_eq!(credential_files(env), files.map(PathBuf::from));
        assert_eq!(certificate_directories(env)[0], PathBuf::from("/home/me/.config/containers/certs.d"));
        assert_eq!(credential_files(|_| None), Vec::<PathBuf>::new());
    }
}
