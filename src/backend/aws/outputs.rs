//! The output objects: a bucket of their own.

use async_trait::async_trait;

use super::bucket::{Bucket, PUT};
use crate::backend::{ErrorKind, Outputs, Result, Retry};

#[async_trait]
impl Outputs for Bucket {
    async fn put(&self, key: &str, body: Vec<u8>) -> Result<()> {
        let put =
            self.client.put_object().bucket(&self.name).key(key).content_type("application/json").body(body.into());
        put.send().await.map(drop).map_err(|e| PUT.error(&self.uri(key), &e))
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut attempts = Retry::CALL.start();
        loop {
            let got = match Self::get(self, key).await {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            match self.read(key, got, u64::MAX).await {
                Ok(body) => return Ok(Some(body)),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        if let [key] = keys {
            return Self::delete(self, key).await;
        }
        // Of many keys few are there, and a deletion of one that is not leaves a mark where the bucket keeps versions.
        let (prefix, mut next) = (common_prefix(keys), None);
        loop {
            let page = self.list(prefix, next).await?;
            let ours: Vec<_> = page.objects.into_iter().map(|o| o.id).filter(|id| keys.contains(&id.key)).collect();
            if !ours.is_empty() {
                self.delete_objects(ours).await?;
            }
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    async fn delete_own(&self, key: &str, body: &[u8]) -> Result<()> {
        // Few stores that speak S3 delete on a condition. What is written between the two calls is put right by its
        // writer, which finds the row changed.
        if Outputs::get(self, key).await?.is_some_and(|stored| stored == body) {
            Self::delete(self, key).await?;
        }
        Ok(())
    }
}

/// What all keys begin with.
fn common_prefix(keys: &[String]) -> &str {
    let Some((first, others)) = keys.split_first() else { return "" };
    others.iter().fold(first, |prefix, key| {
        let differ = prefix.char_indices().zip(key.chars()).find(|((_, a), b)| a != b);
        let end = differ.map_or(prefix.len().min(key.len()), |((at, _), _)| at);
        &prefix[..end]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_beginning_in_common() {
        for (keys, prefix) in [
            (vec![], ""),
            (vec!["a.png_cat"], "a.png_cat"),
            (vec!["a.png_cat", "a.png_cow", "a.png_c"], "a.png_c"),
            (vec!["ä_é", "ä_è"], "ä_"),
            (vec!["a", "b"], ""),
        ] {
            let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
            assert_eq!(common_prefix(&keys), prefix, "{keys:?}");
        }
    }
}
