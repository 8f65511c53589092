//! What unpacking takes, however large what is unpacked.

use super::{
    super::web::Server,
    bundle::name,
    child::Child,
    fixture::{Host, Member, append, bzimage_head, vmlinux},
};
use banger_artifacts::kernel::Codec;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::Path,
};

/// One block of noise, over and over.
struct Noise {
    block: Vec<u8>,
    at: usize,
}

impl Noise {
    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(1 << 20);
        while block.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend(state.to_le_bytes());
        }
        Self { block, at: 0 }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(self.block.len() - self.at);
        buffer[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at = (self.at + n) % self.block.len();
        Ok(n)
    }
}

/// A zstd frame that asks for the largest window a pull accepts and packs nothing: what comes out is as long as what
/// goes in, and making it costs nothing. (RFC 8878, 3.1.1: magic, no sizes, a window of 2^25, raw blocks.)
struct Unpacked<W: Write> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> Unpacked<W> {
    const BLOCK: usize = 128 << 10;

    fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(&[0x28, 0xb5, 0x2f, 0xfd, 0, (25 - 10) << 3])?;
        Ok(Self { out, block: Vec::with_capacity(Self::BLOCK) })
    }

    fn emit(&mut self, is_last: bool) -> io::Result<()> {
        let header = u32::try_from(self.block.len()).unwrap() << 3 | u32::from(is_last);
        self.out.write_all(&header.to_le_bytes()[..3])?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for Unpacked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(Self::BLOCK - self.block.len());
        self.block.extend(&bytes[..n]);
        if self.block.len() == Self::BLOCK {
            self.emit(false)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a bundle of 1 GiB, less a little: the largest a pull takes.
fn write_large(out: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(Unpacked::begin(out)?);
    append(&mut archive, &Member::File("vmlinux", vmlinux(true)));
    append(&mut archive, &Member::File("modules/modules.dep", b"kernel/large.ko:\n".to_vec()));
    for (path, length) in [("initrd.img", 510 << 20), ("modules/kernel/large.ko", 512 << 20)] {
        let mut header = tar::Header::new_gnu();
        header.set_path(path)?;
        header.set_size(length);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, Noise::new().take(length))?;
    }
    archive.into_inner()?.emit(true)
}

/// What a bundle is known by.
#[derive(Default)]
struct Measured {
    hash: Sha256,
    size: u64,
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_pull_takes_little_memory_however_large_the_bundle() {
    let host = Host::new();
    let mut measured = Measured::default();
    write_large(&mut measured).unwrap();
    let size = measured.size;
    assert!(((1 << 30) - (8 << 20)..=1 << 30).contains(&size), "{size}");
    let sha256 = data_encoding::HEXLOWER.encode(&measured.hash.finalize());
    let server = Server::start(move |mut request| {
        request.stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes())?;
        write_large(&mut request.stream)
    });
    let url = server.url("/large.tar.zst");
    let json = format!(
        r#"{{"version":1,"entries":[{{"name":"test-6.1","distro":"tests","arch":"x86_64","kernel_version":"6.1",
            "sources":[{{"type":"bundle","url":"{url}","sha256":"{sha256}","size":{size}}}]}}]}}"#
    );
    fs::write(host.temp.path().join("catalog.json"), json).unwrap();
    let peak = Child::start(&host, "pull", "", None).done("the pull");
    assert!(peak <= 64 << 10, "{peak} KiB resident at the most");
    assert_eq!(fs::metadata(host.store.get(&name()).unwrap().initrd().unwrap()).unwrap().len(), 510 << 20);
}

/// A kernel image whose payload is zeros, packed by `codec` in blocks of `block` bytes where it has such.
fn write_bzimage(path: &Path, codec: Codec, block: u64, unpacked: u64) -> io::Result<()> {
    use liblzma::{
        stream::{LzmaOptions, MtStreamBuilder, Stream},
        write::XzEncoder,
    };
    let mut zeros = io::repeat(0).take(unpacked);
    let (head, length_at) = bzimage_head();
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&head)?;
    let mut out = match codec {
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            io::copy(&mut zeros, &mut encoder)?;
            encoder.finish()?
        }
        Codec::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(out, bzip2::Compression::fast());
            io::copy(&mut zeros, &mut encoder)?;
            encoder.finish()?
        }
        Codec::Xz | Codec::Lzma => {
            let stream = match codec {
                Codec::Xz => MtStreamBuilder::new().threads(2).preset(0).block_size(block).encoder(),
                _ => Stream::new_lzma_encoder(&LzmaOptions::new_preset(0).unwrap()),
            };
            let mut encoder = XzEncoder::new_stream(out, stream.unwrap());
            io::copy(&mut zeros, &mut encoder)?;
            encoder.finish()?
        }
        Codec::Zstd => {
            let mut encoder = zstd::Encoder::new(out, 1)?;
            io::copy(&mut zeros, &mut encoder)?;
            encoder.finish()?
        }
        Codec::Lz4Legacy => {
            out.write_all(&0x184c_2102_u32.to_le_bytes())?;
            let block = lz4_flex::block::compress(&vec![0; 8 << 20]);
            for _ in 0..unpacked / (8 << 20) {
                out.write_all(&u32::try_from(block.len()).unwrap().to_le_bytes())?;
                out.write_all(&block)?;
            }
            out
        }
    };
    if codec != Codec::Gzip {
        out.write_all(&u32::try_from(unpacked).unwrap().to_le_bytes())?;
    }
    let mut file = out.into_inner()?;
    let length = file.metadata()?.len() - head.len() as u64;
    io::Seek::seek(&mut file, io::SeekFrom::Start(length_at))?;
    file.write_all(&u32::try_from(length).unwrap().to_le_bytes())
}

#[test]
fn a_kernel_image_takes_little_memory_however_large_it_is() {
    const UNPACKED: u64 = 256 << 20;
    let host = Host::new();
    // A decoder that kept what it unpacked would have all of it at the end. Of the two with blocks one has such as may
    // be unpacked beside each other, and one such as may not.
    let cases = [
        (Codec::Gzip, 0, 48),
        (Codec::Bzip2, 0, 48),
        (Codec::Lzma, 0, 48),
        (Codec::Zstd, 0, 48),
        (Codec::Lz4Legacy, 0, 48),
        (Codec::Xz, 8 << 20, 160),
        (Codec::Xz, 128 << 20, 160),
    ];
    for (codec, block, most) in cases {
        let path = host.write("bzImage", b"");
        write_bzimage(&path, codec, block, UNPACKED).unwrap();
        let peak = Child::start(&host, &format!("unpack {}", path.display()), "", None).done("it unpacks");
        assert!(peak <= most << 10, "{codec:?}, blocks of {block}: {peak} KiB resident at the most");
    }
}
