//! Images, tags and output objects on S3.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    primitives::ByteStream,
    types::{BucketVersioningStatus, Delete, ObjectIdentifier, Tag, Tagging},
};
use sha2::Digest as _;
use tokio::{sync::OnceCell, time::sleep};

use super::client::{Call, status};
use crate::{
    backend::{Error, ErrorKind, Images, Put, Result, StoredImage, Upload},
    contract::{Digest, ImageName, ObjectEvent},
};

/// The metadata key under which an upload's SHA-256 is kept, as hex. S3's own checksums do not serve: the default is a CRC, and
/// stores that speak S3 know few others.
const SHA256: &str = "sha256";

/// S3's limit of one `DeleteObjects` and of one page of a listing.
pub(crate) const MAX_KEYS: usize = 1000;

/// S3's limit of tags on one object.
const MAX_TAGS: usize = 10;

/// Tries of a download whose body is cut off, which the SDK does not retry, and of a write that raced another.
const ATTEMPTS: u32 = 4;

/// How many downloads the store remembers the tag count of.
const REMEMBERED: usize = 4096;

const PUT: Call = Call::new("store", "s3:PutObject");
const GET: Call = Call::new("read", "s3:GetObject (and s3:ListBucket, or a missing key reads as forbidden)");
const LIST: Call = Call::new("list", "s3:ListBucket");
const LIST_VERSIONS: Call = Call::new("list versions of", "s3:ListBucketVersions");
const DELETE: Call = Call::new("delete", "s3:DeleteObject");
const DELETE_VERSIONS: Call = Call::new("delete versions of", "s3:DeleteObjectVersion");
const GET_TAGS: Call = Call::new("read the tags of", "s3:GetObjectTagging");
const PUT_TAGS: Call = Call::new("tag", "s3:PutObjectTagging");

/// Images in one bucket under one prefix, output objects in another.
#[derive(Debug)]
pub(crate) struct S3Images {
    pub(crate) client: Client,
    bucket: Bucket,
    prefix: String,
    outputs: Bucket,
    tagged: Mutex<Tagged>,
}

impl S3Images {
    pub(crate) fn new(client: Client, bucket: &str, prefix: &str, output_bucket: &str) -> Self {
        Self {
            bucket: Bucket::new(client.clone(), bucket),
            outputs: Bucket::new(client.clone(), output_bucket),
            client,
            prefix: prefix.to_owned(),
            tagged: Mutex::default(),
        }
    }

    /// The input bucket, and the prefix below which images are.
    pub(crate) fn inputs(&self) -> (&Bucket, &str) {
        (&self.bucket, &self.prefix)
    }

    /// The output bucket.
    pub(crate) fn outputs(&self) -> &Bucket {
        &self.outputs
    }

    fn key(&self, image: &ImageName) -> String {
        format!("{}{image}", self.prefix)
    }

