//! Data that is valid for one boot, at the very end of a VM's initramfs. It is overwritten before each launch.

use super::{InitramfsError, at, cpio::Cpio};
use banger_proto::agent::boot::{MAX_MOMENT, MOMENT_PATH, Moment};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

/// Length of the text, trailing blanks included. It is fixed so that the next text replaces it exactly.
const SIZE: usize = 512;
/// Alignment of an archive's start.
const ALIGNMENT: u64 = 4;

/// Makes `moment` the last archive of the VM's `initramfs`, which no VMM reads at this time.
pub fn renew_moment(initramfs: &Path, moment: &Moment) -> Result<(), InitramfsError> {
    let archive = archive(initramfs, moment)?;
    let file = OpenOptions::new().read(true).write(true).open(initramfs).map_err(at("open", initramfs))?;
    let length = file.metadata().map_err(at("read", initramfs))?.len();
    let start = match length.checked_sub(archive.len() as u64) {
        Some(start) if holds_moment(&file, start, &archive).map_err(at("read", initramfs))? => start,
        _ => length.next_multiple_of(ALIGNMENT),
    };
    file.write_all_at(&archive, start).map_err(at("write", initramfs))
}

fn archive(initramfs: &Path, moment: &Moment) -> Result<Vec<u8>, InitramfsError> {
    let mut text = serde_json::to_vec(moment).expect("a moment serializes");
    if text.len() > SIZE {
        return Err(InitramfsError::TooLarge { path: initramfs.to_owned(), limit: SIZE as u64 });
    }
    text.resize(SIZE, b' ');
    let mut archive = Cpio::new(Vec::with_capacity(2 * SIZE));
    archive.file(MOMENT_PATH.trim_start_matches('/'), 0o600, &text)?;
    Ok(archive.finish()?)
}

/// Whether an archive with a moment begins at `start`: everything before the text is the same each time.
fn holds_moment(file: &File, start: u64, archive: &[u8]) -> std::io::Result<bool> {
    let name = MOMENT_PATH.trim_start_matches('/').as_bytes();
    let head = archive.windows(name.len()).position(|window| window == name).map_or(0, |at| at + name.len());
    let mut there = vec![0; head];
    file.read_exact_at(&mut there, start)?;
    Ok(there == archive[..head])
}

const _: () = assert!(SIZE <= MAX_MOMENT);

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(clock_ns: u64) -> Moment {
        Moment { clock_ns, entropy: "ab".repeat(64), timer_tries: 0 }
    }

    #[test]
    fn each_moment_takes_the_place_of_the_one_before() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("initramfs");
        std::fs::write(&path, b"base archive, odd length").unwrap();
        let base = std::fs::read(&path).unwrap();
        renew_moment(&path, &moment(1)).unwrap();
        let first = std::fs::read(&path).unwrap();
        renew_moment(&path, &moment(u64::MAX)).unwrap();
        let second = std::fs::read(&path).unwrap();
        assert_eq!(first.len(), second.len());
        assert!(first.starts_with(&base) && second.starts_with(&base));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(text(&first).contains("\"clock_ns\":1,") && !text(&second).contains("\"clock_ns\":1,"));
        assert!(text(&second).contains(&u64::MAX.to_string()));
    }

    #[test]
    fn an_archive_begins_where_the_kernel_looks_for_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("initramfs");
        for length in 0..5 {
            std::fs::write(&path, vec![0; length]).unwrap();
            renew_moment(&path, &moment(1)).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes[length.next_multiple_of(4)..].starts_with(b"070701"), "{length}");
        }
        let too_much = Moment { clock_ns: 0, entropy: "00".repeat(SIZE), timer_tries: 0 };
        assert!(matches!(renew_moment(&path, &too_much), Err(InitramfsError::TooLarge { .. })));
        assert!(renew_moment(&temp.path().join("absent"), &moment(1)).is_err());
    }
}
