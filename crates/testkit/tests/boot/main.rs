//! The whole product on real QEMU, with the real kernel and the real image.
