//! Which part of an image the network sees, and how an image is turned for display.

use image::metadata::Orientation;

use super::jpeg::{Area, Plane, Scale};

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Region {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Region {
    /// The part of a `width` x `height` image that is left of it when its shorter side is resized to `resize` and the
    /// central square of `side` is cut out, in pixels of the image before the resize.
    ///
    /// As torchvision rounds: the longer side is truncated to `resize * long / short`, the margins are halved to even.
    pub(super) fn of_centre(width: u32, height: u32, resize: u32, side: u32) -> Self {
        let short = u64::from(width.min(height));
        let along = |length: u32| {
            let resized = u64::from(resize) * u64::from(length) / short;
            let margin = resized - u64::from(side);
            let before = margin / 2 + u64::from(margin % 4 == 3);
            let scale = f64::from(length) / resized as f64;
            let start = before as f64 * scale;
            // Rounding must not reach over the edge.
            (start, (f64::from(side) * scale).min(f64::from(length) - start))
        };
        let ((left, width), (top, height)) = (along(width), along(height));
        Self { left, top, width, height }
    }

    /// The pixels that a resize of the region to a square of `side` reads: its filter reaches beyond the edge by the
    /// width of one of the pixels that it makes, and by the samples around it that tell of those at its edge.
    pub(super) fn reach(self, side: u32, scale: Scale) -> Area {
        let reach = |start: f64, length: f64| {
            let beyond = length / f64::from(side) + 5.0 * f64::from(scale.divisor());
            // Saturates at 0.
            ((start - beyond) as u32, (start + length + beyond).ceil() as u32)
        };
        let ((left, right), (top, bottom)) = (reach(self.left, self.width), reach(self.top, self.height));
        Area { left, top, right, bottom }
    }

    /// The same region in samples of a decoded component.
    pub(super) fn within<S>(self, plane: &Plane<S>) -> Self {
        let along = |start: f64, length: f64, factor: f64, origin: u32, size: u32| {
            let start = (start * factor - f64::from(origin)).max(0.0);
            (start, (length * factor).min(f64::from(size) - start))
        };
        let (left, width) = along(self.left, self.width, plane.across, plane.left, plane.width);
        let (top, height) = along(self.top, self.height, plane.down, plane.top, plane.height);
        Self { left, top, width, height }
    }
}

/// From pixels as stored to pixels as displayed: axes swapped first, then mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    swap: bool,
    mirror_x: bool,
    mirror_y: bool,
}

impl From<Orientation> for Turn {
    fn from(orientation: Orientation) -> Self {
        let (swap, mirror_x, mirror_y) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate180 => (false, true, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate90 => (true, true, false),
            Orientation::Rotate270 => (true, false, true),
            Orientation::Rotate270FlipH => (true, true, true),
        };
        Self { swap, mirror_x, mirror_y }
    }
}

impl Turn {
    /// The displayed width and height of what is stored as `width` x `height`.
    pub(super) const fn size(self, width: u32, height: u32) -> (u32, u32) {
        if self.swap { (height, width) } else { (width, height) }
    }

    /// Where a region of the displayed image, `width` x `height`, is in the stored one.
    pub(super) fn undo(self, mut region: Region, width: u32, height: u32) -> Region {
        if self.mirror_x {
            region.left = (f64::from(width) - region.left - region.width).max(0.0);
        }
        if self.mirror_y {
            region.top = (f64::from(height) - region.top - region.height).max(0.0);
        }
        if self.swap {
            let Region { left, top, width, height } = region;
            region = Region { left: top, top: left, width: height, height: width };
        }
        region
    }

    /// Which pixel of a stored square of `side` is displayed at `(x, y)`.
    pub(super) const fn stored_index(self, x: usize, y: usize, side: usize) -> usize {
        let x = if self.mirror_x { side - 1 - x } else { x };
        let y = if self.mirror_y { side - 1 - y } else { y };
        if self.swap { x * side + y } else { y * side + x }
    }
}
