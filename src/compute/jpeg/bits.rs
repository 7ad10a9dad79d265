//! Entropy-coded data as a stream of bits.

use super::Error;

/// Bytes of entropy-coded data that are held without their stuffing.
const WINDOW: usize = 16 << 10;

/// More bytes than any minimum coded unit takes: ten blocks of 64 codes with 16 bits and 15 bits of value, and a look
/// ahead.
const UNIT: usize = 10 * 64 * 31 / 8 + 16;

/// A window on the data, with room for a read of eight bytes at its end.
pub(super) type Window = [u8; WINDOW + 8];

/// The next bits of the window, by value so that loops keep them in registers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    /// The next bits, the first one on top.
    pub(super) buffer: u64,
    /// How many of them count.
    pub(super) count: u32,
    /// The next byte of the window.
    next: usize,
}

impl Cursor {
    /// Makes sure of 56 bits.
    #[inline(always)]
    pub(super) fn refill(&mut self, window: &Window) {
        let at = self.next % WINDOW;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&window[at..at + 8]);
        self.buffer |= u64::from_be_bytes(bytes) >> self.count;
        self.next += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// Drops `n` bits, of which there must be so many.
    #[inline(always)]
    pub(super) fn skip(&mut self, n: u32) {
        self.buffer <<= n;
        self.count -= n;
    }

    /// Takes `n` bits, 0 to 16.
    #[inline(always)]
    pub(super) fn take(&mut self, n: u32) -> u32 {
        let value = (self.buffer >> 1) >> (63 - n);
        self.skip(n);
        value as u32
    }
}

/// The entropy-coded data of a scan: up to a marker, and on after restart markers.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    file: &'a [u8],
    /// The next byte of the file to come into the window; a marker's first if the data has ended.
    at: usize,
    window: Box<Window>,
    /// Bytes of data in the window; zeros follow them when the data has ended.
    filled: usize,
    ended: bool,
    cursor: Cursor,
}

impl<'a> Bits<'a> {
    /// The data that begins at `at`.
    pub(super) fn new(file: &'a [u8], at: usize) -> Self {
        let window = Box::new([0; WINDOW + 8]);
        let mut bits = Self { file, at, window, filled: 0, ended: false, cursor: Cursor::default() };
        bits.fill();
        bits
    }

    /// The cursor and the window that it reads, with enough data for one minimum coded unit.
    #[inline(always)]
    pub(super) fn unit(&mut self) -> Result<(Cursor, &Window), Error> {
        if self.cursor.next + UNIT > self.filled {
            self.check()?;
        }
        Ok((self.cursor, &self.window))
    }

    /// Goes on from where a unit has been decoded to.
    #[inline(always)]
    pub(super) fn advance(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    /// Fills the window, or finds that all data has been used.
    #[cold]
    fn check(&mut self) -> Result<(), Error> {
        if !self.ended {
            self.fill();
        } else if self.cursor.next > self.filled + (self.cursor.count / 8) as usize {
            // A marker without a place for its code, or none at all.
            let cut = self.at + 2 > self.file.len();
            return Err(if cut { Error::Truncated } else { Error::Damaged("its data ends early") });
        }
        Ok(())
    }

    fn fill(&mut self) {
        let next = self.cursor.next.min(self.filled);
        self.window.copy_within(next..self.filled, 0);
        self.filled -= next;
        self.cursor.next = 0;
        while !self.ended && self.filled + 8 <= WINDOW {
            match self.file.get(self.at..self.at + 8) {
                Some(eight) => {
                    self.window[self.filled..self.filled + 8].copy_from_slice(eight);
                    let plain = bytes_before_ff(eight);
                    (self.at, self.filled) = (self.at + plain, self.filled + plain);
                    if plain < 8 {
                        self.unstuff();
                    }
                }
                None => match self.file.get(self.at) {
                    Some(0xff) => self.unstuff(),
                    Some(byte) => {
                        self.window[self.filled] = *byte;
                        (self.at, self.filled) = (self.at + 1, self.filled + 1);
                    }
                    None => self.ended = true,
                },
            }
        }
        if self.ended {
            self.window[self.filled..].fill(0);
        }
    }

    /// Reads 0xff: data if a zero follows, padding if another follows, a marker otherwise.
    fn unstuff(&mut self) {
        match self.file.get(self.at + 1) {
            Some(0) => {
                self.window[self.filled] = 0xff;
                (self.at, self.filled) = (self.at + 2, self.filled + 1);
            }
            Some(0xff) => self.at += 1,
            _ => self.ended = true,
        }
    }

    /// Goes to the data after the restart marker with this number.
    pub(super) fn restart(&mut self, number: u8) -> Result<(), Error> {
        self.at = self.finish()?;
        if self.file.get(self.at + 1) != Some(&(0xd0 + number)) {
            return Err(Error::Damaged("a restart marker is missing"));
        }
        self.at += 2;
        (self.filled, self.ended, self.cursor) = (0, false, Cursor::default());
        self.fill();
        Ok(())
    }

    /// Where the marker after the data is, in the file.
    pub(super) fn finish(&mut self) -> Result<usize, Error> {
        if self.ended {
            self.check()?;
            return Ok(self.at);
        }
        Ok(next_marker(self.file, self.at))
    }
}

/// Where the next marker begins from `at` on, restart markers included; the file's end if there is none.
pub(super) fn next_marker(file: &[u8], mut at: usize) -> usize {
    while at < file.len() {
        match file.get(at..at + 8).map_or(0, bytes_before_ff) {
            0 => match (file[at], file.get(at + 1)) {
                (0xff, Some(0)) => at += 2,
                (0xff, Some(0xff)) | (..=0xfe, _) => at += 1,
                (0xff, _) => return at,
            },
            plain => at += plain,
        }
    }
    file.len()
}

/// How many of eight bytes come before the first 0xff.
#[inline(always)]
fn bytes_before_ff(eight: &[u8]) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(eight);
    let value = u64::from_le_bytes(bytes);
    // A byte of the complement is zero: the lowest such byte is found exactly, as no borrow comes from below it.
    let found = (!value).wrapping_sub(0x0101_0101_0101_0101) & value & 0x8080_8080_8080_8080;
    (found.trailing_zeros() / 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever the data ends in the window, all of it can be read in small units, and what is behind it cannot.
    #[test]
    fn data_of_any_length_is_read_to_its_end() {
        for len in (WINDOW - 20..WINDOW + 20).chain(2 * WINDOW - UNIT - 30..2 * WINDOW - UNIT + 10) {
            for bits in [1, 3, 5] {
                let file = [vec![0x5a; len], vec![0xff, 0xd9]].concat();
                let mut data = Bits::new(&file, 0);
                let mut left = 8 * len;
                while left > 0 {
                    let (mut cursor, window) = data.unit().unwrap_or_else(|error| panic!("{len} bytes: {error:?}"));
                    let n = bits.min(left);
                    cursor.refill(window);
                    cursor.skip(n as u32);
                    data.advance(cursor);
                    left -= n;
                }
                assert_eq!(data.finish().unwrap_or_else(|error| panic!("{len} bytes: {error:?}")), len);
                // Beyond the end are zeros, and an error after some of them.
                let beyond = (0..2 * UNIT).find(|_| {
                    let Ok((mut cursor, window)) = data.unit() else { return true };
                    cursor.refill(window);
                    cursor.skip(56);
                    data.advance(cursor);
                    false
                });
                assert!(beyond.is_some(), "{len} bytes never end");
            }
        }
    }
}
