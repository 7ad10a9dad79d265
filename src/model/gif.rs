//! What the decoder of a GIF takes, how large its picture is, and where a GIF ends.

use std::borrow::Cow;

/// Marks of what follows.
const EXTENSION: usize = 0x21;
const FRAME: usize = 0x2c;

/// Bytes of a frame before its colours: the mark, its place and size, flags.
const FRAME_HEAD: usize = 10;

/// Where the width and height of the screen are.
const SCREEN: usize = 6;

/// Bytes that decoding the first frame of `gif`, whose picture is of `width` x `height` pixels, takes beside the pixels
/// that it returns: the numbers of their colours, the frame by itself if it does not fill the rows that it has, and
/// the copy that [`on_its_screen`] may be.
pub(super) fn bytes_needed(gif: &[u8], width: u32, height: u32) -> u64 {
    let a_pixel = if fills_rows(gif, width, height) { 1 } else { 5 };
    let copy = if larger_screen(gif).is_some() { gif.len() as u64 } else { 0 };
    a_pixel * u64::from(width) * u64::from(height) + copy
}

/// The file with a screen that holds its first frame. Some programs write one that is too small, or none; what people
/// see then, and what Pillow has, is the frame, not what the screen leaves of it.
pub(super) fn on_its_screen(gif: &[u8]) -> Cow<'_, [u8]> {
    let Some([width, height]) = larger_screen(gif) else { return Cow::Borrowed(gif) };
    let mut larger = gif.to_vec();
    larger[SCREEN..SCREEN + 2].copy_from_slice(&width.to_le_bytes());
    larger[SCREEN + 2..SCREEN + 4].copy_from_slice(&height.to_le_bytes());
    Cow::Owned(larger)
}

/// Width and height of screen and first frame together, where the screen does not hold the frame.
fn larger_screen(gif: &[u8]) -> Option<[u16; 2]> {
    let [left, top, across, down] = first_frame(gif)?;
    let (width, height) = (number(gif, SCREEN)?, number(gif, SCREEN + 2)?);
    let (right, bottom) = (left + across, top + down);
    let side = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
    (right > width || bottom > height).then(|| [side(width.max(right)), side(height.max(bottom))])
}

/// Left, top, width and height of the first frame, by the blocks before its pixels.
fn first_frame(gif: &[u8]) -> Option<[u32; 4]> {
    let at = after_extensions(gif, after_head(gif)?)?;
    if byte(gif, at)? != FRAME {
        return None;
    }
    Some([number(gif, at + 1)?, number(gif, at + 3)?, number(gif, at + 5)?, number(gif, at + 7)?])
}

/// Whether the first frame of a GIF fills all rows of the picture that it has.
fn fills_rows(gif: &[u8], width: u32, height: u32) -> bool {
    matches!(first_frame(gif), Some([0, top, across, down]) if across == width && top + down <= height)
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

/// The number of two bytes at `at`.
fn number(gif: &[u8], at: usize) -> Option<u32> {
    Some((byte(gif, at)? | byte(gif, at + 1)? << 8) as u32)
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
