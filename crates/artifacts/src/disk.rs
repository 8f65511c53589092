//! Disks of virtual machines: sparse files, made and copied without touching what is not there.

mod copy;

pub(crate) use copy::copy_range;
