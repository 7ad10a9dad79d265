//! Progressive coding: coefficients come in several scans, by frequency and by bit, and are kept until the last.

#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;
use super::{
    Error, Instructions,
    bits::{Bits, Cursor, Window},
    header::{Frame, Parser, Scan, ZIGZAG},
    huffman::Table,
    plane::{Planes, Scale, side},
    scan::{self, Blocks, Coder, Layout},
    simd::{Portable, Simd},
};

/// Bytes that [`Stored::new`] allocates.
pub(super) fn bytes_needed(frame: &Frame, scale: Scale) -> u64 {
    let (columns, rows) = frame.units();
    let bytes = frame.components.iter().map(|component| {
        let blocks = u64::from(columns * component.across) * u64::from(rows * component.down);
        2 * blocks * kept(side(frame, component, scale)) as u64
    });
    bytes.sum()
}

/// Coefficients of a block that are kept for so many samples along its side. Of one sample only the first is needed,
/// and scans of the others are skipped as a whole; otherwise all, as later scans depend on which are zero.
const fn kept(side: u32) -> usize {
    if side == 1 { 1 } else { 64 }
}

/// The coefficients of one component.
#[derive(Debug)]
struct Coefficients {
    values: Vec<i16>,
    /// In a block.
    kept: usize,
    /// Blocks in a row.
    columns: u32,
}

impl Coefficients {
    #[inline(always)]
    fn first(&mut self, x: u32, y: u32) -> &mut i16 {
        let at = (y as usize * self.columns as usize + x as usize) * self.kept;
        &mut self.values[at]
    }

    /// A block, if all of it is kept.
    #[inline(always)]
    fn block(&mut self, x: u32, y: u32) -> Option<&mut [i16; 64]> {
        let at = (y as usize * self.columns as usize + x as usize) * 64;
        self.values.get_mut(at..)?.first_chunk_mut()
    }
}

/// The coefficients of the picture.
#[derive(Debug)]
pub(super) struct Stored(Vec<Coefficients>);

impl Stored {
    pub(super) fn new(frame: &Frame, planes: &Planes) -> Self {
        let (columns, rows) = frame.units();
        let stored = frame.components.iter().zip(&planes.targets).map(|(component, target)| {
            let (columns, rows) = (columns * component.across, rows * component.down);
            let kept = kept(target.side);
            Coefficients { values: vec![0; columns as usize * rows as usize * kept], kept, columns }
        });
        Self(stored.collect())
    }

    /// Decodes a scan; returns where the marker after it is.
    pub(super) fn decode(
        &mut self,
        parser: &Parser<'_>,
        scan: &Scan,
        planes: &mut Planes,
        instructions: Instructions,
    ) -> Result<usize, Error> {
        planes.quantise(parser, scan)?;
        if scan.band.0 > 0 && self.0[scan.parts[0].component].kept == 1 {
            return Ok(scan::skip(parser.bytes(), scan));
        }
        let layout = Layout::new(parser.frame(), parser, scan, |_| u32::MAX);
        let bits = Bits::new(parser.bytes(), scan.data);
        #[cfg(target_arch = "x86_64")]
        if instructions == Instructions::Detected && Avx2::detect().is_some() {
            #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
            fn with_avx2(
                stored: &mut Stored,
                parser: &Parser<'_>,
                scan: &Scan,
                layout: &Layout,
                bits: Bits<'_>,
            ) -> Result<usize, Error> {
                stored.pass(parser, scan, layout, bits)
            }
            // SAFETY: the processor has been asked for the instructions.
            return unsafe { with_avx2(self, parser, scan, &layout, bits) };
        }
        let _ = instructions;
        self.pass(parser, scan, &layout, bits)
    }

