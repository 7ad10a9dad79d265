//! Huffman codes, by tables that are looked up with the next bits.

use super::{Error, bits::Cursor};

/// Codes of at most so many bits are found by one look.
const LOOKUP_BITS: u32 = 10;

/// Bits that [`Skips`] looks at.
const SKIP_BITS: u32 = 12;

/// What a code means. Its symbol is a run of zeros and the size in bits of a value, which follows the code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(u32);

impl Code {
    /// Ends every block, and stands for "longer than the look".
    const LONG: Self = Self(64 << 16);

    fn new(length: u32, symbol: u8) -> Self {
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        let steps = if size == 0 && run < 15 { 64 + 1 + run } else { 1 + run };
        Self(length << 24 | steps << 16 | size << 8 | (length + size))
    }

    /// Bits of the code and the value together.
    #[inline(always)]
    pub(super) const fn total(self) -> u32 {
        self.0 & 63
    }

    /// Bits of the value.
    #[inline(always)]
    pub(super) const fn size(self) -> u32 {
        (self.0 >> 8) & 15
    }

    /// Places to go forward in a block: past the zeros to the value, or more than a block has if the rest of it is
    /// zeros.
    #[inline(always)]
    pub(super) const fn steps(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }

    /// Zeros before the value, or the size of a run of blocks without values.
    #[inline(always)]
    pub(super) const fn run(self) -> u32 {
        ((self.0 >> 16) - 1) & 15
    }

    /// Bits of the code alone.
    #[inline(always)]
    pub(super) const fn length(self) -> u32 {
        self.0 >> 24
    }

    #[inline(always)]
    pub(super) const fn is_long(self) -> bool {
        self.0 == Self::LONG.0
    }

    /// The value behind the code at the top of `buffer`: with its top bit 1 as it is, otherwise negative. 0 without
    /// bits.
    #[inline(always)]
    pub(super) const fn value(self, buffer: u64) -> i32 {
        let bits = buffer << self.length();
        let magnitude = ((bits >> 1) >> (63 - self.size())) as i32;
        let negative = !((bits as i64) >> 63) as i32;
        magnitude + (negative & (1 - (1 << self.size())))
    }
}

/// One Huffman table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    lookup: Box<[Code; 1 << LOOKUP_BITS]>,
    /// By length: the first code that is longer, as the top of 16 bits.
    limits: [u32; 17],
    /// By length: what to add to a code for its place in `symbols`.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

impl Table {
    /// From the number of codes of each length, 1 to 16, and their symbols.
    pub(super) fn new(counts: &[u8; 16], list: &[u8]) -> Result<Self, Error> {
        const BAD: Error = Error::Damaged("a Huffman table makes no sense");

        let mut symbols = [0; 256];
        symbols.get_mut(..list.len()).ok_or(BAD)?.copy_from_slice(list);
        let mut lookup = Box::new([Code::LONG; 1 << LOOKUP_BITS]);
        let (mut limits, mut offsets) = ([0; 17], [0; 17]);
        let (mut code, mut place) = (0u32, 0u32);
        for (length, count) in (1u32..).zip(counts) {
            offsets[length as usize] = place as i32 - code as i32;
            for _ in 0..*count {
                if code >= 1 << length {
                    return Err(BAD);
                }
                if length <= LOOKUP_BITS {
                    let first = (code << (LOOKUP_BITS - length)) as usize;
                    let entry = Code::new(length, symbols[place as usize]);
                    lookup[first..first + (1 << (LOOKUP_BITS - length))].fill(entry);
                }
                code += 1;
                place += 1;
            }
            limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(Self { lookup, limits, offsets, symbols })
    }

    /// The code at the top of `buffer`, or one that [is long](Code::is_long).
    #[inline(always)]
    pub(super) fn look(&self, buffer: u64) -> Code {
        self.lookup[(buffer >> (64 - LOOKUP_BITS)) as usize]
    }

    /// The code at the top of `buffer`, which is longer than the look.
    #[cold]
    #[inline(never)]
    pub(super) fn long(&self, buffer: u64) -> Result<Code, Error> {
        let top = (buffer >> 48) as u32;
        for length in LOOKUP_BITS + 1..=16 {
            if top < self.limits[length as usize] {
                let place = (top >> (16 - length)) as i32 + self.offsets[length as usize];
                return Ok(Code::new(length, self.symbols[(place & 255) as usize]));
            }
        }
        Err(Error::Damaged("its data has a code that its tables do not know"))
    }

    /// The code at the cursor, which must have 16 bits.
    #[inline(always)]
    pub(super) fn code(&self, cursor: &Cursor) -> Result<Code, Error> {
        let code = self.look(cursor.buffer);
        if code.is_long() { self.long(cursor.buffer) } else { Ok(code) }
    }

    /// Reads a code and its value; the cursor must have 31 bits.
    #[inline(always)]
    pub(super) fn value(&self, cursor: &mut Cursor) -> Result<i32, Error> {
        let code = self.code(cursor)?;
        let value = code.value(cursor.buffer);
        cursor.skip(code.total());
        Ok(value)
    }
}

/// Goes past as many codes at once as the next bits hold, without reading the values.
#[derive(Debug)]
pub(super) struct Skips(Box<[Skip; 1 << SKIP_BITS]>);

/// The steps of some codes: bits in the lowest five, places to go forward above them, then whether they end the block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Skip(u16);

impl Skip {
    const END: u16 = 1 << 11;
    /// The first code is longer than the look: no block has so many places.
    const NONE: Self = Self(127 << 5 & !Self::END);

    #[inline(always)]
    pub(super) const fn total(self) -> u32 {
        (self.0 & 31) as u32
    }

    /// Places to go forward; 64 more if the block ends.
    #[inline(always)]
    pub(super) const fn steps(self) -> usize {
        (self.0 >> 5) as usize
    }

    #[inline(always)]
    pub(super) const fn ends(self) -> bool {
        self.0 & Self::END != 0
    }
}

impl Skips {
    pub(super) fn new(table: &Table) -> Self {
        let mut skips = Box::new([Skip::NONE; 1 << SKIP_BITS]);
        for (look, skip) in (0u64..).zip(skips.iter_mut()) {
            *skip = Self::skip(table, look << (64 - SKIP_BITS)).unwrap_or(Skip::NONE);
        }
        Self(skips)
    }

    /// What the top bits of `buffer` surely hold.
    fn skip(table: &Table, buffer: u64) -> Option<Skip> {
        let (mut bits, mut steps) = (0, 0);
        while bits < SKIP_BITS {
            let code = table.look(buffer << bits);
            let (total, ends) = (bits + code.total(), code.steps() > 63);
            let longer = if ends { 0 } else { code.steps() };
            if code.is_long() || bits + code.length() > SKIP_BITS || total > 31 || steps + longer > 63 {
                break;
            }
            (bits, steps) = (total, steps + longer);
            if ends {
                return Some(Skip(bits as u16 | (steps as u16) << 5 | Skip::END));
            }
        }
        (bits > 0).then_some(Skip(bits as u16 | (steps as u16) << 5))
    }

    #[inline(always)]
    pub(super) fn look(&self, buffer: u64) -> Skip {
        self.0[(buffer >> (64 - SKIP_BITS)) as usize]
    }
}
