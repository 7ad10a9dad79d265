//! Asks for images to be classified again.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

use super::{Backend, Error, PageQuery, Result, within};
use crate::contract::{Classification, ImageName};

/// Names handled at a time.
const BATCH: usize = 500;

/// So many images are looked for at a time.
const AT_ONCE: usize = 32;

/// Each call of a store has this long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Which images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Every stored image.
    All,
    /// Those whose row says that they failed.
    Failed,
    /// Those whose row is of another model.
    Stale,
    /// Those without a row. Images that still wait in the queue are among them; classifying one twice does no harm.
    Missing,
}

/// Sends an event for each of these images and returns how many. Memory does not depend on how many there are. `model`
/// is the present one, as rows have it.
///
/// # Errors
/// The store's; what was sent until then stays sent.
pub async fn requeue(backend: &Backend, which: Which, model: &str) -> Result<u64> {
    match which {
        Which::Failed => requeue_rows(backend, |row| row.outcome.error().is_some()).await,
        Which::Stale => requeue_rows(backend, |row| row.model != model).await,
        Which::All | Which::Missing => requeue_listed(backend, which).await,
    }
}

async fn requeue_rows(backend: &Backend, is_meant: impl Fn(&Classification) -> bool) -> Result<u64> {
    let mut sent = 0;
    let mut query = PageQuery { limit: BATCH, ..PageQuery::default() };
    loop {
        let page = within(TIMEOUT, backend.results.page(&query)).await?;
        let meant = page.results.into_iter().filter(&is_meant).map(|row| row.image);
        sent += send(backend, meant.collect()).await?;
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(sent),
        }
    }
}

async fn requeue_listed(backend: &Backend, which: Which) -> Result<u64> {
    let mut sent = 0;
    let mut after: Option<ImageName> = None;
    loop {
        let mut names = within(TIMEOUT, backend.images.list(after.as_ref(), BATCH)).await?;
        let Some(last) = names.last().cloned() else { return Ok(sent) };
        if which == Which::Missing {
            let rows = within(TIMEOUT, backend.results.get(&names)).await?;
            let known: HashSet<ImageName> = rows.into_iter().map(|row| row.image).collect();
            names.retain(|name| !known.contains(name));
        }
        sent += send(backend, names).await?;
        after = Some(last);
    }
}

/// Sends an event for each of these images that is stored, one whose name comes twice once, and returns how many.
///
/// # Errors
/// The store's.
pub async fn requeue_images(backend: &Backend, names: Vec<ImageName>) -> Result<u64> {
    let mut seen = HashSet::new();
    let names: Vec<ImageName> = names.into_iter().filter(|name| seen.insert(name.clone())).collect();
    let stored = stream::iter(names).map(|name| async move {
        let is_stored = within(TIMEOUT, backend.images.exists(&name)).await?;
        Ok::<_, Error>(is_stored.then_some(name))
    });
    let stored: Vec<Option<ImageName>> = stored.buffered(AT_ONCE).try_collect().await?;
    send(backend, stored.into_iter().flatten().collect()).await
}

/// Sends an event for each of these images and returns how many.
async fn send(backend: &Backend, names: Vec<ImageName>) -> Result<u64> {
    if names.is_empty() {
        return Ok(0);
    }
    let bodies: Vec<String> = names.iter().map(|name| backend.images.event_for(name).to_body()).collect();
    within(TIMEOUT, backend.queue.send(&bodies)).await?;
    Ok(bodies.len() as u64)
}
