//! Publishing: a result goes to the tags, the output object and the row, in this order, each step idempotent.

use crate::{
    backend::{Backend, Error, ErrorKind, Written},
    contract::{Classification, result::output_key, tags},
};

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is stored.
    Stored,
    /// The image is gone, or a newer result is there: nothing of this one is left.
    Discarded,
}

/// Stores `result`. A crash between the steps leaves what a repeat puts right.
///
/// # Errors
/// The store's, for the caller to try again; [`ErrorKind::NotFound`] never comes, it is [`Published::Discarded`].
pub async fn publish(backend: &Backend, result: &Classification) -> Result<Published, Error> {
    let output = result.output_key();
    let tags = tags::tags(result);
    if !tags.is_empty() {
        match backend.images.set_tags(&result.image, &tags).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Published::Discarded),
            other => other?,
        }
    }
    if let Some(key) = &output {
        backend.images.put_output(key, body(result)?).await?;
    }
    match backend.results.put(result).await? {
        Written::Stored { previous } => {
            if let Some(old) = previous.map(|label| output_key(&result.image, &label))
                && Some(&old) != output.as_ref()
            {
                backend.images.delete_output(&old).await?;
            }
            Ok(Published::Stored)
        }
        Written::Gone => {
            if let Some(key) = &output {
                backend.images.delete_output(key).await?;
            }
            Ok(Published::Discarded)
        }
        Written::Stale => {
            restore_newer(backend, result, output).await?;
            Ok(Published::Discarded)
        }
    }
}

/// A newer row stands: its tags and output object are written again, over those that this older result left.
async fn restore_newer(backend: &Backend, older: &Classification, output: Option<String>) -> Result<(), Error> {
    let Some(newer) = backend.results.get(std::slice::from_ref(&older.image)).await?.pop() else { return Ok(()) };
    let key = newer.output_key();
    if let Some(old) = output
        && Some(&old) != key.as_ref()
    {
        backend.images.delete_output(&old).await?;
    }
    if let Some(key) = key {
        match backend.images.set_tags(&newer.image, &tags::tags(&newer)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        backend.images.put_output(&key, body(&newer)?).await?;
    }
    Ok(())
}

fn body(result: &Classification) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(result)
        .map_err(|e| Error::new(ErrorKind::Refused, format!("cannot write the result of {}", result.image)).because(e))
}
