//! A VM's own initramfs: the shared base followed by its configuration.

use super::{InitramfsError, at, cpio::Cpio};
use banger_proto::agent::boot::{CONFIG_PATH, MAX_CONFIG};
use std::{
    fs::File,
    io::{self, Seek, Write},
    path::Path,
};

/// Writes `base` followed by an archive with the configuration (mode 0600) to `out`, replacing a file that exists.
/// `out` is created with mode 0600; where the file system supports it, it shares the base's blocks.
pub fn append_config(base: &Path, config: &[u8], out: &Path) -> Result<(), InitramfsError> {
    if config.len() > MAX_CONFIG {
        return Err(InitramfsError::TooLarge { path: out.to_owned(), limit: MAX_CONFIG as u64 });
    }
    let name = CONFIG_PATH.trim_start_matches('/');
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut archive = Cpio::new(Vec::with_capacity(config.len() + 512));
    archive.directory(directory, 0o755)?;
    archive.file(name, 0o600, config)?;
    let archive = archive.finish()?;

    let parent = out.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new().prefix(".initramfs-").tempfile_in(parent).map_err(at("create", out))?;
    let mut from = File::open(base).map_err(at("open", base))?;
    let mut file: &File = new.as_file();
    // Between two files this uses copy_file_range, which shares blocks where it can.
    io::copy(&mut from, &mut file).map_err(at("write", out))?;
    let end = file.stream_position().map_err(at("write", out))?;
    let padding = usize::try_from(end.next_multiple_of(4) - end).expect("below four");
    new.write_all(&[0; 4][..padding]).and_then(|()| new.write_all(&archive)).map_err(at("write", out))?;
    new.persist(out).map_err(|error| at("create", out)(error.error))?;
    Ok(())
}
