//! Names what a file is that was given as an image and is no ext4, and what makes one of it.

/// Bytes from the beginning of a file that tell its format.
pub(super) const NEEDED: usize = 0x1_0048;

/// Formats by the bytes they have at an offset. The first that fits counts: a disk may begin like what boots from it.
const FORMATS: [(usize, &[u8], &str); 29] = [
    (0, b"QFI\xfb", DISK_QCOW2),
    (0, b"KDMV", "a VMDK disk; `qemu-img convert -O raw`, then take its root partition out"),
    (0, b"# Disk DescriptorFile", "the description of a VMDK disk, whose content is in another file"),
    (0, b"vhdxfile", "a VHDX disk; `qemu-img convert -O raw`, then take its root partition out"),
    (0, b"conectix", "a VHD disk; `qemu-img convert -O raw`, then take its root partition out"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI disk; `qemu-img convert -O raw`, then take its root partition out"),
    (0x8001, b"CD001", "an ISO 9660 image, as CDs and installers have"),
    (0, b"\x1f\x8b", "compressed with gzip; `gunzip` unpacks it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; `unzstd` unpacks it"),
    (0, b"\xfd7zXZ", "compressed with xz; `unxz` unpacks it"),
    (0, b"BZh", "compressed with bzip2; `bunzip2` unpacks it"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4; `unlz4` unpacks it"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive; `banger image pull` reads those of container images"),
    (0, b"hsqs", "a squashfs"),
    (0, b"XFSB", "an XFS"),
    (0x1_0040, b"_BHRfS_M", "a btrfs"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS"),
    (0, b"LUKS\xba\xbe", "a volume encrypted by LUKS"),
    (0x218, b"LVM2 001", "a volume of LVM"),
    (0xff6, b"SWAPSPACE2", "swap space"),
    (512, b"EFI PART", DISK),
    (54, b"FAT", "a FAT"),
    (82, b"FAT32", "a FAT"),
    (3, b"NTFS    ", "an NTFS"),
    (510, b"\x55\xaa", DISK),
    (0, b"\x7fELF", "a program"),
];
const DISK: &str = "a disk with partitions; take its root partition out";
const DISK_QCOW2: &str = "a qcow2 disk; `qemu-img convert -O raw`, then take its root partition out";

/// Names the format of a file that begins with `start`.
pub(super) fn name(start: &[u8]) -> &'static str {
    let is = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    let found = FORMATS.iter().find(|(at, magic, _)| is(*at, magic));
    match found {
        Some((.., name)) => name,
        None if start.is_empty() => "empty",
        None if start.iter().all(|&byte| byte == 0) => "zeros; `mkfs.ext4` makes a file system in it",
        None => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut start = vec![0; NEEDED];
        start[1000] = 1;
        for (at, bytes) in parts {
            start[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        start
    }

    #[test]
    fn each_format_is_seen_in_what_is_read_and_by_no_other_ones_name() {
        for (at, magic, says) in FORMATS {
            assert_eq!(name(&with(&[(at, magic)])), says);
        }
        assert_eq!(name(&with(&[])), "something else");
        assert_eq!(name(&[]), "empty");
        assert!(name(&vec![0; NEEDED]).starts_with("zeros"));
    }

    #[test]
    fn what_boots_is_told_from_what_it_boots_from() {
        const BOOT: (usize, &[u8]) = (510, b"\x55\xaa");
        for (parts, says) in [
            (&[BOOT, (0x8001, b"CD001")][..], "an ISO 9660 image"),
            (&[BOOT, (512, b"EFI PART")], "a disk with partitions"),
            (&[BOOT, (82, b"FAT32   ")], "a FAT"),
            (&[BOOT], "a disk with partitions"),
        ] {
            assert!(name(&with(parts)).starts_with(says), "{says}");
        }
    }
}
