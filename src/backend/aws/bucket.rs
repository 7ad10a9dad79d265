//! One S3 bucket: reads that survive a cut, listings, deletes.

use std::fmt::Display;

use aws_sdk_s3::{
    Client,
    operation::get_object::GetObjectOutput,
    types::{BucketVersioningStatus, Delete, ObjectIdentifier},
};
use tokio::sync::OnceCell;

use super::client::{Call, internal, status};
use crate::{
    backend::{Error, ErrorKind, Result, Retry},
    contract::Timestamp,
};

/// S3's limit of one `DeleteObjects` and of one page of a listing.
pub(super) const MAX_KEYS: usize = 1000;

pub(super) const PUT: Call = Call::new("store", "s3:PutObject");
pub(super) const GET: Call = Call::new("read", "s3:GetObject (and s3:ListBucket, or a missing key reads as forbidden)");
pub(super) const LIST: Call = Call::new("list", "s3:ListBucket");
const LIST_VERSIONS: Call = Call::new("list versions of", "s3:ListBucketVersions");
const DELETE: Call = Call::new("delete", "s3:DeleteObject");
const DELETE_VERSIONS: Call = Call::new("delete versions of", "s3:DeleteObjectVersion");

/// One bucket, and whether it keeps versions.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(super) client: Client,
    pub(crate) name: String,
    versioned: OnceCell<bool>,
}

