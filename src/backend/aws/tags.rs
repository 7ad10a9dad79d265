//! Tags of images on S3.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_s3::types::{self, Tagging};

use super::{
    client::{Call, internal},
    images::S3Images,
};
use crate::{
    backend::{Error, ErrorKind, Result, Tags},
    contract::{ImageName, tags::Tag},
};

/// S3's limit of tags on one object.
const MAX_TAGS: usize = 10;

const GET_TAGS: Call = Call::new("read the tags of", "s3:GetObjectTagging");
const PUT_TAGS: Call = Call::new("tag", "s3:PutObjectTagging");

#[async_trait]
impl Tags for S3Images {
    async fn set(&self, image: &ImageName, tags: &[Tag]) -> Result<BTreeMap<String, String>> {
        // The download told whether there are any, which saves a call for the many images without.
        let is_known_bare = self.tagged.lock().forget(image) == Some(false);
        let key = self.key(image);
        let uri = self.bucket.uri(&key);
        let ours: Vec<(&str, &String)> = tags.iter().filter_map(|(k, value)| Some((*k, value.as_ref()?))).collect();
        if is_known_bare && ours.is_empty() {
            let gone = || Error::new(ErrorKind::NotFound, format!("{uri} is gone"));
            return if self.bucket.has(&key).await? { Ok(BTreeMap::new()) } else { Err(gone()) };
        }
        let before = if is_known_bare { BTreeMap::new() } else { Tags::get(self, image).await? };
        let is_foreign = |k: &String| !tags.iter().any(|(key, _)| key == k);
        let foreign: Vec<_> = before.iter().filter(|(k, _)| is_foreign(k)).collect();
        if ours.is_empty() && foreign.len() == before.len() {
            return Ok(before);
        }
        let room = MAX_TAGS.saturating_sub(foreign.len());
        if ours.len() > room {
            tracing::warn!(%image, "the object has too many tags of others, so not all of ours fit");
        }
        let foreign = foreign.into_iter().map(|(k, v)| (k.as_str(), v));
        let set =
            foreign.chain(ours.into_iter().take(room)).map(|(k, v)| types::Tag::builder().key(k).value(v).build());
        let set = set.collect::<Result<Vec<_>, _>>().map_err(|e| internal(&e))?;
        let tagging = Tagging::builder().set_tag_set(Some(set)).build().map_err(|e| internal(&e))?;
        let put = self.bucket.client.put_object_tagging().bucket(&self.bucket.name).key(&key).tagging(tagging);
        put.send().await.map_err(|e| PUT_TAGS.error(&uri, &e))?;
        Ok(before)
    }

    async fn get(&self, image: &ImageName) -> Result<BTreeMap<String, String>> {
        let key = self.key(image);
        let got = self.bucket.client.get_object_tagging().bucket(&self.bucket.name).key(&key).send().await;
        let got = got.map_err(|e| GET_TAGS.error(&self.bucket.uri(&key), &e))?;
        Ok(got.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }
}
