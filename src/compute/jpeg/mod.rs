//! JPEG, decoded at the size that is needed.
//!
//! A network sees a photo of 12 megapixels as a square of 64 or 224 pixels. This decoder makes the picture at 1/1, 1/2,
//! 1/4 or 1/8 of its size, in the frequency domain: of each block of 8 x 8 pixels it takes the lowest 8 x 8, 4 x 4, 2 x
//! 2 or 1 x 1 frequencies, and makes as many pixels of them, as the Independent JPEG Group's library does from version
//! 7 on (`jidctint.c`). libjpeg-turbo averages instead (`jidctred.c`), for which it needs nearly all frequencies; whole
//! pictures are the same bytes as its. Like these libraries it lets subsampled chroma keep more of its own resolution
//! where that spares enlarging it. Coefficients that the size does not need are skipped, several at once, and so are
//! blocks outside the [`Area`] that is asked for; of those that progressive files come back to, a bit each is kept.
//!
//! Components are returned as they are stored: neither enlarged to a common size nor converted to RGB. [`channels()`]
//! does both.
//!
//! Damage that is met is an error, where libjpeg would fill with grey and warn: a label for half a picture would be a
//! wrong one. What is skipped is not verified.

mod bits;
mod coefficients;
mod colour;
mod header;
mod huffman;
mod idct;
mod plane;
mod progressive;
mod scan;
mod sequential;
mod simd;
mod standard;
#[cfg(test)]
mod tests;

pub use colour::{Enlarge, channels};
use header::{Parser, Process};
use plane::Planes;
pub use plane::{Area, Components, Plane, Scale};

/// Why a file cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The file ends too early.
    Truncated,
    /// Bytes that make no sense.
    Damaged(&'static str),
    /// A variant of the format that is not decoded.
    Unsupported(&'static str),
}

/// What the components are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// One component.
    Grey,
    /// Luma and two of chroma.
    YCbCr,
    /// Red, green, blue.
    Rgb,
    /// Cyan, magenta, yellow, black, all inverted, as Adobe's programs write them and others have copied.
    Cmyk,
    /// The same with luma and chroma of 255 less each of the first three, as libjpeg makes them (`cmyk_ycck_convert`).
    Ycck,
}

/// Which instructions are used. Results are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// The best that this processor has.
    Detected,
    /// Those that every processor of this kind has.
    Portable,
}

/// A file whose header has been read.
#[derive(Debug)]
pub struct Jpeg<'a> {
    parser: Parser<'a>,
    first: header::Scan,
}

impl<'a> Jpeg<'a> {
    /// Reads the header, up to the first scan.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut parser = Parser::new(bytes);
        let first = parser.next_scan()?.ok_or(Error::Damaged("it has no picture"))?;
        Ok(Self { parser, first })
    }

    /// Width and height in pixels, as stored.
    pub fn size(&self) -> (u32, u32) {
        let frame = self.parser.frame();
        (frame.width, frame.height)
    }

    /// What the components are.
    pub fn colour(&self) -> Colour {
        self.parser.colour()
    }

    /// The EXIF data, from the byte order mark on.
    pub fn exif(&self) -> Option<&'a [u8]> {
        self.parser.exif()
    }

    /// Bytes that [`Self::decode`] allocates, apart from some ten thousand for tables.
    pub fn bytes_needed(&self, scale: Scale, area: Area) -> u64 {
        let frame = self.parser.frame();
        let planes = Planes::bytes_needed(frame, scale, area);
        match frame.process {
            Process::Sequential => planes,
            Process::Progressive => planes + progressive::bytes_needed(frame, scale, area),
        }
    }

    /// Decodes the components over at least `area`.
    pub fn decode(self, scale: Scale, area: Area, instructions: Instructions) -> Result<Components, Error> {
        let Self { mut parser, first } = self;
        let mut planes = Planes::new(parser.frame(), scale, area);
        match parser.frame().process {
            Process::Sequential => scan::all(&mut parser, first, |parser, scan| {
                sequential::decode(parser, scan, &mut planes, instructions)
            })?,
            Process::Progressive => {
                let mut stored = progressive::Stored::new(parser.frame(), &planes);
                scan::all(&mut parser, first, |parser, scan| stored.decode(parser, scan, &mut planes, instructions))?;
                stored.transform(&mut planes, instructions);
            }
        }
        Ok(planes.finish())
    }
}