    /// The image that is stored as `key`, if it is one.
    fn image(&self, key: &str) -> Option<ImageName> {
        key.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Whether the object holds the bytes of `upload`; `None` if there is no object.
    async fn holds(&self, key: &str, upload: &Upload) -> Result<Option<bool>> {
        let head = match self.client.head_object().bucket(&self.bucket.name).key(key).send().await {
            Ok(head) => head,
            Err(error) if status(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(GET.error(&self.bucket.uri(key), &error)),
        };
        if let Some(stored) = head.metadata().and_then(|m| m.get(SHA256)) {
            return Ok(Some(*stored == upload.digest.to_hex()));
        }
        // Put there by somebody else's tool: only its bytes tell.
        if head.content_length().and_then(|n| u64::try_from(n).ok()) != Some(upload.size) {
            return Ok(Some(false));
        }
        match self.digest(key).await {
            Ok(digest) => Ok(Some(digest == upload.digest)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn digest(&self, key: &str) -> Result<Digest> {
        let uri = self.bucket.uri(key);
        let got = self.client.get_object().bucket(&self.bucket.name).key(key).send().await;
        let mut body = got.map_err(|e| GET.error(&uri, &e))?.body;
        let mut hash = sha2::Sha256::new();
        while let Some(chunk) = body.next().await {
            hash.update(chunk.map_err(|e| cut(&uri, &e))?);
        }
        Ok(Digest(hash.finalize().into()))
    }

    /// Stores `upload` as `key` if that is free. False if it is taken.
    async fn create(&self, key: &str, upload: &Upload) -> Result<bool> {
        let mut attempt = 0;
        loop {
            let body = ByteStream::from_path(&upload.path)
                .await
                .map_err(|e| Error::new(ErrorKind::Transient, "cannot read the spooled upload").because(e))?;
            let put = self
                .client
                .put_object()
                .bucket(&self.bucket.name)
                .key(key)
                .if_none_match("*")
                .content_type(upload.media_type)
                .metadata(SHA256, upload.digest.to_hex())
                .body(body)
                .send()
                .await;
            let error = match put {
                Ok(_) => return Ok(true),
                Err(error) => error,
            };
            attempt += 1;
            match status(&error) {
                Some(412) => return Ok(false),
                // Another conditional write of this key is under way, and its outcome is open.
                Some(409) if attempt < ATTEMPTS => sleep(backoff(attempt)).await,
                _ => return Err(PUT.error(&self.bucket.uri(key), &error)),
            }
        }
    }

    /// One download. `Err((error, true))` may be tried again.
    async fn download(&self, image: &ImageName, max_bytes: u64) -> Result<StoredImage, (Error, bool)> {
        let key = self.key(image);
        let uri = self.bucket.uri(&key);
        let too_large = |bytes: u64| {
            (
                Error::new(ErrorKind::TooLarge, format!("{uri} has {bytes} bytes, more than the limit of {max_bytes}")),
                false,
            )
        };
        let got = self.client.get_object().bucket(&self.bucket.name).key(&key).send().await;
        let mut got = got.map_err(|e| (GET.error(&uri, &e), false))?;
        let length = got.content_length().and_then(|n| u64::try_from(n).ok());
        if let Some(length) = length.filter(|n| *n > max_bytes) {
            return Err(too_large(length));
        }
        self.tagged().remember(image, got.tag_count().is_some_and(|n| n > 0));
        let mut bytes = Vec::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
        while let Some(chunk) = got.body.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| (cut(&uri, &e), true))?);
            if bytes.len() as u64 > max_bytes {
                return Err(too_large(bytes.len() as u64));
            }
        }
        if length.is_some_and(|n| n != bytes.len() as u64) {
            return Err((cut(&uri, &"the body is shorter than announced"), true));
        }
        Ok(StoredImage { bytes, sequencer: None })
    }

    fn tagged(&self) -> std::sync::MutexGuard<'_, Tagged> {
        self.tagged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Images for S3Images {
    fn location(&self, image: &ImageName) -> String {
        self.bucket.uri(&self.key(image))
    }

    fn image_of(&self, event: &ObjectEvent) -> Option<ImageName> {
        if event.bucket == self.bucket.name { self.image(&event.key) } else { None }
    }

    fn event_for(&self, image: &ImageName) -> ObjectEvent {
        ObjectEvent { bucket: self.bucket.name.clone(), key: self.key(image), sequencer: None, time: None }
    }

    async fn put(&self, upload: &Upload) -> Result<Put> {
        for image in upload.name.candidates(&upload.digest) {
            let key = self.key(&image);
            // An object that stands in the way may be deleted before it is looked at; then its name is free.
            for _ in 0..ATTEMPTS {
                if self.create(&key, upload).await? {
                    return Ok(Put { image, created: true });
                }
                match self.holds(&key, upload).await? {
                    Some(true) => return Ok(Put { image, created: false }),
                    Some(false) => break,
                    None => {}
                }
            }
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!("every name for {:?} is taken by other images; rename the file", upload.name),
        ))
    }

    async fn get(&self, image: &ImageName, max_bytes: u64) -> Result<StoredImage> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.download(image, max_bytes).await {
                Ok(stored) => return Ok(stored),
                Err((error, again)) if !again || attempt == ATTEMPTS => return Err(error),
                Err((error, _)) => {
                    tracing::debug!(%image, attempt, %error, "download cut off, trying again");
                    sleep(backoff(attempt)).await;
                }
            }
        }
    }

    async fn exists(&self, image: &ImageName) -> Result<bool> {
        self.bucket.has(&self.key(image)).await
    }

