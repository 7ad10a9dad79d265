//! Why a file cannot be classified.

use super::format::{Format, FormatError};

/// Why a file cannot be classified. It never will be: trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not an image, or one of another format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// More bytes than `Limits::max_bytes`.
    #[error("the file is larger than {limit} bytes, the limit for one image")]
    TooManyBytes {
        /// Bytes.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A side longer than `Limits::max_side`.
    #[error("the image is {width} x {height} pixels; the limit for a side is {limit}")]
    TooLong {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit.
        limit: u32,
    },
    /// More pixels than `Limits::max_pixels`.
    #[error("the image is {width} x {height}, {} pixels; the limit is {limit}", u64::from(*width) * u64::from(*height))]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit.
        limit: u64,
    },
    /// Something in the file other than its pixels would take more memory than they may.
    #[error("the {0} needs more memory than its limit on pixels allows")]
    TooMuchMemory(Format),
    /// Decoding takes more memory than there is for a thumbnail.
    #[error("a thumbnail of this {format} takes {} MiB to make; the limit is {} MiB", mib(*.needed), limit >> 20)]
    TooMuchForThumbnail {
        /// The format.
        format: Format,
        /// Bytes.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The end is missing.
    #[error("the {0} is cut short; its end is missing")]
    Truncated(Format),
    /// Bytes that make no sense.
    #[error("the {format} is damaged: {reason}")]
    Damaged {
        /// The format.
        format: Format,
        /// The decoder's words.
        reason: String,
    },
    /// A rare variant of the format.
    #[error("this kind of {format} is not supported: {reason}")]
    Unsupported {
        /// The format.
        format: Format,
        /// The decoder's words.
        reason: String,
    },
}

/// So many bytes in MiB.
const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl DecodeError {
    /// Whether the file breaks one of the limits; otherwise its content is at fault.
    #[must_use]
    pub const fn is_over_limit(&self) -> bool {
        matches!(
            self,
            Self::TooManyBytes { .. }
                | Self::TooLong { .. }
                | Self::TooManyPixels { .. }
                | Self::TooMuchMemory(_)
                | Self::TooMuchForThumbnail { .. }
        )
    }
}
