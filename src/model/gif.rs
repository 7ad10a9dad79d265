//! What the decoder of a GIF takes, and where a GIF ends.

/// Marks of what follows.
const EXTENSION: usize = 0x21;
const FRAME: usize = 0x2c;

/// Bytes of a frame before its colours: the mark, its place and size, flags.
const FRAME_HEAD: usize = 10;

/// Bytes that decoding the first frame of `gif`, whose picture is of `width` x `height` pixels, takes beside the pixels
/// that it returns: the numbers of their colours, and the frame by itself if it does not fill the rows that it has.
pub(super) fn bytes_needed(gif: &[u8], width: u32, height: u32) -> u64 {
    let a_pixel = if fills_rows(gif, width, height) { 1 } else { 5 };
    a_pixel * u64::from(width) * u64::from(height)
}

/// Whether the first frame of a GIF fills all rows of the picture that it has, by the blocks before its pixels.
fn fills_rows(gif: &[u8], width: u32, height: u32) -> bool {
    let first = || {
        let at = after_extensions(gif, after_head(gif)?)?;
        let number = |place: usize| Some((byte(gif, at + place)? | byte(gif, at + place + 1)? << 8) as u32);
        Some([number(1)?, number(3)?, number(5)?, number(7)?])
    };
    matches!(first(), Some([0, top, across, down]) if across == width && top + down <= height)
}

/// Whether the bytes end before the first frame of `gif` does.
pub(super) fn is_cut(gif: &[u8]) -> bool {
    let first = || {
        let at = after_extensions(gif, after_head(gif)?)?;
        if byte(gif, at)? != FRAME {
            // Damage: nothing is known of what follows.
            return Some(());
        }
        let colours = colours(byte(gif, at + FRAME_HEAD - 1)?);
        // Behind the colours there is the number of bits that codes begin with.
        after_blocks(gif, at + FRAME_HEAD + colours + 1).map(|_| ())
    };
    first().is_none()
}

fn byte(gif: &[u8], at: usize) -> Option<usize> {
    gif.get(at).copied().map(usize::from)
}

/// Bytes of the colours that these flags say are there.
const fn colours(flags: usize) -> usize {
    if flags & 0x80 > 0 { 6 << (flags & 7) } else { 0 }
}

/// The place after the head and its colours.
fn after_head(gif: &[u8]) -> Option<usize> {
    Some(13 + colours(byte(gif, 10)?))
}

/// The place after the extensions at `at`: a mark, a label and blocks each.
fn after_extensions(gif: &[u8], mut at: usize) -> Option<usize> {
    while byte(gif, at)? == EXTENSION {
        at = after_blocks(gif, at + 2)?;
    }
    Some(at)
}

/// The place after the blocks at `at`, which have their lengths before them, until an empty one.
fn after_blocks(gif: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match byte(gif, at)? {
            0 => return Some(at + 1),
            length => at += 1 + length,
        }
    }
}
