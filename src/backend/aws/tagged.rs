//! What is remembered of images' tags.

use std::collections::{HashMap, VecDeque};

use crate::contract::ImageName;

/// How many downloads the store remembers the tag count of.
const REMEMBERED: usize = 4096;

/// What recent downloads said of tags, so that tagging an image without any takes one call. Bounded; what is forgotten
/// costs a call.
#[derive(Debug, Default)]
pub(super) struct Tagged {
    images: HashMap<ImageName, bool>,
    order: VecDeque<ImageName>,
}

impl Tagged {
    /// Remembers whether an image has tags.
    pub(super) fn remember(&mut self, image: &ImageName, has_some: bool) {
        if self.images.insert(image.clone(), has_some).is_none() {
            self.order.push_back(image.clone());
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.images.remove(&oldest);
            }
        }
    }

    /// Returns what is remembered, once.
    pub(super) fn forget(&mut self, image: &ImageName) -> Option<bool> {
        self.images.remove(image)
    }
}
