//! Component tests of the artifacts crate, in one binary.

mod corpora;
mod disk;
mod ext4;
mod fetch;
mod full;
mod https;
mod image;
mod kernel;
mod oci;
mod rootfs;
mod rootfs_model;
mod tls;
mod web;

/// SHA-256 in the notation of manifests and catalogs.
fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}
