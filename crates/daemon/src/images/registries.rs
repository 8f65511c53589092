//! Access to registries on this host: caches, logins, certificates.

use super::ImageService;
use crate::failures::Explain;
use banger_artifacts::{
    fetch::Client,
    oci::{BlobCache, Credentials, Limits, Registries},
};
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
};
use std::{ffi::OsString, path::PathBuf, sync::Arc};

/// Registries as the user's configuration reaches them: with their cache, logins and certificates.
pub(super) fn of_user(layout: &Layout, limits: Limits) -> Result<Registries, Failure> {
    let env = |name: &str| std::env::var_os(name);
    Ok(Registries {
        client: Client::default(),
        credentials: Credentials::in_files(credential_files(env, rustix::process::getuid().as_raw())),
        certificates: certificate_directories(env),
        cache: BlobCache::open(layout.cache.join("oci/blobs/sha256"))
            .map_err(|error| banger_artifacts::image::ImageError::from(error).explain())?,
        limits,
    })
}

impl ImageService {
    /// Registries for a request that brings its own logins, which count instead of the user's.
    pub(super) fn registries_with(&self, logins: Option<PathBuf>) -> Result<Arc<Registries>, Failure> {
        let Some(file) = logins else { return Ok(self.registries.clone()) };
        if !file.is_absolute() {
            return Err(Failure::new(Code::Invalid, format!("{} is not an absolute path", file.display())));
        }
        let credentials = Credentials::in_files(vec![file]);
        Ok(Arc::new(Registries { credentials, ..Registries::clone(&self.registries) }))
    }
}

/// Paths where Podman and Docker keep logins, in Podman's order: `containers-auth.json(5)`. Environment variables are
/// ignored: they apply to the command they are set for, which passes them on itself, while the daemon has the
/// environment of whoever started it.
fn credential_files(env: impl Fn(&str) -> Option<OsString>, uid: u32) -> Vec<PathBuf> {
    let path = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let runtime = path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    [
        Some(runtime.unwrap_or_else(|| format!("/run/containers/{uid}/auth.json").into())),
        config.map(|dir| dir.join("containers/auth.json")),
        path("HOME").map(|home| home.join(".docker/config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Directories where Podman and Docker keep certificates of registries.
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
            // The variable belongs to the command that started the daemon.
            "REGISTRY_AUTH_FILE" => Some("/auth.json".into()),
            "DOCKER_CONFIG" => Some("relative".into()),
            _ => None,
        };
        let files = [
            "/run/user/7/containers/auth.json",
            "/home/me/.config/containers/auth.json",
            "/home/me/.docker/config.json",
        ];
        assert_eq!(credential_files(env, 7), files.map(PathBuf::from));
        assert_eq!(certificate_directories(env)[0], PathBuf::from("/home/me/.config/containers/certs.d"));
        assert_eq!(credential_files(|_| None, 7), [PathBuf::from("/run/containers/7/auth.json")]);
    }
}
