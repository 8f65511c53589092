//! Component tests of the artifacts crate, in one binary.

mod disk;
mod ext4;
mod full;
mod image;
mod kernel;
mod rootfs;
mod rootfs_model;
