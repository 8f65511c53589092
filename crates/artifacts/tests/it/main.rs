//! Component tests of the artifacts crate, in one binary.

mod ext4;
mod kernel;
mod rootfs;
