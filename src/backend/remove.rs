//! Removing one image with all that is known of it.

use super::{Backend, Error, ErrorKind, Removed, Result};
use crate::contract::{ImageName, result::output_key};

/// Tries to remove a row whose label changes meanwhile.
const ATTEMPTS: u32 = 5;

/// Removes the image with its tags, its output object and its row. False if there was nothing. What it left undone
/// because of an error is done when it is called again: the row, which leads to the rest, goes last.
///
/// # Errors
/// The store's.
pub async fn remove(backend: &Backend, image: &ImageName) -> Result<bool> {
    // The image first: a worker that has it at this moment then finds it gone and writes no row.
    let was_there = backend.images.delete(image).await?;
    let mut released = None;
    for _ in 0..ATTEMPTS {
        match backend.results.delete(image, released.as_deref()).await? {
            Removed::Row => return Ok(true),
            Removed::Nothing => return Ok(was_there),
            Removed::Labelled(label) => {
                backend.outputs.delete(&[output_key(image, &label)]).await?;
                released = Some(label);
            }
        }
    }
    Err(Error::new(ErrorKind::Transient, format!("{image} is being classified again and again; remove it once more")))
}
