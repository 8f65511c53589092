//! Root filesystem images: one read-only ext4 file each, shared by every VM that uses it.
//!
//! A managed image is a directory `images/<id>/` with `rootfs.ext4` and `manifest.json`. Its id is the first 16
//! hexadecimal digits of its digest: the BLAKE3 of `rootfs.ext4` (`b3sum` proves it), or the SHA-256 of an image made
//! by an earlier banger. So the same content is the same image, and the file under an id never changes; the UUID of the
//! file covers what the image says of its commands and its processor. An unmanaged image is a file of the user's: its
//! directory holds only the manifest, which describes the file, and its id identifies that file in that state. Names
//! that point at ids are the daemon's; this module does not know them.

mod bundle;
mod catalog;
mod debian;
mod deduplicate;
mod draft;
mod error;
mod external;
mod file_format;
mod file_identity;
mod listing;
mod manifest;
mod promote;
mod pull;
mod sources;
mod store;
mod tmpfile;
mod unsynced;

pub use bundle::{BundleError, BundleSource, WrittenBundle, unpack_image_bundle};
pub use catalog::{Catalog, CatalogEntry, CatalogError, EntryError, Source, SourceError};
pub use debian::{DebianError, DebianRecipe, Unread};
pub use deduplicate::Reliance;
pub use error::{Corruption, ImageError};
pub use external::{ExternalFile, UnfitFile};
pub use file_identity::{FileChanged, FileIdentity};
pub use listing::ListedImage;
pub use manifest::{FORMAT, ImageConfig, ImageManifest, ManifestError};
pub use promote::PromotedFile;
pub use pull::{OciSource, PullRequest, Pulled};
pub use store::{Depth, Image, ImageStore, KernelChoice};
