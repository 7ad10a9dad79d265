//! Progressive coding: coefficients come in several scans, by frequency and by bit, and are kept until the last.

#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;
use super::{
    Error, Instructions,
    bits::{Bits, Cursor, Window},
    coefficients::{Blocks, Coefficients},
    header::{Component, Frame, Parser, Scan},
    huffman::Table,
    plane::{Area, Planes, Scale, target},
    scan::{self, Coder, Layout},
    simd::{Portable, Simd},
};

/// Bytes that [`Stored::new`] allocates.
pub(super) fn bytes_needed(frame: &Frame, scale: Scale, area: Area) -> u64 {
    let bytes = |c: &Component| Coefficients::bytes_needed(frame, c, &target(frame, c, scale, area));
    frame.components.iter().map(bytes).sum()
}

/// The coefficients of the picture.
#[derive(Debug)]
pub(super) struct Stored(Vec<Coefficients>);

impl Stored {
    pub(super) fn new(frame: &Frame, planes: &Planes) -> Self {
        let components = frame.components.iter().zip(&planes.targets);
        Self(components.map(|(component, target)| Coefficients::new(frame, component, target)).collect())
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
        if scan.band.0 > 0 && self.0[scan.parts[0].component].kept() == 1 {
            return Ok(scan::skip(parser.bytes(), scan));
        }
        let layout = Layout::new(parser.frame(), parser, scan, |p| planes.targets[scan.parts[p].component].rows.to);
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
            return match coefficients.kept() {
                4 => layout.run(&mut bits, &mut Later { blocks: coefficients.blocks::<4>(), band, refines }),
                16 => layout.run(&mut bits, &mut Later { blocks: coefficients.blocks::<16>(), band, refines }),
                _ => layout.run(&mut bits, &mut Later { blocks: coefficients.blocks::<64>(), band, refines }),
            };
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
            coefficients.put(simd, target);
        }
    }
}

/// A scan of one more bit of the first coefficients.
struct FirstBits<'a> {
    shapes: &'a [scan::Blocks],
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
struct Later<'a, const KEPT: usize> {
    blocks: Blocks<'a, KEPT>,
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

impl<const KEPT: usize> Coder for Later<'_, KEPT> {
    #[inline(always)]
    fn restart(&mut self) {
        self.band.blocks_without = 0;
    }

    #[inline(always)]
    fn unit(&mut self, cursor: &mut Cursor, window: &Window, column: u32, row: u32) -> Result<(), Error> {
        let Self { blocks, band, refines } = self;
        match blocks.at(column, row) {
            Some((block, mask)) if *refines => band.refine(cursor, window, block, mask),
            Some((block, mask)) => band.decode(cursor, window, block, mask),
            None => Ok(()),
        }
    }
}

impl Band<'_> {
    /// Reads the band of a block for the first time.
    #[inline(always)]
    fn decode<const KEPT: usize>(
        &mut self,
        cursor: &mut Cursor,
        window: &Window,
        block: &mut [i16; KEPT],
        mask: &mut u64,
    ) -> Result<(), Error> {
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
            let value = (code.value(cursor.buffer) << self.shift) as i16;
            cursor.skip(code.total());
            // A run beyond the block is taken for its end.
            if at < 64 {
                *mask = *mask & !(1 << at) | u64::from(value != 0) << at;
                if let Some(kept) = block.get_mut(usize::from(Blocks::<KEPT>::PLACES[at])) {
                    *kept = value;
                }
            }
        }
        Ok(())
    }

    /// Reads one more bit of the band's coefficients, and those that are new with it.
    #[inline(always)]
    fn refine<const KEPT: usize>(
        &mut self,
        cursor: &mut Cursor,
        window: &Window,
        block: &mut [i16; KEPT],
        mask: &mut u64,
    ) -> Result<(), Error> {
        let mut at = self.first;
        // Those that are new are not among those that get one more bit.
        let mut left = *mask & u64::MAX >> (63 - self.last) & u64::MAX << at;
        if self.blocks_without == 0 {
            let mut zeros = !*mask & u64::MAX >> (63 - self.last) & u64::MAX << at;
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
                for _ in 0..code.run() {
                    zeros &= zeros.wrapping_sub(1);
                }
                // The place of the zero after so many; behind the band if there are fewer.
                at = (zeros.trailing_zeros() as usize).min(self.last + 1);
                let before = left & !(u64::MAX << (at - 1) << 1);
                self.correct(cursor, window, block, before);
                left ^= before;
                zeros &= zeros.wrapping_sub(1);
                if value != 0 && at <= self.last {
                    *mask |= 1 << at;
                    if let Some(kept) = block.get_mut(usize::from(Blocks::<KEPT>::PLACES[at])) {
                        *kept = value;
                    }
                }
                at += 1;
            }
        }
        if self.blocks_without > 0 {
            self.correct(cursor, window, block, left);
            self.blocks_without -= 1;
        }
        Ok(())
    }

    /// Reads a bit for each of these coefficients, which are not zero.
    #[inline(always)]
    fn correct<const KEPT: usize>(
        &self,
        cursor: &mut Cursor,
        window: &Window,
        block: &mut [i16; KEPT],
        mut nonzero: u64,
    ) {
        while nonzero & Blocks::<KEPT>::MASK != 0 {
            if cursor.count == 0 {
                cursor.refill(window);
            }
            let bit = (cursor.take(1) << self.shift) as i16;
            let place = Blocks::<KEPT>::PLACES[nonzero.trailing_zeros() as usize];
            if let Some(value) = block.get_mut(usize::from(place))
                && *value & (1 << self.shift) == 0
            {
                *value = if *value > 0 { value.wrapping_add(bit) } else { value.wrapping_sub(bit) };
            }
            nonzero &= nonzero - 1;
        }
        let mut others = nonzero.count_ones();
        while others > cursor.count {
            others -= cursor.count;
            cursor.skip(cursor.count);
            cursor.refill(window);
        }
        cursor.skip(others);
    }
}
