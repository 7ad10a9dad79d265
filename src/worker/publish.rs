//! Publishing: a result goes to the tags, the output object and the row, in this order, each step idempotent.

use serde::Serialize;

use super::fate::Fate;
use crate::{
    backend::{Backend, Error, ErrorKind, Result, Written},
    contract::{Classification, ImageName, Sequencer, result::output_key, tags},
};

/// Tries to write over a row that others write at the same time.
const ATTEMPTS: u32 = 5;

/// Stores `result`. Returns its image's fate: done or failed, as the result says, or discarded, since the image is gone
/// or a newer result is there; nothing of this one is left then. A crash between the steps leaves what a repeat puts
/// right.
///
/// # Errors
/// The store's, for the caller to try again; [`ErrorKind::NotFound`] never comes, it is [`Fate::Discarded`].
pub(crate) async fn publish(backend: &Backend, result: &Classification) -> Result<Fate> {
    let before = match backend.tags.set(&result.image, &tags::tags(result)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Fate::Discarded),
        other => other?,
    };
    let output = Output::of(result)?;
    if let Some(label) = before.get(tags::CLASSIFICATION) {
        remove_former(backend, result, label).await?;
    }
    let mut released = None;
    for _ in 0..ATTEMPTS {
        if let Some(output) = &output {
            backend.outputs.put(&output.key, output.body.clone()).await?;
        }
        match backend.results.put(result, released.as_deref()).await? {
            Written::Stored => return Ok(Fate::from(&result.outcome)),
            // Its output goes before the row does: the row is what leads to it. Who wrote that row may just have
            // removed ours, which had the same key as the output before; so it is written again, too.
            Written::Labelled(label) => {
                backend.outputs.delete(&[output_key(&result.image, &label)]).await?;
                released = Some(label);
            }
            Written::Stale | Written::Gone => {
                withdraw(backend, result, output).await?;
                return Ok(Fate::Discarded);
            }
        }
    }
    Err(contended(result))
}

/// Removes the output of `label`, with which the image was tagged before, unless it is that of `result`. It leads to
/// the output that a worker left which ended before its row: where another model works now, nothing else does.
async fn remove_former(backend: &Backend, result: &Classification, label: &str) -> Result<()> {
    let key = output_key(&result.image, label);
    if result.output_key().as_ref() == Some(&key) {
        return Ok(());
    }
    let Some(body) = backend.outputs.get(&key).await? else { return Ok(()) };
    // Anybody may tag an object in a bucket, and another image may have an output of this name.
    let is_ours = serde_json::from_slice::<Classification>(&body).is_ok_and(|former| former.image == result.image);
    if is_ours { backend.outputs.delete_own(&key, &body).await } else { Ok(()) }
}

/// An output object.
struct Output {
    key: String,
    body: Vec<u8>,
}

/// What an output object holds: the result, and which event asked for it, so that no two events write the same bytes.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    result: &'a Classification,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequencer: Option<&'a Sequencer>,
}

impl Output {
    /// The output of `result`; a failure has none.
    fn of(result: &Classification) -> Result<Option<Self>> {
        let Some(key) = result.output_key() else { return Ok(None) };
        let refused = || Error::new(ErrorKind::Refused, format!("cannot write the result of {}", result.image));
        let body = Body { result, sequencer: result.sequencer.as_ref() };
        let body = serde_json::to_vec(&body).map_err(|e| refused().because(e))?;
        Ok(Some(Self { key, body }))
    }
}

/// Takes back what publishing left of `result`. The row that stands, if there is one, has its tags and its output
/// written again.
async fn withdraw(backend: &Backend, result: &Classification, mut left: Option<Output>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let row = row(backend, result).await?;
        let stands = row.as_ref().map(Output::of).transpose()?.flatten();
        if let Some(own) = left.filter(|own| stands.as_ref().is_none_or(|stands| stands.key != own.key)) {
            // Not by its key alone: a row that is being written may have the same label.
            backend.outputs.delete_own(&own.key, &own.body).await?;
        }
        let Some(row) = row else { return Ok(()) };
        match backend.tags.set(&row.image, &tags::tags(&row)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map(drop)?,
        }
        let Some(stands) = stands else { return Ok(()) };
        backend.outputs.put(&stands.key, stands.body.clone()).await?;
        let now = self::row(backend, result).await?;
        if now.as_ref().and_then(Classification::output_key).as_ref() == Some(&stands.key) {
            return Ok(());
        }
        left = Some(stands);
    }
    Err(contended(result))
}

/// Removes the outputs of an image that is gone. A worker that ends between output and row leaves one that no row leads
/// to; the message that it had comes again and finds no image.
///
/// # Errors
/// The store's, and a transient one if the image is there again: its output may be removed with the others, and is
/// written again when the message comes once more.
pub(crate) async fn sweep(backend: &Backend, image: &ImageName, labels: &[String]) -> Result<()> {
    if backend.images.exists(image).await? {
        return Ok(());
    }
    let keys: Vec<String> = labels.iter().map(|label| output_key(image, label)).collect();
    backend.outputs.delete(&keys).await?;
    if backend.images.exists(image).await? {
        return Err(Error::new(ErrorKind::Transient, format!("{image} was stored again meanwhile")));
    }
    Ok(())
}

/// The row of the image that `result` is about.
async fn row(backend: &Backend, result: &Classification) -> Result<Option<Classification>> {
    Ok(backend.results.get(std::slice::from_ref(&result.image)).await?.pop())
}

fn contended(result: &Classification) -> Error {
    Error::new(ErrorKind::Transient, format!("the row of {} changes all the time", result.image))
}