impl Bucket {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned(), versioned: OnceCell::new() }
    }

    pub(crate) fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Asks for an object.
    pub(super) async fn get(&self, key: &str) -> Result<GetObjectOutput> {
        let got = self.client.get_object().bucket(&self.name).key(key).send().await;
        got.map_err(|e| GET.error(&self.uri(key), &e))
    }

    /// Reads the body of what [`get`](Self::get) answered.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if it has more than `max_bytes`, before they are read; a transient one if it is cut off,
    /// which the SDK does not try again.
    pub(super) async fn read(&self, key: &str, got: GetObjectOutput, max_bytes: u64) -> Result<Vec<u8>> {
        let uri = self.uri(key);
        let check = |bytes: u64| {
            let message = format!("{uri} has {bytes} bytes, more than the limit of {max_bytes}");
            if bytes > max_bytes { Err(Error::new(ErrorKind::TooLarge, message)) } else { Ok(()) }
        };
        let length = got.content_length().and_then(|n| u64::try_from(n).ok());
        check(length.unwrap_or(0))?;
        let mut body = got.body;
        let mut bytes = Vec::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| cut(&uri, &e))?);
            check(bytes.len() as u64)?;
        }
        if length.is_some_and(|n| n != bytes.len() as u64) {
            return Err(cut(&uri, &"the body is shorter than announced"));
        }
        Ok(bytes)
    }

    /// Whether there is such an object.
    pub(super) async fn has(&self, key: &str) -> Result<bool> {
        match self.client.head_object().bucket(&self.name).key(key).send().await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(GET.error(&self.uri(key), &error)),
        }
    }

    /// Whether deleting leaves versions behind. An identity that may not know may not delete versions either.
    pub(crate) async fn is_versioned(&self) -> bool {
        let ask = || async {
            match self.client.get_bucket_versioning().bucket(&self.name).send().await {
                Ok(got) => {
                    matches!(got.status(), Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended))
                }
                Err(error) => {
                    let error =
                        Call::new("tell the versioning of", "s3:GetBucketVersioning").error(&self.uri(""), &error);
                    tracing::warn!(%error, "taking the bucket as not versioned");
                    false
                }
            }
        };
        *self.versioned.get_or_init(ask).await
    }

    /// Removes an object, with all its versions where the bucket has them.
    pub(super) async fn delete(&self, key: &str) -> Result<()> {
        if self.is_versioned().await {
            // Versions are listed by prefix, so those of "a.png" come with those of "a.png.bak", and before them.
            let mut next = None;
            loop {
                let page = self.versions(key, next).await?;
                let more = page.objects.iter().all(|o| o.id.key == key);
                let ours: Vec<_> = page.objects.into_iter().map(|o| o.id).filter(|id| id.key == key).collect();
                self.delete_objects(ours).await?;
                next = page.next.filter(|_| more);
                if next.is_none() {
                    return Ok(());
                }
            }
        }
        let deleted = self.client.delete_object().bucket(&self.name).key(key).send().await;
        deleted.map(drop).map_err(|e| DELETE.error(&self.uri(key), &e))
    }

    /// A page of the objects below `prefix`, with all versions and delete markers where the bucket keeps them.
    pub(crate) async fn list(&self, prefix: &str, next: Option<Next>) -> Result<Objects> {
        if self.is_versioned().await { self.versions(prefix, next).await } else { self.objects(prefix, next).await }
    }

    async fn versions(&self, prefix: &str, next: Option<Next>) -> Result<Objects> {
        let Next { key, version } = next.unwrap_or_default();
        let page = self
            .client
            .list_object_versions()
            .bucket(&self.name)
            .prefix(prefix)
            .set_key_marker(key)
            .set_version_id_marker(version)
            .send()
            .await
            .map_err(|e| LIST_VERSIONS.error(&self.uri(prefix), &e))?;
        let versions = page.versions().iter().filter_map(|v| found(v.key(), v.version_id(), v.last_modified()));
        let markers = page.delete_markers().iter().filter_map(|m| found(m.key(), m.version_id(), m.last_modified()));
        let key = page.next_key_marker().filter(|_| page.is_truncated().unwrap_or(false)).map(str::to_owned);
        let next = key.map(|key| Next { key: Some(key), version: page.next_version_id_marker().map(str::to_owned) });
        Ok(Objects { objects: versions.chain(markers).collect(), next })
    }

    async fn objects(&self, prefix: &str, next: Option<Next>) -> Result<Objects> {
        let page = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix)
            .set_start_after(next.and_then(|next| next.key))
            .send()
            .await
            .map_err(|e| LIST.error(&self.uri(prefix), &e))?;
        let last = page.contents().last().and_then(|o| o.key()).filter(|_| page.is_truncated().unwrap_or(false));
        let next = last.map(|key| Next { key: Some(key.to_owned()), version: None });
        let objects = page.contents().iter().filter_map(|o| found(o.key(), None, o.last_modified())).collect();
        Ok(Objects { objects, next })
    }

    /// Removes objects or versions, any number. Those that are gone already are no error.
    pub(crate) async fn delete_objects(&self, ids: Vec<ObjectIdentifier>) -> Result<()> {
        let versions = ids.iter().any(|id| id.version_id.is_some());
        let call = if versions { DELETE_VERSIONS } else { DELETE };
        let (mut left, mut attempts) = (ids, Retry::CALL.start());
        loop {
            let (mut failed, mut why) = (Vec::new(), None);
            for chunk in left.chunks(MAX_KEYS) {
                let (again, error) = self.delete_chunk(chunk, call).await?;
                failed.extend(again);
                why = error.or(why);
            }
            let Some(why) = why else { return Ok(()) };
            attempts.again(why).await?;
            left = failed;
        }
    }

    /// Returns what was not deleted, and why.
    async fn delete_chunk(
        &self,
        chunk: &[ObjectIdentifier],
        call: Call,
    ) -> Result<(Vec<ObjectIdentifier>, Option<Error>)> {
        assert!(!chunk.is_empty() && chunk.len() <= MAX_KEYS, "DeleteObjects takes 1 to 1000 keys");
        let delete =
            Delete::builder().set_objects(Some(chunk.to_vec())).quiet(true).build().map_err(|e| internal(&e))?;
        let sent = self.client.delete_objects().bucket(&self.name).delete(delete).send().await;
        let sent = sent.map_err(|e| call.error(&self.uri(""), &e))?;
        let (mut failed, mut why) = (Vec::new(), None);
        for error in sent.errors().iter().filter(|e| !matches!(e.code(), Some("NoSuchKey" | "NoSuchVersion"))) {
            let code = error.code().unwrap_or_default();
            let kind = if code == "AccessDenied" { ErrorKind::Refused } else { ErrorKind::Transient };
            let uri = self.uri(error.key().unwrap_or_default());
            let mut message = format!("cannot delete {uri}: {code}: {}", error.message().unwrap_or_default());
            if kind == ErrorKind::Refused {
                message.push_str(&format!(" (does the identity have the IAM permission {}?)", call.permission));
            }
            why = Some(Error::new(kind, message));
            let same = |id: &&ObjectIdentifier| {
                Some(id.key.as_str()) == error.key() && id.version_id() == error.version_id().filter(|v| !v.is_empty())
            };
            failed.extend(chunk.iter().find(same).cloned());
        }
        Ok((failed, why))
    }
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) objects: Vec<Found>,
    pub(crate) next: Option<Next>,
}

/// Where the next page of a listing begins: after this key, or after this version of it.
#[derive(Debug, Default)]
pub(crate) struct Next {
    key: Option<String>,
    version: Option<String>,
}

/// An object, or a version of one.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: ObjectIdentifier,
    /// By the store's clock, which on AWS has whole seconds.
    pub(crate) modified: Timestamp,
}

fn found(
    key: Option<&str>,
    version: Option<&str>,
    modified: Option<&aws_sdk_s3::primitives::DateTime>,
) -> Option<Found> {
    let id = ObjectIdentifier::builder().key(key?).set_version_id(version.map(str::to_owned)).build().ok()?;
    let modified = modified.and_then(|t| t.to_millis().ok()).unwrap_or(0);
    Some(Found { id, modified: Timestamp::from_millis(modified) })
}

/// The error about a body that ended early.
pub(super) fn cut(uri: &str, cause: &dyn Display) -> Error {
    Error::new(ErrorKind::Transient, format!("cannot read {uri} to its end")).because(cause)
}