    async fn list(&self, after: Option<&ImageName>, limit: usize) -> Result<Vec<ImageName>> {
        let mut names = Vec::new();
        let mut start = after.map(|image| self.key(image));
        while names.len() < limit {
            let want = (limit - names.len()).min(MAX_KEYS);
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket.name)
                .prefix(&self.prefix)
                // What is in folders below the prefix has no image name.
                .delimiter("/")
                .set_start_after(start)
                .max_keys(i32::try_from(want).unwrap_or(i32::MAX))
                .send()
                .await
                .map_err(|e| LIST.error(&self.bucket.uri(&self.prefix), &e))?;
            names.extend(page.contents().iter().filter_map(|o| self.image(o.key()?)));
            let last = page.contents().last().and_then(|o| o.key());
            let folder = page.common_prefixes().last().and_then(|p| p.prefix());
            // A folder sorts after its own prefix and before whatever follows its last key: "dir/" + the greatest character.
            start = last.map(str::to_owned).into_iter().chain(folder.map(|f| format!("{f}\u{10ffff}"))).max();
            if !page.is_truncated().unwrap_or(false) || start.is_none() {
                break;
            }
        }
        names.truncate(limit);
        Ok(names)
    }

    async fn set_tags(&self, image: &ImageName, tags: &[(&'static str, String)]) -> Result<()> {
        let has_some = self.tagged().forget(image);
        let key = self.key(image);
        let uri = self.bucket.uri(&key);
        if tags.is_empty() {
            let gone = || Error::new(ErrorKind::NotFound, format!("{uri} is gone"));
            return if self.exists(image).await? { Ok(()) } else { Err(gone()) };
        }
        // The download told whether there are any, which saves a call for the many images without.
        let foreign: Vec<(String, String)> = if has_some == Some(false) {
            Vec::new()
        } else {
            let ours = |k: &str| tags.iter().any(|(key, _)| *key == k);
            self.tags(image).await?.into_iter().filter(|(k, _)| !ours(k)).collect()
        };
        if foreign.len() + tags.len() > MAX_TAGS {
            tracing::warn!(%image, "the object has too many tags of others, so not all of ours fit");
        }
        let room = MAX_TAGS.saturating_sub(foreign.len());
        let ours = tags.iter().take(room).map(|(k, v)| ((*k).to_owned(), v.clone()));
        let set = foreign.into_iter().chain(ours).map(|(k, v)| Tag::builder().key(k).value(v).build());
        let set = set.collect::<Result<Vec<_>, _>>().map_err(|e| internal(&e))?;
        let tagging = Tagging::builder().set_tag_set(Some(set)).build().map_err(|e| internal(&e))?;
        let put = self.client.put_object_tagging().bucket(&self.bucket.name).key(&key).tagging(tagging).send().await;
        put.map(drop).map_err(|e| PUT_TAGS.error(&uri, &e))
    }

    async fn tags(&self, image: &ImageName) -> Result<BTreeMap<String, String>> {
        let key = self.key(image);
        let got = self.client.get_object_tagging().bucket(&self.bucket.name).key(&key).send().await;
        let got = got.map_err(|e| GET_TAGS.error(&self.bucket.uri(&key), &e))?;
        Ok(got.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    async fn delete(&self, image: &ImageName) -> Result<bool> {
        let key = self.key(image);
        let was_there = self.bucket.has(&key).await?;
        self.bucket.delete(&key).await?;
        Ok(was_there)
    }

    async fn put_output(&self, key: &str, body: Vec<u8>) -> Result<()> {
        let put = self
            .client
            .put_object()
            .bucket(&self.outputs.name)
            .key(key)
            .content_type("application/json")
            .body(body.into())
            .send()
            .await;
        put.map(drop).map_err(|e| PUT.error(&self.outputs.uri(key), &e))
    }

    async fn output(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let uri = self.outputs.uri(key);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let got = match self.client.get_object().bucket(&self.outputs.name).key(key).send().await {
                Ok(got) => got,
                Err(error) if status(&error) == Some(404) => return Ok(None),
                Err(error) => return Err(GET.error(&uri, &error)),
            };
            match got.body.collect().await {
                Ok(body) => return Ok(Some(body.to_vec())),
                Err(error) if attempt == ATTEMPTS => return Err(cut(&uri, &error)),
                Err(_) => sleep(backoff(attempt)).await,
            }
        }
    }

    async fn delete_output(&self, key: &str) -> Result<()> {
        self.outputs.delete(key).await
    }
}

/// One bucket, and whether it keeps versions.
#[derive(Debug)]
pub(crate) struct Bucket {
    client: Client,
    pub(crate) name: String,
    versioned: OnceCell<bool>,
}

impl Bucket {
    fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned(), versioned: OnceCell::new() }
    }

    pub(crate) fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    async fn has(&self, key: &str) -> Result<bool> {
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
    async fn delete(&self, key: &str) -> Result<()> {
        if self.is_versioned().await {
            // Versions are listed by prefix, so those of "a.png" come with those of "a.png.bak", and before them.
            let (mut at_key, mut at_version) = (None, None);
            loop {
                let page = self.versions(key, at_key, at_version).await?;
                let more = page.objects.iter().all(|o| o.id.key == key);
                let ours: Vec<_> = page.objects.into_iter().map(|o| o.id).filter(|id| id.key == key).collect();
                self.delete_objects(ours).await?;
                match page.next {
                    Some((k, v)) if more => (at_key, at_version) = (Some(k), v),
                    _ => return Ok(()),
                }
            }
        }
        let deleted = self.client.delete_object().bucket(&self.name).key(key).send().await;
        deleted.map(drop).map_err(|e| DELETE.error(&self.uri(key), &e))
    }

    /// A page of all versions and delete markers below `prefix`.
    pub(crate) async fn versions(&self, prefix: &str, key: Option<String>, version: Option<String>) -> Result<Objects> {
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
        let next = page.next_key_marker().map(|k| (k.to_owned(), page.next_version_id_marker().map(str::to_owned)));
        let next = next.filter(|_| page.is_truncated().unwrap_or(false));
        Ok(Objects { objects: versions.chain(markers).collect(), next })
    }

    /// A page of the objects below `prefix`.
    pub(crate) async fn objects(&self, prefix: &str, token: Option<String>) -> Result<Objects> {
        let page = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix)
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|e| LIST.error(&self.uri(prefix), &e))?;
        let objects = page.contents().iter().filter_map(|o| found(o.key(), None, o.last_modified())).collect();
        Ok(Objects { objects, next: page.next_continuation_token().map(|t| (t.to_owned(), None)) })
    }

    /// Removes objects or versions, any number. Those that are gone already are no error.
    pub(crate) async fn delete_objects(&self, ids: Vec<ObjectIdentifier>) -> Result<()> {
        let versions = ids.iter().any(|id| id.version_id.is_some());
        let call = if versions { DELETE_VERSIONS } else { DELETE };
        let mut left = ids;
        for attempt in 1.. {
            let mut failed = Vec::new();
            for chunk in left.chunks(MAX_KEYS) {
                let (again, error) = self.delete_chunk(chunk, call).await?;
                if let Some(error) = error.filter(|e| attempt == ATTEMPTS || e.kind() == ErrorKind::Refused) {
                    return Err(error);
                }
                failed.extend(again);
            }
            if failed.is_empty() {
                break;
            }
            left = failed;
            sleep(backoff(attempt)).await;
        }
        Ok(())
    }

    /// Answers what was not deleted, and why.
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
    /// Where the next page begins: a token, or a key and a version.
    pub(crate) next: Option<(String, Option<String>)>,
}

