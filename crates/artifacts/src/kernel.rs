//! Kernels: turns a name, a package or a file into a directory a VM can boot from.
//!
//! A kernel's directory holds `vmlinux` (always the ELF: a bzImage is unpacked once, here, and not at every boot),
//! optionally `initrd.img`, `modules/` (the content of `lib/modules/<release>`) with `modules.ext4` made from it, and
//! `manifest.json`. [`KernelStore`] is the entry point; the other modules are its parts, each of which parses one kind
//! of hostile input. How a VMM uses a kernel is decided elsewhere, from the manifest.

mod apt;
mod archive;
mod bundle;
mod bzimage;
mod catalog;
mod codec;
mod config;
mod deb;
mod elf;
mod error;
mod hashing_write;
mod image;
mod import;
mod loose_files;
mod manifest;
mod modules;
mod stage;
mod store;
mod tree;

pub use apt::AptError;
pub use archive::ArchiveError;
pub use bundle::{Bundle, BundleError, unpack_bundle};
pub use bzimage::{BzImage, BzImageError};
pub use catalog::{Catalog, CatalogEntry, CatalogError, EntryError, Source, SourceError};
pub use codec::{Codec, CodecError};
pub use deb::{Deb, DebError};
pub use elf::{Elf, ElfError};
pub use error::{Corruption, KernelError, Unusable};
pub use import::Description;
pub use loose_files::LooseFiles;
pub use manifest::{Boots, KernelManifest, ManifestError, Provenance};
pub use modules::ModulesError;
pub use store::{Kernel, KernelStore, Listing, Outcome, RemovalLock};
pub use tree::TreeError;

pub(crate) use modules::{boot_modules, name as module_name};
pub(crate) use tree::sha256;