    #[inline(always)]
    fn pass(&mut self, parser: &Parser<'_>, scan: &Scan, layout: &Layout, mut bits: Bits<'_>) -> Result<usize, Error> {
        const MISSING: Error = Error::Damaged("a Huffman table is missing");

        let refines = scan.bits.0 > 0;
        if scan.band.0 > 0 {
            let part = scan.parts[0];
            let table = parser.ac[part.ac].as_ref().ok_or(MISSING)?;
            let coefficients = &mut self.0[part.component];
            let ((first, last), shift) = (scan.band, scan.bits.1);
            let band = Band { table, first, last, shift, blocks_without: 0 };
            return layout.run(&mut bits, &mut Later { coefficients, band, refines });
        }
        let mut shared = FirstBits { shapes: &layout.blocks, stored: self, scan, shift: scan.bits.1 };
        if refines {
            return layout.run(&mut bits, &mut shared);
        }
        let tables = scan.parts.iter().map(|p| parser.dc[p.dc].as_ref()).collect::<Option<Vec<_>>>();
        let tables = tables.ok_or(MISSING)?;
        let predicted = vec![0; tables.len()];
        layout.run(&mut bits, &mut First { shared, tables, predicted })
    }

    /// Writes all blocks that are wanted.
    pub(super) fn transform(mut self, planes: &mut Planes, instructions: Instructions) {
        #[cfg(target_arch = "x86_64")]
        if let (Instructions::Detected, Some(avx2)) = (instructions, Avx2::detect()) {
            #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
            fn with_avx2(avx2: Avx2, stored: &mut Stored, planes: &mut Planes) {
                stored.put(avx2, planes);
            }
            // SAFETY: the token proves that the processor has the instructions.
            return unsafe { with_avx2(avx2, &mut self, planes) };
        }
        let _ = instructions;
        self.put(Portable, planes);
    }

    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, planes: &mut Planes) {
        for (coefficients, target) in self.0.iter_mut().zip(&mut planes.targets) {
            let mut first = [0; 64];
            for y in target.rows.from..target.rows.to {
                for x in target.columns.from..target.columns.to {
                    let Some(place) = target.place(x, y) else { continue };
                    if coefficients.kept == 1 {
                        first[0] = *coefficients.first(x, y);
                        target.put(simd, place, &first, true);
                    } else if let Some(block) = coefficients.block(x, y) {
                        target.put(simd, place, block, block[1..].iter().all(|c| *c == 0));
                    }
                }
            }
        }
    }
}

/// A scan of one more bit of the first coefficients.
struct FirstBits<'a> {
    shapes: &'a [Blocks],
    stored: &'a mut Stored,
    scan: &'a Scan,
    /// Bits that come in later scans.
    shift: u32,
}

impl Coder for FirstBits<'_> {
    #[inline(always)]
    fn restart(&mut self) {}

    #[inline(always)]
    fn unit(&mut self, cursor: &mut Cursor, window: &Window, column: u32, row: u32) -> Result<(), Error> {
        for (part, shape) in self.scan.parts.iter().zip(self.shapes) {
            let coefficients = &mut self.stored.0[part.component];
            for y in row * shape.down..(row + 1) * shape.down {
                for x in column * shape.across..(column + 1) * shape.across {
                    cursor.refill(window);
                    *coefficients.first(x, y) |= (cursor.take(1) << self.shift) as i16;
                }
            }
        }
        Ok(())
    }
}

/// A scan of the first coefficients, but for the bits that come later.
struct First<'a> {
    shared: FirstBits<'a>,
    tables: Vec<&'a Table>,
    /// The last block's, by component.
    predicted: Vec<i32>,
}

impl Coder for First<'_> {
    #[inline(always)]
    fn restart(&mut self) {
        self.predicted.fill(0);
    }

    #[inline(always)]
    fn unit(&mut self, cursor: &mut Cursor, window: &Window, column: u32, row: u32) -> Result<(), Error> {
        let FirstBits { shapes, stored, scan, shift } = &mut self.shared;
        let coders = self.tables.iter().zip(&mut self.predicted);
        for ((part, shape), (table, predicted)) in scan.parts.iter().zip(*shapes).zip(coders) {
            let coefficients = &mut stored.0[part.component];
            for y in row * shape.down..(row + 1) * shape.down {
                for x in column * shape.across..(column + 1) * shape.across {
                    cursor.refill(window);
                    *predicted = predicted.wrapping_add(table.value(cursor)?);
                    *coefficients.first(x, y) = (*predicted << *shift) as i16;
                }
            }
        }
        Ok(())
    }
}

