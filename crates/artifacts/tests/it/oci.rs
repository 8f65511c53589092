//! End-to-end tests of images from registries and files: what was pushed is what the ext4 contains.

mod archives;
mod auth;
mod bombs;
mod built;
mod bundles;
mod child;
mod client_certificates;
mod hostile;
mod interrupted;
mod killed;
mod killed_files;
mod kinds;
mod layers;
mod loopback;
mod mend;
mod placed;
mod pulls;
mod real;
mod registry;
mod sources;
mod stacks;
mod tokens;
mod umoci;
mod waits;
mod writers;
mod xattrs;
