//! What the coding processes share: the order of scans, of units in them, and restarts.

use super::{
    Error,
    bits::{Bits, Cursor, Window, next_marker},
    header::{Frame, Parser, Scan},
};

/// Decodes `first` and all scans after it.
pub(super) fn all(
    parser: &mut Parser<'_>,
    first: Scan,
    mut decode: impl FnMut(&Parser<'_>, &Scan) -> Result<usize, Error>,
) -> Result<(), Error> {
    let mut next = Some(first);
    while let Some(scan) = next {
        let end = decode(parser, &scan)?;
        parser.resume(end);
        next = parser.next_scan()?;
    }
    Ok(())
}

/// Where the marker after a scan that is not decoded is.
pub(super) fn skip(file: &[u8], scan: &Scan) -> usize {
    let mut at = scan.data;
    loop {
        at = next_marker(file, at);
        match file.get(at + 1) {
            Some(0xd0..=0xd7) => at += 2,
            _ => return at,
        }
    }
}

/// The blocks of one component in a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    pub(super) across: u32,
    pub(super) down: u32,
}

/// Decodes the units of a scan. Not a closure, as that would not be sure to be compiled for the processor's
/// instructions.
pub(super) trait Coder {
    /// Forgets what was predicted from earlier units.
    fn restart(&mut self);

    /// Decodes the unit in this column and row.
    fn unit(&mut self, cursor: &mut Cursor, window: &Window, column: u32, row: u32) -> Result<(), Error>;
}

/// How a scan runs over the picture.
#[derive(Debug)]
pub(super) struct Layout {
    /// Units in a row.
    columns: u32,
    /// Rows of units up to the last that is wanted.
    rows: u32,
    restart_interval: u32,
    /// By component of the scan.
    pub(super) blocks: Vec<Blocks>,
}

impl Layout {
    /// `rows_wanted(part, down)`: rows of blocks up to the last that is wanted of a component of the scan.
    pub(super) fn new(frame: &Frame, parser: &Parser<'_>, scan: &Scan, rows_wanted: impl Fn(usize) -> u32) -> Self {
        let restart_interval = parser.restart_interval;
        let component = |part: usize| &frame.components[scan.parts[part].component];
        if scan.parts.len() == 1 {
            let (columns, rows) = frame.blocks(component(0));
            let blocks = vec![Blocks { across: 1, down: 1 }];
            return Self { columns, rows: rows.min(rows_wanted(0)), restart_interval, blocks };
        }
        let (columns, rows) = frame.units();
        let parts = 0..scan.parts.len();
        let blocks = parts.clone().map(|p| Blocks { across: component(p).across, down: component(p).down });
        let wanted = parts.map(|p| rows_wanted(p).div_ceil(component(p).down)).max().unwrap_or(rows);
        Self { columns, rows: rows.min(wanted), restart_interval, blocks: blocks.collect() }
    }

    /// Decodes the units one after the other. Returns where the marker after the data is.
    #[inline(always)]
    pub(super) fn run(&self, bits: &mut Bits<'_>, coder: &mut impl Coder) -> Result<usize, Error> {
        let mut left = self.restart_interval;
        let mut restarts = 0u8;
        coder.restart();
        for y in 0..self.rows {
            for x in 0..self.columns {
                if self.restart_interval > 0 {
                    if left == 0 {
                        bits.restart(restarts % 8)?;
                        restarts = restarts.wrapping_add(1);
                        left = self.restart_interval;
                        coder.restart();
                    }
                    left -= 1;
                }
                let (mut cursor, window) = bits.unit()?;
                coder.unit(&mut cursor, window, x, y)?;
                bits.advance(cursor);
            }
        }
        bits.finish()
    }
}