/// A scan of a band of frequencies of one component.
struct Later<'a> {
    coefficients: &'a mut Coefficients,
    band: Band<'a>,
    /// Whether the scan gives one more bit of what earlier ones began.
    refines: bool,
}

/// A band of frequencies on its way.
struct Band<'a> {
    table: &'a Table,
    first: usize,
    last: usize,
    /// Bits that come in later scans.
    shift: u32,
    /// Blocks from this one on that have no new coefficients.
    blocks_without: u32,
}

impl Coder for Later<'_> {
    #[inline(always)]
    fn restart(&mut self) {
        self.band.blocks_without = 0;
    }

    #[inline(always)]
    fn unit(&mut self, cursor: &mut Cursor, window: &Window, column: u32, row: u32) -> Result<(), Error> {
        let Self { coefficients, band, refines } = self;
        match coefficients.block(column, row) {
            Some(block) if *refines => band.refine(cursor, window, block),
            Some(block) => band.decode(cursor, window, block),
            None => Ok(()),
        }
    }
}

impl Band<'_> {
    /// Reads the band of a block for the first time.
    #[inline(always)]
    fn decode(&mut self, cursor: &mut Cursor, window: &Window, block: &mut [i16; 64]) -> Result<(), Error> {
        if self.blocks_without > 0 {
            self.blocks_without -= 1;
            return Ok(());
        }
        let mut at = self.first - 1;
        while at < self.last {
            if cursor.count < 32 {
                cursor.refill(window);
            }
            let code = self.table.code(cursor)?;
            if code.steps() > 64 {
                cursor.skip(code.length());
                self.blocks_without = (1 << code.run()) - 1 + cursor.take(code.run());
                break;
            }
            at += code.steps();
            let value = code.value(cursor.buffer) << self.shift;
            cursor.skip(code.total());
            // A run beyond the block is taken for its end.
            if at < 64 {
                block[usize::from(ZIGZAG[at])] = value as i16;
            }
        }
        Ok(())
    }

    /// Reads one more bit of the band's coefficients, and those that are new with it.
    #[inline(always)]
    fn refine(&mut self, cursor: &mut Cursor, window: &Window, block: &mut [i16; 64]) -> Result<(), Error> {
        let mut at = self.first;
        if self.blocks_without == 0 {
            while at <= self.last {
                cursor.refill(window);
                let code = self.table.code(cursor)?;
                cursor.skip(code.length());
                if code.steps() > 64 {
                    self.blocks_without = (1 << code.run()) + cursor.take(code.run());
                    break;
                }
                // A new coefficient is plus or minus one bit.
                let value = match code.size() {
                    0 => 0,
                    _ if cursor.take(1) == 1 => 1 << self.shift,
                    _ => -1 << self.shift,
                };
                at = self.correct(cursor, window, block, at, code.run());
                if value != 0 && at <= self.last {
                    block[usize::from(ZIGZAG[at])] = value;
                }
                at += 1;
            }
        }
        if self.blocks_without > 0 {
            self.correct(cursor, window, block, at, u32::MAX);
            self.blocks_without -= 1;
        }
        Ok(())
    }

    /// Reads a bit for each coefficient that is not zero, from `at` past so many zeros. Returns the place of the zero
    /// after them.
    #[inline(always)]
    fn correct(
        &self,
        cursor: &mut Cursor,
        window: &Window,
        block: &mut [i16; 64],
        mut at: usize,
        mut zeros: u32,
    ) -> usize {
        while at <= self.last {
            let value = &mut block[usize::from(ZIGZAG[at & 63])];
            if *value != 0 {
                if cursor.count == 0 {
                    cursor.refill(window);
                }
                let bit = (cursor.take(1) << self.shift) as i16;
                if *value & (1 << self.shift) == 0 {
                    *value = if *value > 0 { value.wrapping_add(bit) } else { value.wrapping_sub(bit) };
                }
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        at
    }
}