/// An object, or a version of one.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: ObjectIdentifier,
    /// By the store's clock, which on AWS has whole seconds.
    pub(crate) modified_ms: i64,
}

fn found(
    key: Option<&str>,
    version: Option<&str>,
    modified: Option<&aws_sdk_s3::primitives::DateTime>,
) -> Option<Found> {
    let id = ObjectIdentifier::builder().key(key?).set_version_id(version.map(str::to_owned)).build().ok()?;
    Some(Found { id, modified_ms: modified.and_then(|t| t.to_millis().ok()).unwrap_or(0) })
}

/// What recent downloads told of tags, so that tagging an image without any takes one call. Bounded; what is forgotten costs a call.
#[derive(Debug, Default)]
struct Tagged {
    images: HashMap<ImageName, bool>,
    order: VecDeque<ImageName>,
}

impl Tagged {
    fn remember(&mut self, image: &ImageName, has_some: bool) {
        if self.images.insert(image.clone(), has_some).is_none() {
            self.order.push_back(image.clone());
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.images.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, image: &ImageName) -> Option<bool> {
        self.images.remove(image)
    }
}

/// Full jitter over 0.1 s, doubled with each attempt.
pub(crate) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt.min(6)).mul_f64(rand::random::<f64>())
}

fn cut(uri: &str, cause: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Transient, format!("cannot read {uri} to its end")).because(cause)
}

fn internal(cause: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, "cannot build the request").because(cause)
}
