//! Sequential coding: each block's coefficients come all at once.

#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;
use super::{
    Error, Instructions,
    bits::{Bits, Cursor, Window},
    header::{Parser, Part, Scan, ZIGZAG},
    huffman::{Skips, Table},
    plane::{Planes, Target},
    scan::{Blocks, Coder, Layout},
    simd::{Portable, Simd},
    standard,
};

/// Decodes a scan into `planes`; returns where the marker after it is.
pub(super) fn decode(
    parser: &Parser<'_>,
    scan: &Scan,
    planes: &mut Planes,
    instructions: Instructions,
) -> Result<usize, Error> {
    planes.quantise(parser, scan)?;
    let mut coders = scan.parts.iter().map(|part| Component::new(parser, *part)).collect::<Result<Vec<_>, _>>()?;
    let layout = Layout::new(parser.frame(), parser, scan, |p| planes.targets[scan.parts[p].component].rows.to);
    let mut bits = Bits::new(parser.bytes(), scan.data);
    let (shapes, coders, targets) = (&layout.blocks[..], &mut coders[..], &mut planes.targets[..]);
    #[cfg(target_arch = "x86_64")]
    if let (Instructions::Detected, Some(simd)) = (instructions, Avx2::detect()) {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
        fn with_avx2(layout: &Layout, bits: &mut Bits<'_>, mut pass: Pass<'_, Avx2>) -> Result<usize, Error> {
            layout.run(bits, &mut pass)
        }
        // SAFETY: the token proves that the processor has the instructions.
        return unsafe { with_avx2(&layout, &mut bits, Pass { simd, shapes, coders, targets, block: [0; 64] }) };
    }
    let _ = instructions;
    layout.run(&mut bits, &mut Pass { simd: Portable, shapes, coders, targets, block: [0; 64] })
}

/// What a component's blocks are decoded with.
struct Component<'a> {
    component: usize,
    dc: &'a Table,
    ac: &'a Table,
    skips: Skips,
    /// The last block's first coefficient.
    predicted: i32,
}

impl<'a> Component<'a> {
    fn new(parser: &'a Parser<'_>, part: Part) -> Result<Self, Error> {
        const MISSING: Error = Error::Damaged("a Huffman table is missing");

        let dc = parser.dc[part.dc].as_ref().or_else(|| standard::dc(part.dc)).ok_or(MISSING)?;
        let ac = parser.ac[part.ac].as_ref().or_else(|| standard::ac(part.ac)).ok_or(MISSING)?;
        Ok(Self { component: part.component, dc, ac, skips: Skips::new(ac), predicted: 0 })
    }

    /// Reads the first coefficient.
    #[inline(always)]
    fn first(&mut self, cursor: &mut Cursor, window: &Window) -> Result<i16, Error> {
        cursor.refill(window);
        self.predicted = self.predicted.wrapping_add(self.dc.value(cursor)?);
        Ok(self.predicted as i16)
    }

    /// Reads the others up to the place `last`, goes past those behind it. Returns whether there are none.
    #[inline(always)]
    fn rest(&self, cursor: &mut Cursor, window: &Window, block: &mut [i16; 64], last: usize) -> Result<bool, Error> {
        let mut at = 0;
        while at < last {
            if cursor.count < 32 {
                cursor.refill(window);
            }
            let mut code = self.ac.look(cursor.buffer);
            if at + code.steps() > 63 {
                if code.is_long() {
                    code = self.ac.long(cursor.buffer)?;
                }
                // The block's end, or a run beyond it, which is taken for the end too.
                if at + code.steps() > 63 {
                    cursor.skip(code.total());
                    return Ok(at == 0);
                }
            }
            at += code.steps();
            block[usize::from(ZIGZAG[at & 63])] = code.value(cursor.buffer) as i16;
            cursor.skip(code.total());
        }
        self.skip_rest(cursor, window, at)
    }

    /// Goes past those behind the place `at`. Returns whether there are none and that is the first.
    #[inline(always)]
    fn skip_rest(&self, cursor: &mut Cursor, window: &Window, mut at: usize) -> Result<bool, Error> {
        while at < 63 {
            cursor.refill(window);
            let skip = self.skips.look(cursor.buffer);
            let next = at + skip.steps();
            if next < 63 {
                at = next;
                cursor.skip(skip.total());
            } else if (skip.ends() && next < 64 + 63) || (next == 63 && skip.total() > 0) {
                cursor.skip(skip.total());
                // No step but the end's.
                return Ok(next == 64);
            } else {
                // Codes of the next block may be among these.
                let code = self.ac.code(cursor)?;
                cursor.skip(code.total());
                if at == 0 && code.steps() > 63 {
                    return Ok(true);
                }
                at += code.steps();
            }
        }
        Ok(false)
    }
}

/// The place of the last coefficient, in the order of the file, of the lowest frequencies that a block of this side is
/// made of.
#[inline(always)]
const fn last(side: u32) -> usize {
    match side {
        1 => 0,
        2 => 4,
        4 => 24,
        _ => 63,
    }
}

/// A scan on its way.
struct Pass<'a, S> {
    simd: S,
    shapes: &'a [Blocks],
    coders: &'a mut [Component<'a>],
    targets: &'a mut [Target],
    /// Zeros between blocks.
    block: [i16; 64],
}

impl<S: Simd> Coder for Pass<'_, S> {
    #[inline(always)]
    fn restart(&mut self) {
        for coder in &mut *self.coders {
            coder.predicted = 0;
        }
    }

    #[inline(always)]
    fn unit(&mut self, cursor: &mut Cursor, window: &Window, column: u32, row: u32) -> Result<(), Error> {
        let Self { simd, shapes, coders, targets, block } = self;
        for (coder, shape) in coders.iter_mut().zip(*shapes) {
            let target = &mut targets[coder.component];
            for y in row * shape.down..(row + 1) * shape.down {
                for x in column * shape.across..(column + 1) * shape.across {
                    let dc = coder.first(cursor, window)?;
                    match target.place(x, y) {
                        Some(place) if target.side > 1 => {
                            block[0] = dc;
                            let is_flat = coder.rest(cursor, window, block, last(target.side))?;
                            target.put(*simd, place, block, is_flat);
                            if !is_flat {
                                *block = [0; 64];
                            }
                        }
                        place => {
                            let is_flat = coder.skip_rest(cursor, window, 0)?;
                            if let Some(place) = place {
                                block[0] = dc;
                                target.put(*simd, place, block, is_flat);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
