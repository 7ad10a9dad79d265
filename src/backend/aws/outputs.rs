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

    async fn delete(&self, key: &str) -> Result<()> {
        Self::delete(self, key).await
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
