//! What the decoder of a GIF takes.

/// Bytes that decoding the first frame of `gif`, whose picture is of `width` x `height` pixels, takes beside the pixels
/// that it returns: the numbers of their colours, and the frame by itself if it does not fill the rows that it has.
pub(super) fn bytes_needed(gif: &[u8], width: u32, height: u32) -> u64 {
    let a_pixel = if fills_rows(gif, width, height) { 1 } else { 5 };
    a_pixel * u64::from(width) * u64::from(height)
}

/// Whether the first frame of a GIF fills all rows of the picture that it has, by the blocks before its pixels.
fn fills_rows(gif: &[u8], width: u32, height: u32) -> bool {
    let byte = |at: usize| gif.get(at).copied().map(usize::from);
    let first = || {
        let flags = byte(10)?;
        let mut at = 13 + if flags & 0x80 > 0 { 6 << (flags & 7) } else { 0 };
        // Extensions: a mark, a label and blocks with their lengths before them, until an empty one.
        while byte(at)? == 0x21 {
            at += 2;
            while byte(at)? > 0 {
                at += 1 + byte(at)?;
            }
            at += 1;
        }
        let number = |place: usize| Some((byte(at + place)? | byte(at + place + 1)? << 8) as u32);
        Some([number(1)?, number(3)?, number(5)?, number(7)?])
    };
    matches!(first(), Some([0, top, across, down]) if across == width && top + down <= height)
}
