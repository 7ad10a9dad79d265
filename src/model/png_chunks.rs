//! The chunks of a PNG: its EXIF data, wherever they are, and what its decoder is to see.
//!
//! The decoder reads no further than the pixels, where EXIF data may come behind them, and it counts them among the
//! memory that a picture may take, however little of them tells the orientation.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// Bytes before the first chunk.
const SIGNATURE: usize = 8;

/// Bytes of a chunk beside its data: length and type before them, a checksum behind.
const HEAD: usize = 8;
const CHECKSUM: usize = 4;

const EXIF: &[u8] = b"eXIf";
const END: &[u8] = b"IEND";

/// A chunk with all that belongs to it; the last one of a file that is cut short may have less.
#[derive(Debug, Clone, Copy)]
struct Chunk<'a>(&'a [u8]);

impl<'a> Chunk<'a> {
    /// The chunk at the beginning of `bytes`, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        if bytes.is_empty() {
            return None;
        }
        let length = bytes.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
        let whole = length.saturating_add(HEAD + CHECKSUM);
        let (chunk, rest) = bytes.split_at(whole.min(bytes.len()));
        Some((Self(chunk), rest))
    }

    fn is(self, kind: &[u8]) -> bool {
        self.0.get(HEAD - 4..HEAD) == Some(kind)
    }

    /// Its data, if all are there.
    fn data(self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(*self.0.first_chunk()?) as usize;
        self.0.get(HEAD..HEAD.checked_add(length)?)
    }
}

/// The EXIF data of `png`, before its pixels or behind them. Only heads of chunks are looked at.
pub(super) fn exif(png: &[u8]) -> Option<&[u8]> {
    let mut rest = png.get(SIGNATURE..)?;
    while let Some((chunk, next)) = Chunk::split(rest) {
        if chunk.is(EXIF) {
            return chunk.data();
        } else if chunk.is(END) {
            return None;
        }
        rest = next;
    }
    None
}

/// Reads a PNG without its EXIF data.
#[derive(Debug)]
pub(super) struct WithoutExif<'a> {
    /// What is left of the chunk that is being read, or of the signature.
    chunk: &'a [u8],
    /// Chunks to come.
    rest: &'a [u8],
}

impl<'a> WithoutExif<'a> {
    pub(super) fn new(png: &'a [u8]) -> Self {
        let (chunk, rest) = png.split_at(SIGNATURE.min(png.len()));
        Self { chunk, rest }
    }
}

impl BufRead for WithoutExif<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty()
            && let Some((chunk, rest)) = Chunk::split(self.rest)
        {
            self.chunk = if chunk.is(EXIF) { &[] } else { chunk.0 };
            self.rest = rest;
        }
        Ok(self.chunk)
    }

    fn consume(&mut self, bytes: usize) {
        self.chunk = &self.chunk[bytes..];
    }
}

impl Read for WithoutExif<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(to)?;
        self.consume(read);
        Ok(read)
    }
}

/// The decoder asks for it, and does not use it.
impl Seek for WithoutExif<'_> {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A chunk whose checksum nobody looks at.
    pub(crate) fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [&(data.len() as u32).to_be_bytes()[..], kind, data, &[0; 4]].concat()
    }

    #[test]
    fn exif_is_found_anywhere_and_hidden() {
        let signature = [1, 2, 3, 4, 5, 6, 7, 8];
        let [head, pixels, exif_data, end] =
            [chunk(b"IHDR", &[9; 13]), chunk(b"IDAT", &[]), chunk(b"eXIf", b"II"), chunk(b"IEND", &[])];
        let bare = [&signature[..], &head, &pixels, &end].concat();
        assert_eq!(exif(&bare), None);
        for parts in [[&head, &exif_data, &pixels, &end], [&head, &pixels, &exif_data, &end]] {
            let png = [&signature[..], &parts.map(Vec::as_slice).concat()].concat();
            assert_eq!(exif(&png), Some(&b"II"[..]));
            let mut read = Vec::new();
            WithoutExif::new(&png).read_to_end(&mut read).unwrap();
            assert_eq!(read, bare);
        }
        let behind = [&bare[..], &exif_data].concat();
        assert_eq!(exif(&behind), None, "behind the end there is nothing");
        // What is cut short is no EXIF data.
        let cut = [&signature[..], &head, &exif_data[..9]].concat();
        assert_eq!(exif(&cut), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            exif(&bytes);
            let mut read = Vec::new();
            WithoutExif::new(&bytes).read_to_end(&mut read).unwrap();
            assert!(bytes.len() >= read.len());
        }
    }
}
