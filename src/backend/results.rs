//! One row per image.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Counts, Cursor, Filter, Heartbeat, Order, Page, PageQuery, Result, Search};
use crate::contract::{Classification, ImageName};

/// What [`Results::put`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The row is written.
    Stored,
    /// Nothing is written: the row that is there has this other label. Remove its output object, then call again and
    /// name the label as `released`. In this order no output object is ever without a row that leads to it.
    Labelled(String),
    /// Nothing is written: a row of a newer event is there and stays.
    Stale,
    /// Nothing is written: the image was removed or replaced, or asked for before the last reset.
    Gone,
}

/// What [`Results::delete`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The row is removed.
    Row,
    /// There was none.
    Nothing,
    /// Nothing is removed: the row has this label. Remove its output object, then call again and name the label as
    /// `released`.
    Labelled(String),
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All rows.
    pub total: u64,
    /// Rows of failed images.
    pub failed: u64,
    /// False where the store only sums up what workers counted.
    pub exact: bool,
}

/// The rows.
#[async_trait]
pub trait Results: Send + Sync + Debug {
    /// Writes the row, unless the stored sequencer is newer; a result without a sequencer always writes and leaves the
    /// stored one. A row with another label than this result's and `released` is not replaced: see
    /// [`Written::Labelled`].
    async fn put(&self, result: &Classification, released: Option<&str>) -> Result<Written>;

    /// Returns the rows of these images, those that there are, in any order.
    async fn get(&self, images: &[ImageName]) -> Result<Vec<Classification>>;

    /// How the store finds text, and what else it can find and sort by.
    fn search(&self) -> Search;

    /// Returns a page. Without a filter, in the order of names or of writes, its cost does not depend on how many rows
    /// there are.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](super::ErrorKind::Unsupported) for what its [`Search`] says that it has not.
    async fn page(&self, query: &PageQuery) -> Result<Page>;

    /// Returns the place of an image in what `query` orders, beside which a page may be; `None` if it has none there.
    /// In the order of names every name has one.
    async fn place(&self, image: &ImageName, query: &PageQuery) -> Result<Option<Cursor>> {
        Ok((query.order == Order::Name).then(|| Cursor::Name(image.clone())))
    }

    /// Removes the row of an image that is removed, if it has no label or this one: see [`Removed::Labelled`]. Results
    /// of work that was under way then find themselves [`Written::Gone`].
    async fn delete(&self, image: &ImageName, released: Option<&str>) -> Result<Removed>;

    /// Returns how many images of each kind there are among those that match.
    ///
    /// # Errors
    /// As for [`page`](Self::page).
    async fn counts(&self, filter: &Filter) -> Result<Counts>;

    /// Returns how many rows there are. A store that does not count them sums up what `heartbeats`, which are all there
    /// are, counted.
    async fn totals(&self, heartbeats: &[Heartbeat]) -> Result<Totals>;
}
