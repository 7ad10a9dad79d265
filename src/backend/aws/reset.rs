//! Reset: a marker first, then objects, messages and rows of before it, and all again after one visibility time-out.
//!
//! The marker alone makes the reset: what was asked for at or before it is discarded by writers and hidden from
//! readers, and an image that is gone is discarded by workers. Removing the rest is tidying, in any order, and may be
//! repeated.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_sqs::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef,
};
use parking_lot::Mutex;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::time::{Instant, sleep};

use super::{
    bucket::Bucket, client::Call, images::S3Images, queue::SqsQueue, queue_batch::MAX_BATCH, results::DynamoResults,
};
use crate::{
    backend::{Error, Message, Queue, Receipt, Reset, Result, Tally},
    clock::{Clock, SystemClock},
    contract::Timestamp,
};

/// How long old messages are looked for; what is left is about images that are gone, and workers discard it.
const MESSAGES: Duration = Duration::from_secs(60);

/// How long messages that are found, old or new, are hidden meanwhile.
const HIDE: Duration = Duration::from_secs(30);

/// Newer messages that the search may hold before it hands them back and ends: then there is more new than old.
const MAX_NEWER: usize = 500;

/// A clock that differs less than this from the store's is as good, and finer.
const SKEW: Duration = Duration::from_secs(2);

/// The finest that times are told apart.
const MILLISECOND: Duration = Duration::from_millis(1);

/// Empties bucket, outputs, queue, dead letters and table.
#[derive(Debug, Clone)]
pub(crate) struct AwsReset {
    pub(crate) images: Arc<S3Images>,
    pub(crate) outputs: Arc<Bucket>,
    pub(crate) queue: Arc<SqsQueue>,
    pub(crate) results: Arc<DynamoResults>,
}

#[async_trait]
impl Reset for AwsReset {
    async fn reset(&self, removed: &Tally) -> Result<()> {
        // S3 tells when an object was written in whole seconds, so the line is drawn between two: what is written in
        // this second goes, what is written from the next one on stays.
        let now = self.store_now().await?;
        let line = now.next_second();
        self.results.set_marker(line - MILLISECOND).await?;
        sleep(line.since(now) + Duration::from_millis(50)).await;
        self.sweep(line, removed).await
    }

    async fn settle(&self, removed: &Tally) -> Result<()> {
        // A worker that had not heard of the marker may still write; readers do not see it, and it goes.
        sleep(self.queue.policy().visibility_timeout).await;
        let line = self.results.marker().await?.at + MILLISECOND;
        self.sweep(line, removed).await
    }
}

impl AwsReset {
    /// Removes what is older than `line`.
    async fn sweep(&self, line: Timestamp, removed: &Tally) -> Result<()> {
        let dead = async {
            match &self.queue.dead {
                Some(dead) => self.drop_messages(&dead.url, line, &removed.messages).await,
                None => Ok(()),
            }
        };
        let rows = async {
            let rows = self.results.sweep(line - MILLISECOND).await?;
            removed.results.fetch_add(rows, Ordering::Relaxed);
            Ok::<_, Error>(())
        };
        tokio::try_join!(
            empty(&self.images.bucket, &self.images.prefix, line, &removed.images),
            empty(&self.outputs, "", line, &removed.outputs),
            self.drop_messages(&self.queue.url, line, &removed.messages),
            dead,
            rows,
        )?;
        Ok(())
    }

    /// Receives and deletes the messages that were sent before the line; newer ones are handed back.
    async fn drop_messages(&self, url: &str, line: Timestamp, removed: &AtomicU64) -> Result<()> {
        let end = Instant::now() + MESSAGES;
        let (mut empty, mut newer) = (0, Vec::<Message>::new());
        while empty < 2 && newer.len() < MAX_NEWER && Instant::now() < end {
            let got = self.queue.receive_from(url, MAX_BATCH, Duration::from_secs(1), Some(HIDE)).await?;
            empty = if got.is_empty() { empty + 1 } else { 0 };
            let (old, new): (Vec<_>, Vec<_>) = got.into_iter().partition(|m| m.sent_at < line);
            newer.extend(new);
            let old: Vec<Receipt> = old.into_iter().map(|m| m.receipt).collect();
            let failed = self.queue.delete_from(url, &old).await?;
            removed.fetch_add((old.len() - failed.len()) as u64, Ordering::Relaxed);
        }
        self.queue.hand_back(url, &newer).await
    }

    /// The time by the queue's clock, with which the ages of messages are told. Services tell theirs in whole seconds,
    /// so a clock that agrees with it is taken instead.
    async fn store_now(&self) -> Result<Timestamp> {
        let date = DateHeader::default();
        let url = &self.queue.url;
        let asked =
            self.queue.client.get_queue_attributes().queue_url(url).customize().interceptor(date.clone()).send();
        asked.await.map_err(|e| Call::new("ask for the time", "sqs:GetQueueAttributes").error(url, &e))?;
        let now = SystemClock.now();
        let date = *date.0.lock();
        Ok(date.filter(|date| date.abs_diff(now) > SKEW).unwrap_or(now))
    }
}

/// Removes what was last written before the line, and counts the objects; their versions do not count.
async fn empty(bucket: &Bucket, prefix: &str, line: Timestamp, removed: &AtomicU64) -> Result<()> {
    let mut keys = HashSet::new();
    let mut next = None;
    loop {
        let page = bucket.list(prefix, next).await?;
        let old: Vec<_> = page.objects.into_iter().filter(|o| o.modified < line).map(|o| o.id).collect();
        let here: HashSet<String> = old.iter().map(|id| id.key.clone()).collect();
        bucket.delete_objects(old).await?;
        // Versions are listed in the order of their keys, so only the last one may come again.
        removed.fetch_add(here.difference(&keys).count() as u64, Ordering::Relaxed);
        keys = here;
        next = page.next;
        if next.is_none() {
            return Ok(());
        }
    }
}

/// Remembers the `Date` header of an answer.
#[derive(Debug, Clone, Default)]
struct DateHeader(Arc<Mutex<Option<Timestamp>>>);

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
        *self.0.lock() = date;
        Ok(())
    }
}

/// Reads an HTTP date.
fn parse_date(date: &str) -> Option<Timestamp> {
    Some(Timestamp::from_millis(OffsetDateTime::parse(date, &Rfc2822).ok()?.unix_timestamp() * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp::from_millis(784_111_777_000)));
        assert_eq!(parse_date("today"), None);
    }
}
