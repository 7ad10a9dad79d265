//! Markers and their segments: frame, scans, tables.

use super::{Colour, Error, bits, huffman::Table};

/// The place in a block, row by row, of each coefficient in zigzag order.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// More scans than any encoder writes; each goes over all blocks of the picture.
const MAX_SCANS: u32 = 256;

/// So often may scans come to the coefficients of one component: to each of the 64 once for each of its 14 bits. Scans
/// of thousands of times as many may be in a few bytes.
const MAX_VISITS: usize = 64 * 14;

/// How coefficients are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// All of a block at once: baseline and extended sequential.
    Sequential,
    /// In several passes.
    Progressive,
}

/// One component of the frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Blocks across in a minimum coded unit of all components: 1 to 4.
    pub(super) across: u32,
    /// Blocks down.
    pub(super) down: u32,
    /// Its quantisation table.
    pub(super) quantisation: usize,
}

/// The frame header.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) process: Process,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) components: Vec<Component>,
}

impl Frame {
    /// The most blocks across and down that a component has in a unit.
    pub(super) fn most(&self) -> (u32, u32) {
        let most = |of: fn(&Component) -> u32| self.components.iter().map(of).max().unwrap_or(1);
        (most(|c| c.across), most(|c| c.down))
    }

    /// Units across and down in scans of several components.
    pub(super) fn units(&self) -> (u32, u32) {
        let (across, down) = self.most();
        (self.width.div_ceil(8 * across), self.height.div_ceil(8 * down))
    }

    /// Blocks across and down in scans of one component alone, which have none that lie wholly outside of the picture.
    pub(super) fn blocks(&self, component: &Component) -> (u32, u32) {
        let (across, down) = self.most();
        let blocks = |length: u32, own: u32, most: u32| (length * own).div_ceil(most).div_ceil(8);
        (blocks(self.width, component.across, across), blocks(self.height, component.down, down))
    }
}

/// A component in a scan, with its Huffman tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Its place among the frame's components.
    pub(super) component: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header, and where its data begins.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// First and last coefficient.
    pub(super) band: (usize, usize),
    /// Bits not coded yet before and after this scan; before is 0 in a coefficient's first scan.
    pub(super) bits: (u32, u32),
    pub(super) data: usize,
}

