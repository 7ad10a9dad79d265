//! What is kept of a progressive picture between its scans.

use std::ops::Range;

use super::{
    header::{Component, Frame, ZIGZAG},
    plane::{Span, Target},
    simd::Simd,
};

/// The coefficients of one component. Of blocks that get one sample only the first is needed, and scans of the others
/// are skipped as a whole.
#[derive(Debug)]
pub(super) struct Coefficients {
    /// The first ones, of all blocks down to the last row that is wanted.
    firsts: Vec<i16>,
    /// Of blocks that are wanted the lowest frequencies, as many along a side as a block gets samples; not yet with the
    /// first.
    values: Vec<i16>,
    /// Which ones but the first are not zero, in the order of the file: it tells where in a later scan's data there are
    /// more bits of them. Of all blocks that the component's own scans have, down to the last row that is wanted.
    masks: Vec<u64>,
    layout: Layout,
}

/// Where they are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Kept of a block: 1, 4, 16 or 64.
    kept: usize,
    /// Blocks in a row.
    across: u32,
    /// Blocks that are wanted.
    columns: Span,
    rows: Span,
    /// Masks in a row, and rows of them.
    masks: (u32, u32),
}

impl Layout {
    fn new(frame: &Frame, component: &Component, target: &Target) -> Self {
        let Target { side, columns, rows, .. } = *target;
        let (across, down) = frame.blocks(component);
        let masks = (across, down.min(rows.to));
        Self { kept: (side * side) as usize, across: frame.units().0 * component.across, columns, rows, masks }
    }

    /// How many first coefficients, others and masks there are.
    const fn lengths(&self) -> (usize, usize, usize) {
        let firsts = self.across as usize * self.rows.to as usize;
        if self.kept == 1 {
            return (firsts, 0, 0);
        }
        let values = self.columns.len() as usize * self.rows.len() as usize * self.kept;
        (firsts, values, self.masks.0 as usize * self.masks.1 as usize)
    }

    /// Where the first coefficients of the blocks that are wanted of a row are.
    const fn firsts(&self, y: u32) -> Range<usize> {
        let row = y as usize * self.across as usize;
        row + self.columns.from as usize..row + self.columns.to as usize
    }

    /// The number of a block among those that are wanted, if it is.
    #[inline(always)]
    const fn block(&self, x: u32, y: u32) -> Option<usize> {
        // What is before the first wraps to a number beyond the last.
        let (x, y) = (x.wrapping_sub(self.columns.from), y.wrapping_sub(self.rows.from));
        let across = self.columns.len();
        if x < across && y < self.rows.len() { Some(y as usize * across as usize + x as usize) } else { None }
    }

    /// The number of a block among those that have masks, if it has one.
    #[inline(always)]
    const fn mask(&self, x: u32, y: u32) -> Option<usize> {
        if x < self.masks.0 { Some(y as usize * self.masks.0 as usize + x as usize) } else { None }
    }
}

impl Coefficients {
    pub(super) fn new(frame: &Frame, component: &Component, target: &Target) -> Self {
        let layout = Layout::new(frame, component, target);
        let (firsts, values, masks) = layout.lengths();
        Self { firsts: vec![0; firsts], values: vec![0; values], masks: vec![0; masks], layout }
    }

    /// Bytes that [`Self::new`] allocates.
    pub(super) fn bytes_needed(frame: &Frame, component: &Component, target: &Target) -> u64 {
        let (firsts, values, masks) = Layout::new(frame, component, target).lengths();
        ((firsts + values) * size_of::<i16>() + masks * size_of::<u64>()) as u64
    }

    /// How many are kept of a block.
    pub(super) const fn kept(&self) -> usize {
        self.layout.kept
    }

    /// The first one of a block, which must be in a row down to the last that is wanted.
    #[inline(always)]
    pub(super) fn first(&mut self, x: u32, y: u32) -> &mut i16 {
        &mut self.firsts[y as usize * self.layout.across as usize + x as usize]
    }

