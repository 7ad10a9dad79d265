//! Stored images, their tags, and the output objects.

use std::{collections::BTreeMap, fmt::Debug, path::PathBuf};

use async_trait::async_trait;
use bytes::Bytes;

use super::Result;
use crate::contract::{Digest, ImageName, ObjectEvent, Sequencer, tags::Tag};

/// An upload that has come as a whole and is hashed.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The name that it would like to have.
    pub name: ImageName,
    /// Its bytes.
    pub bytes: UploadBytes,
    /// How many there are.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Media type from its first bytes, such as `image/png`.
    pub media_type: &'static str,
}

/// Where an upload's bytes are.
#[derive(Debug, Clone)]
pub enum UploadBytes {
    /// A small upload's, here.
    Memory(Bytes),
    /// In a spooled file. [`Images::put`] may move it away; if it is still there afterwards, its maker removes it.
    File(PathBuf),
}

/// What [`Images::put`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The name under which the bytes are stored now; another than wished for if that was taken by other bytes.
    pub image: ImageName,
    /// False if the very same bytes were there before: no message was sent, an existing result stands.
    pub created: bool,
}

/// A stored image.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The sequencer that these bytes were stored with, where the store knows it.
    pub sequencer: Option<Sequencer>,
}

/// The stored images.
#[async_trait]
pub trait Images: Send + Sync + Debug {
    /// Where `image` is, for the row's `location`: `s3://bucket/key`, or the path of the web tier that serves it.
    fn location(&self, image: &ImageName) -> String;

    /// The image that an event is about, or `None` if it names another bucket, is outside the prefix or is no image
    /// name: such a message is refused, nothing is read.
    fn image_of(&self, event: &ObjectEvent) -> Option<ImageName>;

    /// The event that asks for `image` to be classified (again). It has no sequencer, so its result always writes.
    fn event_for(&self, image: &ImageName) -> ObjectEvent;

    /// Stores `upload` durably under the first of its name's candidates that is free or holds the same bytes, and sees
    /// to it that a message about a created image reaches the queue. Racing calls never overwrite each other's bytes.
    async fn put(&self, upload: &Upload) -> Result<Put>;

    /// Whether [`put`](Self::put) has room for another image.
    ///
    /// # Errors
    /// [`ErrorKind::Full`](super::ErrorKind::Full) if it has none.
    async fn check_room(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the image's bytes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](super::ErrorKind::NotFound) if there is none;
    /// [`ErrorKind::TooLarge`](super::ErrorKind::TooLarge) if it has more than `max_bytes`, before they are read.
    async fn get(&self, image: &ImageName, max_bytes: u64) -> Result<StoredImage>;

    /// Whether the image is stored.
    async fn exists(&self, image: &ImageName) -> Result<bool>;

    /// Returns up to `limit` names after `after`, in an order of the store's choice that does not change.
    async fn list(&self, after: Option<&ImageName>, limit: usize) -> Result<Vec<ImageName>>;

    /// Removes the image with its tags. True if it was there.
    async fn delete(&self, image: &ImageName) -> Result<bool>;
}

/// The tags of stored images.
#[async_trait]
pub trait Tags: Send + Sync + Debug {
    /// Sets the tags that have a value, removes those that have none, and keeps others that the image has. Returns all
    /// that it had before.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](super::ErrorKind::NotFound) if the image is gone, whatever the tags.
    async fn set(&self, image: &ImageName, tags: &[Tag]) -> Result<BTreeMap<String, String>>;

    /// Returns the image's tags.
    async fn get(&self, image: &ImageName) -> Result<BTreeMap<String, String>>;
}

/// The output objects: results as JSON, for programs that read the output bucket.
#[async_trait]
pub trait Outputs: Send + Sync + Debug {
    /// Writes the object `key`, replacing what is there.
    async fn put(&self, key: &str, body: Vec<u8>) -> Result<()>;

    /// Returns the object `key`.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Removes the objects of these keys that are there.
    async fn delete(&self, keys: &[String]) -> Result<()>;

    /// Removes the object `key` if it still holds `body`: what another writer put there meanwhile stays.
    async fn delete_own(&self, key: &str, body: &[u8]) -> Result<()>;
}