/// Reads a file's segments one after the other.
#[derive(Debug)]
pub(super) struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    frame: Option<Frame>,
    scans: u32,
    /// By component: coefficients in all progressive scans so far.
    visits: [usize; 4],
    quantisation: [Option<[u16; 64]>; 4],
    pub(super) dc: [Option<Table>; 4],
    pub(super) ac: [Option<Table>; 4],
    /// Units between restart markers; 0 if there are none.
    pub(super) restart_interval: u32,
    jfif: bool,
    adobe: Option<u8>,
    exif: Option<&'a [u8]>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            // After the start of the image.
            at: 2,
            frame: None,
            scans: 0,
            visits: [0; 4],
            quantisation: [None; 4],
            dc: Default::default(),
            ac: Default::default(),
            restart_interval: 0,
            jfif: false,
            adobe: None,
            exif: None,
        }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn exif(&self) -> Option<&'a [u8]> {
        self.exif
    }

    /// The frame, which every scan has before it.
    pub(super) fn frame(&self) -> &Frame {
        self.frame.as_ref().expect("no scan is returned before the frame")
    }

    /// The quantisation table of a component, row by row.
    pub(super) fn quantisation(&self, component: &Component) -> Result<[u16; 64], Error> {
        self.quantisation[component.quantisation].ok_or(Error::Damaged("a quantisation table is missing"))
    }

    /// What the components are: by Adobe's or JFIF's word or the components' names, as the Independent JPEG Group's
    /// library decides.
    pub(super) fn colour(&self) -> Colour {
        let ids: Vec<u8> = self.frame().components.iter().map(|c| c.id).collect();
        match (ids.len(), self.adobe) {
            (1, _) => Colour::Grey,
            (3, Some(0)) if !self.jfif => Colour::Rgb,
            (3, None) if !self.jfif && ids == *b"RGB" => Colour::Rgb,
            (3, _) => Colour::YCbCr,
            (_, None | Some(0)) => Colour::Cmyk,
            (_, Some(_)) => Colour::Ycck,
        }
    }

    /// Goes on at the marker at `at`.
    pub(super) fn resume(&mut self, at: usize) {
        self.at = at;
    }

    /// Reads on to the next scan. `None` at the end of the image.
    pub(super) fn next_scan(&mut self) -> Result<Option<Scan>, Error> {
        loop {
            // Bytes between segments are skipped, as many a camera leaves some.
            self.at = bits::next_marker(self.bytes, self.at);
            let marker = *self.bytes.get(self.at + 1).ok_or(Error::Truncated)?;
            self.at += 2;
            match marker {
                0xd9 => return Ok(None),
                0x01 | 0xd0..=0xd8 => {}
                _ => {
                    let segment = self.segment()?;
                    if marker == 0xda {
                        return self.scan(segment).map(Some);
                    }
                    self.read(marker, segment)?;
                }
            }
        }
    }

    fn segment(&mut self) -> Result<&'a [u8], Error> {
        let length = self.bytes.get(self.at..self.at + 2).ok_or(Error::Truncated)?;
        let length = usize::from(word(length));
        let end = self.at + length.max(2);
        let segment = self.bytes.get(self.at + 2..end).ok_or(Error::Truncated)?;
        self.at = end;
        Ok(segment)
    }

    fn read(&mut self, marker: u8, segment: &'a [u8]) -> Result<(), Error> {
        match marker {
            0xc0..=0xc2 => self.read_frame(marker, segment),
            0xc4 => self.read_huffman(segment),
            0xc3 | 0xc7 | 0xcb | 0xcf => Err(Error::Unsupported("lossless coding")),
            0xc5 | 0xc6 | 0xcd | 0xce => Err(Error::Unsupported("hierarchical coding")),
            0xc9 | 0xca | 0xcc => Err(Error::Unsupported("arithmetic coding")),
            0xdb => self.read_quantisation(segment),
            0xdd => {
                let interval = segment.get(..2).ok_or(Error::Damaged("the restart interval is cut short"))?;
                self.restart_interval = u32::from(word(interval));
                Ok(())
            }
            0xe0 => {
                self.jfif |= segment.starts_with(b"JFIF\0");
                Ok(())
            }
            0xe1 => {
                self.exif = self.exif.or_else(|| segment.strip_prefix(b"Exif\0\0"));
                Ok(())
            }
            0xee => {
                if segment.starts_with(b"Adobe") {
                    self.adobe = segment.get(11).copied().or(self.adobe);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn read_frame(&mut self, marker: u8, segment: &[u8]) -> Result<(), Error> {
        const SHORT: Error = Error::Damaged("the frame header is cut short");

        if self.frame.is_some() {
            return Err(Error::Damaged("it has two frames"));
        }
        let [precision, height @ .., count] = *segment.first_chunk::<6>().ok_or(SHORT)?;
        if precision != 8 {
            return Err(Error::Unsupported("12 bits a sample"));
        }
        let [h1, h0, w1, w0] = height;
        let components: Vec<Component> =
            segment[6..].as_chunks::<3>().0.iter().take(count.into()).map(component).collect();
        if components.len() != usize::from(count) {
            return Err(SHORT);
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(Error::Unsupported("a number of components other than 1, 3 and 4"));
        }
        let valid = |c: &Component| (1..=4).contains(&c.across) && (1..=4).contains(&c.down) && c.quantisation < 4;
        if !components.iter().all(valid) {
            return Err(Error::Damaged("the frame header makes no sense"));
        }
        let process = if marker == 0xc2 { Process::Progressive } else { Process::Sequential };
        let (width, height) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        self.frame = Some(Frame { process, width, height, components });
        Ok(())
    }

    fn read_huffman(&mut self, mut segment: &[u8]) -> Result<(), Error> {
        const SHORT: Error = Error::Damaged("a Huffman table is cut short");

        while let Some((head, rest)) = segment.split_first_chunk::<17>() {
            let [target, counts @ ..] = head;
            let symbols = counts.iter().map(|n| usize::from(*n)).sum();
            let (list, rest) = rest.split_at_checked(symbols).ok_or(SHORT)?;
            let tables = if target >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let table = tables.get_mut(usize::from(target & 15));
            *table.ok_or(Error::Damaged("a Huffman table has a wrong number"))? = Some(Table::new(counts, list)?);
            segment = rest;
        }
        Ok(())
    }

    fn read_quantisation(&mut self, mut segment: &[u8]) -> Result<(), Error> {
        const SHORT: Error = Error::Damaged("a quantisation table is cut short");

        while let Some((target, rest)) = segment.split_first() {
            let bytes = if target >> 4 == 0 { 1 } else { 2 };
            let (values, rest) = rest.split_at_checked(64 * bytes).ok_or(SHORT)?;
            let mut table = [0; 64];
            for (place, value) in ZIGZAG.iter().zip(values.chunks_exact(bytes)) {
                table[usize::from(*place)] = value.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte));
            }
            let slot = self.quantisation.get_mut(usize::from(target & 15));
            *slot.ok_or(Error::Damaged("a quantisation table has a wrong number"))? = Some(table);
            segment = rest;
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<Scan, Error> {
        const BAD: Error = Error::Damaged("a scan header makes no sense");

        let frame = self.frame.as_ref().ok_or(Error::Damaged("a scan comes before its frame"))?;
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(Error::Unsupported("more than 256 scans"));
        }
        let (count, rest) = segment.split_first().ok_or(BAD)?;
        let (parts, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or(BAD)?;
        let &[first, last, bits] = rest.first_chunk().ok_or(BAD)?;
        let part = |pair: &[u8; 2]| {
            let component = frame.components.iter().position(|c| c.id == pair[0])?;
            Some(Part { component, dc: usize::from(pair[1] >> 4), ac: usize::from(pair[1] & 15) })
        };
        let parts: Vec<Part> = parts.as_chunks().0.iter().map(part).collect::<Option<_>>().ok_or(BAD)?;
        let twice = parts.iter().enumerate().any(|(i, p)| parts[..i].iter().any(|q| q.component == p.component));
        let blocks = |p: &Part| frame.components[p.component].across * frame.components[p.component].down;
        // Ten blocks are the standard's limit for a unit; the window on the data relies on it.
        let crowded = parts.len() > 1 && parts.iter().map(blocks).sum::<u32>() > 10;
        if parts.is_empty() || twice || crowded || parts.iter().any(|p| p.dc > 3 || p.ac > 3) {
            return Err(BAD);
        }
        let band = (usize::from(first), usize::from(last));
        let bits = (u32::from(bits >> 4), u32::from(bits & 15));
        if frame.process == Process::Progressive {
            let band_is_valid =
                if band.0 == 0 { band.1 == 0 } else { band.0 <= band.1 && band.1 < 64 && parts.len() == 1 };
            if !band_is_valid || bits.1 > 13 || (bits.0 != 0 && bits.0 != bits.1 + 1) {
                return Err(BAD);
            }
            for part in &parts {
                self.visits[part.component] += band.1 - band.0 + 1;
            }
            if self.visits.iter().any(|visits| *visits > MAX_VISITS) {
                return Err(Error::Unsupported("scans that come to coefficients again and again"));
            }
        }
        Ok(Scan { parts, band, bits, data: self.at })
    }
}

fn component(&[id, sampling, quantisation]: &[u8; 3]) -> Component {
    let (across, down) = (u32::from(sampling >> 4), u32::from(sampling & 15));
    Component { id, across, down, quantisation: usize::from(quantisation) }
}

fn word(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}
