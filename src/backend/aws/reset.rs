//! Reset: a marker first, then objects, messages and rows of before it, and all again after one visibility time-out.
//!
//! The marker alone makes the reset: what was asked for at or before it is discarded by writers and hidden from readers, and an image
//! that is gone is discarded by workers. Removing the rest is tidying, in any order, and may be repeated.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_sqs::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef,
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::time::{Instant, sleep};

use super::{
    client::Call,
    images::{Bucket, S3Images},
    queue::{MAX_BATCH, SqsQueue},
    results::DynamoResults,
};
use crate::{
    backend::{Queue, Receipt, Reset, ResetReport, Result},
    clock::{Clock, SystemClock},
};

/// How long old messages are looked for; what is left is about images that are gone, and workers discard it.
const MESSAGES: Duration = Duration::from_secs(60);

/// How long messages that are found, old or new, are hidden meanwhile.
const HIDE: Duration = Duration::from_secs(30);

/// Newer messages that the search may hold before it hands them back and ends: then there is more new than old.
const MAX_NEWER: usize = 500;

/// A clock that differs less than this from the store's is as good, and finer.
const SKEW: Duration = Duration::from_secs(2);

/// Empties bucket, outputs, queue, dead letters and table.
#[derive(Debug, Clone)]
pub(crate) struct AwsReset {
    pub(crate) images: Arc<S3Images>,
    pub(crate) queue: Arc<SqsQueue>,
    pub(crate) results: Arc<DynamoResults>,
}

#[async_trait]
impl Reset for AwsReset {
    async fn reset(&self) -> Result<ResetReport> {
        // S3 tells when an object was written in whole seconds, so the line is drawn between two: what is written in this second
        // goes, what is written from the next one on stays.
        let now_ms = self.store_now_ms().await?;
        let line_ms = (now_ms / 1000 + 1) * 1000;
        self.results.set_marker(line_ms - 1).await?;
        sleep(Duration::from_millis(u64::try_from(line_ms - now_ms).unwrap_or(0) + 50)).await;
        let report = self.sweep(line_ms).await?;
        // A worker that had not heard of the marker may still have written; readers do not see it, and it goes.
        let (again, wait) = (self.clone(), self.queue.visibility_timeout());
        tokio::spawn(async move {
            sleep(wait).await;
            match again.sweep(line_ms).await {
                Ok(report) => tracing::info!(?report, "second sweep of the reset is done"),
                Err(error) => tracing::warn!(%error, "the second sweep of the reset failed; what it left is hidden"),
            }
        });
        Ok(report)
    }
}

impl AwsReset {
    /// Removes what is older than `line_ms`.
    async fn sweep(&self, line_ms: i64) -> Result<ResetReport> {
        let (bucket, prefix) = self.images.inputs();
        let (images, outputs, messages, dead, results) = tokio::try_join!(
            empty(bucket, prefix, line_ms),
            empty(self.images.outputs(), "", line_ms),
            self.drop_messages(&self.queue.url, line_ms),
            async {
                match &self.queue.dead {
                    Some(dead) => self.drop_messages(&dead.url, line_ms).await,
                    None => Ok(0),
                }
            },
            self.results.sweep(line_ms - 1),
        )?;
        Ok(ResetReport { images, outputs, messages: messages + dead, results })
    }

    /// Receives and deletes the messages that were sent before the line; newer ones are handed back.
    async fn drop_messages(&self, url: &str, line_ms: i64) -> Result<u64> {
        let end = Instant::now() + MESSAGES;
        let (mut count, mut empty, mut newer) = (0, 0, Vec::new());
        while empty < 2 && newer.len() < MAX_NEWER && Instant::now() < end {
            let got = self.queue.receive_from(url, MAX_BATCH, Duration::from_secs(1), Some(HIDE)).await?;
            empty = if got.is_empty() { empty + 1 } else { 0 };
            let (old, new): (Vec<_>, Vec<_>) = got.into_iter().partition(|m| m.sent_at_ms < line_ms);
            newer.extend(new.into_iter().map(|m| m.receipt));
            let old: Vec<Receipt> = old.into_iter().map(|m| m.receipt).collect();
            count += (old.len() - self.queue.delete_from(url, &old).await?.len()) as u64;
        }
        self.queue.hand_back(url, &newer).await?;
        Ok(count)
    }

    /// The time by the queue's clock, with which the ages of messages are told. Services tell theirs in whole seconds, so a clock that
    /// agrees with it is taken instead.
    async fn store_now_ms(&self) -> Result<i64> {
        let date = DateHeader::default();
        let url = &self.queue.url;
        let asked =
            self.queue.client.get_queue_attributes().queue_url(url).customize().interceptor(date.clone()).send();
        asked.await.map_err(|e| Call::new("ask for the time", "sqs:GetQueueAttributes").error(url, &e))?;
        let now_ms = SystemClock.now_ms();
        let told = *date.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(told.filter(|told| told.abs_diff(now_ms) > SKEW.as_millis() as u64).unwrap_or(now_ms))
    }
}

/// Removes what was last written before the line. Answers how many objects; their versions do not count.
async fn empty(bucket: &Bucket, prefix: &str, line_ms: i64) -> Result<u64> {
    let versioned = bucket.is_versioned().await;
    let mut keys = HashSet::new();
    let mut next: Option<(String, Option<String>)> = None;
    loop {
        let page = match (versioned, next) {
            (true, Some((key, version))) => bucket.versions(prefix, Some(key), version).await?,
            (true, None) => bucket.versions(prefix, None, None).await?,
            (false, next) => bucket.objects(prefix, next.map(|(token, _)| token)).await?,
        };
        let old: Vec<_> = page.objects.into_iter().filter(|o| o.modified_ms < line_ms).map(|o| o.id).collect();
        keys.extend(old.iter().map(|id| id.key.clone()));
        bucket.delete_objects(old).await?;
        next = page.next;
        if next.is_none() {
            return Ok(keys.len() as u64);
        }
    }
}

/// Remembers the `Date` header of an answer, milliseconds since 1970.
#[derive(Debug, Clone, Default)]
struct DateHeader(Arc<Mutex<Option<i64>>>);

impl Intercept for DateHeader {
    fn name(&self) -> &'static str {
        "DateHeader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_sqs::error::BoxError> {
        let date = context.response().headers().get("date").and_then(parse_date);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

/// An HTTP date in milliseconds since 1970.
fn parse_date(date: &str) -> Option<i64> {
    Some(OffsetDateTime::parse(date, &Rfc2822).ok()?.unix_timestamp() * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(parse_date("today"), None);
    }
}