    /// All of them, if `KEPT` are kept of a block.
    pub(super) fn blocks<const KEPT: usize>(&mut self) -> Blocks<'_, KEPT> {
        let Self { firsts, values, masks, layout } = self;
        Blocks { firsts, values: values.as_chunks_mut().0, masks, layout: *layout, unwanted: [0; KEPT] }
    }

    /// Writes all blocks.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&mut self, simd: S, target: &mut Target) {
        match self.kept() {
            1 => self.put_first(simd, target),
            4 => self.blocks::<4>().put(simd, target),
            16 => self.blocks::<16>().put(simd, target),
            _ => self.blocks::<64>().put(simd, target),
        }
    }

    #[inline(always)]
    fn put_first<S: Simd>(&self, simd: S, target: &mut Target) {
        let mut block = [0; 64];
        let Layout { columns, rows, .. } = self.layout;
        for y in rows.from..rows.to {
            for (x, first) in (columns.from..).zip(&self.firsts[self.layout.firsts(y)]) {
                if let Some(place) = target.place(x, y) {
                    block[0] = *first;
                    // Whether there are others is not known.
                    target.put(simd, place, &block, false);
                }
            }
        }
    }
}

/// The coefficients of one component, of whose blocks so many are kept.
pub(super) struct Blocks<'a, const KEPT: usize> {
    firsts: &'a [i16],
    values: &'a mut [[i16; KEPT]],
    masks: &'a mut [u64],
    layout: Layout,
    /// Takes those of blocks that are not wanted.
    unwanted: [i16; KEPT],
}

impl<const KEPT: usize> Blocks<'_, KEPT> {
    const SIDE: usize = match KEPT {
        4 => 2,
        16 => 4,
        _ => 8,
    };

    /// The place in a block of each coefficient in the order of the file; beyond it for those that are not kept.
    pub(super) const PLACES: [u8; 64] = {
        let (mut places, mut at) = ([u8::MAX; 64], 0);
        while at < 64 {
            let (row, column) = (ZIGZAG[at] as usize / 8, ZIGZAG[at] as usize % 8);
            if row < Self::SIDE && column < Self::SIDE {
                places[at] = (row * Self::SIDE + column) as u8;
            }
            at += 1;
        }
        places
    };

    /// The bits in masks of those that are kept.
    pub(super) const MASK: u64 = {
        let (mut mask, mut at) = (0, 0);
        while at < 64 {
            if (Self::PLACES[at] as usize) < KEPT {
                mask |= 1 << at;
            }
            at += 1;
        }
        mask
    };

    /// A block and its mask, to be changed by one of the component's own scans.
    #[inline(always)]
    pub(super) fn at(&mut self, x: u32, y: u32) -> Option<(&mut [i16; KEPT], &mut u64)> {
        let mask = self.masks.get_mut(self.layout.mask(x, y)?)?;
        let values = self.layout.block(x, y).and_then(|at| self.values.get_mut(at));
        Some((values.unwrap_or(&mut self.unwanted), mask))
    }

    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, target: &mut Target) {
        let mut spread = [0; 64];
        let Layout { columns, rows, .. } = self.layout;
        for (y, row) in (rows.from..).zip(self.values.chunks_exact_mut(columns.len().max(1) as usize)) {
            let firsts = &self.firsts[self.layout.firsts(y)];
            for ((x, values), first) in (columns.from..).zip(row).zip(firsts) {
                let Some(place) = target.place(x, y) else { continue };
                values[0] = *first;
                // Blocks that lie wholly outside of the picture have a first coefficient alone.
                let mask = self.layout.mask(x, y).and_then(|at| self.masks.get(at));
                let is_flat = mask.is_none_or(|mask| *mask == 0);
                let block = match values.first_chunk() {
                    Some(all) => all,
                    None => {
                        for (row, values) in spread.chunks_exact_mut(8).zip(values.chunks_exact(Self::SIDE)) {
                            row[..Self::SIDE].copy_from_slice(values);
                        }
                        &spread
                    }
                };
                target.put(simd, place, block, is_flat);
            }
        }
    }
}
