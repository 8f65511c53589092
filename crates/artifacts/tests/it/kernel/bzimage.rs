//! Unpacking bzImages: every payload format, made by the program the kernel's build uses and by Rust encoders; and
//! images that are not what they say.

use super::fixture::{RELEASE, bzimage, packed, packed_in_rust, vmlinux};
use banger_artifacts::{
    job::Cancel,
    kernel::{BzImage, BzImageError, Codec, CodecError, Elf},
};
use std::io::Write;

const ALL: [Codec; 6] = [Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lz4Legacy, Codec::Lzma, Codec::Bzip2];

fn open(image: &[u8]) -> Result<BzImage, BzImageError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    BzImage::open(file)
}

fn unpack(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let mut elf = Vec::new();
    open(image)?.unpack(&mut elf, &Cancel::default())?;
    Ok(elf)
}

#[test]
fn every_payload_of_the_programs_a_kernels_build_uses_is_unpacked() {
    if banger_testkit::require("packers") {
        unpacks_all(packed);
    }
}

#[test]
fn every_payload_of_other_encoders_is_unpacked() {
    unpacks_all(packed_in_rust);
}

fn unpacks_all(pack: fn(Codec, &[u8]) -> Vec<u8>) {
    let elf = vmlinux(true);
    for codec in ALL {
        let image = bzimage(codec, &pack(codec, &elf), elf.len());
        let opened = open(&image).unwrap();
        assert_eq!(opened.codec(), codec);
        assert_eq!(opened.version(), Some(RELEASE));
        assert!(unpack(&image).unwrap() == elf, "{codec:?}");
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&elf).unwrap();
    assert!(Elf::inspect(&file).unwrap().pvh);
}

#[test]
fn a_payload_of_another_length_than_announced_is_refused() {
    let elf = vmlinux(false);
    for codec in ALL {
        let payload = packed_in_rust(codec, &elf);
        if codec != Codec::Gzip {
            for announced in [0, elf.len() - 1, elf.len() + 1, u32::MAX as usize] {
                let error = unpack(&bzimage(codec, &payload, announced)).unwrap_err();
                assert!(matches!(error, BzImageError::Size { .. }), "{codec:?} {announced}: {error}");
            }
        }
        // Cut in the middle: whatever the decoder says, it must not be success.
        assert!(unpack(&bzimage(codec, &payload[..payload.len() / 2], elf.len())).is_err(), "{codec:?}");
    }
}

#[test]
fn a_bomb_stops_at_what_was_announced() {
    let zeros = vec![0; 64 << 20];
    let image = bzimage(Codec::Zstd, &packed_in_rust(Codec::Zstd, &zeros), 1000);
    let mut out = Vec::new();
    let error = open(&image).unwrap().unpack(&mut out, &Cancel::default()).unwrap_err();
    assert!(matches!(error, BzImageError::Size { announced: 1000, .. }), "{error}");
    assert!(out.len() <= 1000, "{}", out.len());
}

#[test]
fn headers_that_lie_are_refused() {
    let elf = vmlinux(false);
    let good = bzimage(Codec::Zstd, &packed_in_rust(Codec::Zstd, &elf), elf.len());
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        open(&image).map(drop).unwrap_err()
    };
    assert!(matches!(open(b"").unwrap_err(), BzImageError::NotBzImage));
    assert!(matches!(open(&good[..0x24f]).unwrap_err(), BzImageError::NotBzImage));
    assert!(matches!(changed(0x1fe, &[0]), BzImageError::NotBzImage));
    assert!(matches!(changed(0x202, b"XXXX"), BzImageError::NotBzImage));
    assert_eq!(changed(0x206, &[0x07, 0x02]).to_string(), "its boot protocol 2.07 does not say where the payload is");
    assert!(matches!(changed(0x248, &[0xff; 4]), BzImageError::Payload));
    assert!(matches!(changed(0x24c, &[0xff; 4]), BzImageError::Payload));
    assert!(matches!(changed(0x24c, &[9, 0, 0, 0]), BzImageError::Payload));
    assert!(matches!(changed(0x1f1, &[0xff]), BzImageError::Payload));
    let lzo = bzimage(Codec::Zstd, b"\x89LZO\0\r\n", 1);
    assert!(matches!(open(&lzo).unwrap_err(), BzImageError::Codec(CodecError::Lzo)));
    // A version that points nowhere is no version, and no reason to refuse the kernel.
    let mut image = good.clone();
    image[0x20e..0x210].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(open(&image).unwrap().version(), None);
}

#[test]
fn unpacking_can_be_cancelled() {
    let elf = vmlinux(false);
    let cancel = Cancel::default();
    cancel.cancel();
    let image = bzimage(Codec::Gzip, &packed_in_rust(Codec::Gzip, &elf), elf.len());
    assert!(open(&image).unwrap().unpack(&mut Vec::new(), &cancel).is_err());
}
