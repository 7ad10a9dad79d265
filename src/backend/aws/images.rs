//! Images on S3.

use async_trait::async_trait;
use aws_sdk_s3::{Client, primitives::ByteStream};
use parking_lot::Mutex;
use sha2::Digest as _;

use super::{
    bucket::{Bucket, GET, LIST, MAX_KEYS, PUT, cut},
    client::status,
    tagged::Tagged,
};
use crate::{
    backend::{Error, ErrorKind, Images, Put, Result, Retry, StoredImage, Upload, UploadBytes},
    contract::{Digest, ImageName, ObjectEvent},
};

/// The metadata key under which an upload's SHA-256 is kept, as hex. S3's own checksums do not serve: the default is a
/// CRC, and stores that speak S3 know few others.
const SHA256: &str = "sha256";

/// Tries to take a name whose object vanishes whenever it is looked at.
const ATTEMPTS: u32 = 4;

/// Images in one bucket under one prefix.
#[derive(Debug)]
pub(crate) struct S3Images {
    pub(super) bucket: Bucket,
    pub(super) prefix: String,
    pub(super) tagged: Mutex<Tagged>,
}

impl S3Images {
    pub(crate) fn new(client: Client, bucket: &str, prefix: &str) -> Self {
        Self { bucket: Bucket::new(client, bucket), prefix: prefix.to_owned(), tagged: Mutex::default() }
    }

    pub(super) fn key(&self, image: &ImageName) -> String {
        format!("{}{image}", self.prefix)
    }

    /// The image that is stored as `key`, if it is one.
    pub(super) fn image(&self, key: &str) -> Option<ImageName> {
        key.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Whether the object holds the bytes of `upload`; `None` if there is no object.
    async fn holds(&self, key: &str, upload: &Upload) -> Result<Option<bool>> {
        let head = match self.bucket.client.head_object().bucket(&self.bucket.name).key(key).send().await {
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
        let mut body = self.bucket.get(key).await?.body;
        let mut hash = sha2::Sha256::new();
        while let Some(chunk) = body.next().await {
            hash.update(chunk.map_err(|e| cut(&uri, &e))?);
        }
        Ok(Digest(hash.finalize().into()))
    }

    /// Stores `upload` as `key` if that is free. False if it is taken.
    async fn create(&self, key: &str, upload: &Upload) -> Result<bool> {
        let mut attempts = Retry::CALL.start();
        loop {
            let body = match &upload.bytes {
                UploadBytes::Memory(bytes) => ByteStream::from(bytes.clone()),
                UploadBytes::File(path) => ByteStream::from_path(path)
                    .await
                    .map_err(|e| Error::new(ErrorKind::Transient, "cannot read the spooled upload").because(e))?,
            };
            let put = self
                .bucket
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
            let Err(error) = put else { return Ok(true) };
            let status = status(&error);
            if status == Some(412) {
                return Ok(false);
            }
            let error = PUT.error(&self.bucket.uri(key), &error);
            if status != Some(409) {
                return Err(error);
            }
            // Another conditional write of this key is under way, and its outcome is open.
            attempts.again(error).await?;
        }
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
        let key = self.key(image);
        let mut attempts = Retry::CALL.start();
        loop {
            let got = self.bucket.get(&key).await?;
            let has_tags = got.tag_count().is_some_and(|n| n > 0);
            match self.bucket.read(&key, got, max_bytes).await {
                Ok(bytes) => {
                    self.tagged.lock().remember(image, has_tags);
                    return Ok(StoredImage { bytes, sequencer: None });
                }
                Err(error) => attempts.again(error).await?,
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
                .bucket
                .client
                .list_objects_v2()
                .bucket(&self.bucket.name)
                .prefix(&self.prefix)
                .set_start_after(start)
                .max_keys(i32::try_from(want).unwrap_or(i32::MAX))
                .send()
                .await
                .map_err(|e| LIST.error(&self.bucket.uri(&self.prefix), &e))?;
            names.extend(page.contents().iter().filter_map(|o| self.image(o.key()?)));
            start = page.contents().last().and_then(|o| o.key()).map(str::to_owned);
            if !page.is_truncated().unwrap_or(false) || start.is_none() {
                break;
            }
        }
        names.truncate(limit);
        Ok(names)
    }

    async fn delete(&self, image: &ImageName) -> Result<bool> {
        let key = self.key(image);
        let was_there = self.bucket.has(&key).await?;
        self.bucket.delete(&key).await?;
        Ok(was_there)
    }
}
