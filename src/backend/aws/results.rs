//! Results, heartbeats and the scaler's memory on DynamoDB.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, KeysAndAttributes, ReturnValue},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    client::Call,
    images::backoff,
    row::{
        self, ASKED_AT, HEARTBEATS, Item, LAYOUT, SEQUENCER, SHARD, SHARDS, SORT_KEY, SYSTEM, key, n, number, s, text,
    },
};
use crate::{
    backend::{Error, ErrorKind, Heartbeat, Page, PageQuery, Result, Results, Totals, Versioned, Written},
    clock::{Clock, SystemClock},
    contract::{Classification, ImageName},
};

/// DynamoDB's limit of keys in one `BatchGetItem`.
const MAX_GET: usize = 100;

/// Batches that are read at a time.
const CONCURRENT_GETS: usize = 4;

/// Tries of what a batch left undone.
const ATTEMPTS: u32 = 6;

/// How long a read reset marker is believed. Rows that a writer lets through meanwhile are hidden by readers, and swept.
const MARKER_AGE: Duration = Duration::from_secs(3);

/// The sort keys in the system partition.
pub(super) const META: &str = "meta";
const RESET: &str = "reset";
const SCALER: &str = "scaler";

const GET: Call = Call::new("read from", "dynamodb:GetItem");
const BATCH_GET: Call = Call::new("read from", "dynamodb:BatchGetItem");
const UPDATE: Call = Call::new("write to", "dynamodb:UpdateItem");
pub(super) const QUERY: Call = Call::new("query", "dynamodb:Query");
const DELETE: Call = Call::new("delete from", "dynamodb:DeleteItem");

/// The last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marker {
    /// What was asked for at or before it is no more; milliseconds since 1970.
    pub(super) at_ms: i64,
    /// What the heartbeats had counted by then.
    done: u64,
    failed: u64,
}

/// One table; `row.rs` tells its layout.
#[derive(Debug)]
pub(crate) struct DynamoResults {
    pub(super) client: Client,
    pub(super) table: String,
    marker: Mutex<Option<(Instant, Marker)>>,
}

impl DynamoResults {
    /// Opens the table and checks its layout; a new table is marked with ours.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if there is no such table, or another version of the program laid it out.
    pub(crate) async fn open(client: Client, table: &str) -> Result<Self> {
        let this = Self { client, table: table.to_owned(), marker: Mutex::default() };
        let meta = match this.system(META).await? {
            Some(meta) => meta,
            None => this.write_meta().await?,
        };
        let (layout, shards) = (number::<u32>(&meta, "Layout"), number::<u8>(&meta, "Shards"));
        if (layout, shards) == (Some(LAYOUT), Some(SHARDS)) {
            return Ok(this);
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "table {table} has layout {} with {} shards, this program wants layout {LAYOUT} with {SHARDS}; \
                 use the program that made it, or another table",
                layout.map_or_else(|| "?".to_owned(), |l| l.to_string()),
                shards.map_or_else(|| "?".to_owned(), |l| l.to_string()),
            ),
        ))
    }

    /// Marks the table with this layout, unless somebody else just did, and answers what is there.
    async fn write_meta(&self) -> Result<Item> {
        let written = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(SYSTEM, META)))
            .update_expression("SET #l = if_not_exists(#l, :l), #s = if_not_exists(#s, :s)")
            .expression_attribute_names("#l", "Layout")
            .expression_attribute_names("#s", "Shards")
            .expression_attribute_values(":l", n(LAYOUT))
            .expression_attribute_values(":s", n(SHARDS))
            .return_values(ReturnValue::AllNew)
            .send()
            .await;
        Ok(written.map_err(|e| UPDATE.error(&self.table, &e))?.attributes.unwrap_or_default())
    }

    async fn system(&self, sort: &str) -> Result<Option<Item>> {
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(SYSTEM, sort)))
            .consistent_read(true)
            .send()
            .await;
        Ok(got.map_err(|e| GET.error(&self.table, &e))?.item)
    }

    /// The last reset, at most [`MARKER_AGE`] late.
    pub(super) async fn marker(&self) -> Result<Marker> {
        // Held while reading, so that one of many concurrent callers asks.
        let mut cached = self.marker.lock().await;
        if let Some((at, marker)) = *cached
            && at.elapsed() < MARKER_AGE
        {
            return Ok(marker);
        }
        let item = self.system(RESET).await?.unwrap_or_default();
        let marker = Marker {
            at_ms: number(&item, "At").unwrap_or(i64::MIN),
            done: number(&item, "Done").unwrap_or(0),
            failed: number(&item, "Failed").unwrap_or(0),
        };
        *cached = Some((Instant::now(), marker));
        Ok(marker)
    }

    /// Sets the marker, unless a later one is there.
    pub(super) async fn set_marker(&self, at_ms: i64) -> Result<()> {
        let (done, failed) = sum(&self.heartbeats().await?);
        let set = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(SYSTEM, RESET)))
            .update_expression("SET #at = :at, #done = :done, #failed = :failed")
            .condition_expression("attribute_not_exists(#at) OR #at < :at")
            .expression_attribute_names("#at", "At")
            .expression_attribute_names("#done", "Done")
            .expression_attribute_names("#failed", "Failed")
            .expression_attribute_values(":at", n(at_ms))
            .expression_attribute_values(":done", n(done))
            .expression_attribute_values(":failed", n(failed))
            .send()
            .await;
        *self.marker.lock().await = None;
        match set {
            Err(e) if e.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => Ok(()),
            other => other.map(drop).map_err(|e| UPDATE.error(&self.table, &e)),
        }
    }

    /// Reads up to 100 rows.
    async fn get_batch(&self, images: &[ImageName]) -> Result<Vec<Item>> {
        assert!(images.len() <= MAX_GET, "BatchGetItem takes 100 keys");
        let keys: Vec<Item> = images.iter().map(row::row_key).collect();
        let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
        let wanted = wanted.map_err(|e| Error::new(ErrorKind::Refused, "cannot build the request").because(e))?;
        let mut left = HashMap::from([(self.table.clone(), wanted)]);
        let mut items = Vec::new();
        for attempt in 1..=ATTEMPTS {
            let got = self.client.batch_get_item().set_request_items(Some(left)).send().await;
            let got = got.map_err(|e| BATCH_GET.error(&self.table, &e))?;
            items.extend(got.responses.unwrap_or_default().into_values().flatten());
            left = got.unprocessed_keys.unwrap_or_default();
            if left.is_empty() {
                return Ok(items);
            }
            sleep(backoff(attempt)).await;
        }
        Err(Error::new(ErrorKind::Transient, format!("{} answers too slowly: keys stay unprocessed", self.table)))
    }

    /// All items of a partition, page by page.
    async fn partition(&self, shard: i32) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("#shard = :shard")
                .expression_attribute_names("#shard", SHARD)
                .expression_attribute_values(":shard", n(shard))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|e| QUERY.error(&self.table, &e))?;
            items.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    /// Removes the rows that were asked for at or before the marker. Answers how many.
    pub(super) async fn sweep(&self, marker_ms: i64) -> Result<u64> {
        let shards: Vec<_> = (0..i32::from(SHARDS)).map(|shard| self.sweep_shard(shard, marker_ms)).collect();
        stream::iter(shards)
            .buffer_unordered(usize::from(SHARDS))
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await
    }

    async fn sweep_shard(&self, shard: i32, marker_ms: i64) -> Result<u64> {
        let mut count = 0;
        let mut start = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("#shard = :shard")
                .filter_expression("#asked <= :marker")
                .projection_expression("#shard, #sort")
                .expression_attribute_names("#shard", SHARD)
                .expression_attribute_names("#sort", SORT_KEY)
                .expression_attribute_names("#asked", ASKED_AT)
                .expression_attribute_values(":shard", n(shard))
                .expression_attribute_values(":marker", n(marker_ms))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|e| QUERY.error(&self.table, &e))?;
            let deletes: Vec<_> =
                page.items.unwrap_or_default().into_iter().map(|key| self.delete_if_old(key, marker_ms)).collect();
            count += stream::iter(deletes)
                .buffer_unordered(16)
                .try_fold(0, |sum, gone| async move { Ok(sum + u64::from(gone)) })
                .await?;
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(count);
            }
        }
    }

    /// Not a batch: a row that was written anew meanwhile stays.
    async fn delete_if_old(&self, key: Item, marker_ms: i64) -> Result<bool> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .condition_expression("#asked <= :marker")
            .expression_attribute_names("#asked", ASKED_AT)
            .expression_attribute_values(":marker", n(marker_ms))
            .send()
            .await;
        match deleted {
            Ok(_) => Ok(true),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => Ok(false),
            Err(e) => Err(DELETE.error(&self.table, &e)),
        }
    }
}

#[async_trait]
impl Results for DynamoResults {
    async fn put(&self, result: &Classification) -> Result<Written> {
        let marker = self.marker().await?;
        if result.asked_at_ms <= marker.at_ms {
            return Ok(Written::Gone);
        }
        let (set, remove) = row::attributes(result)?;
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(row::row_key(&result.image)))
            .return_values(ReturnValue::AllOld);
        // Names are aliased: the list of reserved words is long.
        for name in set.iter().map(|(name, _)| name).chain(&remove) {
            update = update.expression_attribute_names(format!("#{name}"), *name);
        }
        let assignments: Vec<String> = set.iter().map(|(name, _)| format!("#{name} = :{name}")).collect();
        let removals: Vec<String> = remove.iter().map(|name| format!("#{name}")).collect();
        for (name, value) in set {
            update = update.expression_attribute_values(format!(":{name}"), value);
        }
        if result.sequencer.is_some() {
            update = update
                .condition_expression(format!("attribute_not_exists(#{SEQUENCER}) OR #{SEQUENCER} <= :{SEQUENCER}"));
        }
        let expression = format!("SET {} REMOVE {}", assignments.join(", "), removals.join(", "));
        match update.update_expression(expression).send().await {
            Ok(updated) => {
                let previous = updated.attributes.as_ref().filter(|old| is_visible(old, marker));
                Ok(Written::Stored {
                    previous: previous.and_then(|old| text(old, row::CLASSIFICATION)).map(str::to_owned),
                })
            }
            Err(e) if e.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => {
                Ok(Written::Stale)
            }
            Err(e) => Err(UPDATE.error(&self.table, &e)),
        }
    }

    async fn get(&self, images: &[ImageName]) -> Result<Vec<Classification>> {
        let marker = self.marker().await?;
        // A key that is named twice is refused.
        let mut seen = HashSet::new();
        let unique: Vec<ImageName> = images.iter().filter(|image| seen.insert(*image)).cloned().collect();
        let batches: Vec<_> = unique.chunks(MAX_GET).map(|chunk| self.get_batch(chunk)).collect();
        let items: Vec<Vec<Item>> = stream::iter(batches).buffer_unordered(CONCURRENT_GETS).try_collect().await?;
        Ok(items.iter().flatten().filter(|item| is_visible(item, marker)).filter_map(row::row).collect())
    }

    async fn page(&self, query: &PageQuery) -> Result<Page> {
        self.read_page(query).await
    }

    async fn delete(&self, image: &ImageName) -> Result<Option<Classification>> {
        let marker = self.marker().await?;
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(row::row_key(image)))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let old = deleted.map_err(|e| DELETE.error(&self.table, &e))?.attributes;
        Ok(old.filter(|item| is_visible(item, marker)).as_ref().and_then(row::row))
    }

    async fn totals(&self) -> Result<Totals> {
        let marker = self.marker().await?;
        let (done, failed) = sum(&self.heartbeats().await?);
        let done = done.saturating_sub(marker.done);
        let failed = failed.saturating_sub(marker.failed);
        Ok(Totals { total: done + failed, failed, exact: false })
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()> {
        let heartbeat = Heartbeat { seen_at_ms: SystemClock.now_ms(), ..heartbeat.clone() };
        let json = serde_json::to_string(&heartbeat)
            .map_err(|e| Error::new(ErrorKind::Refused, "cannot write a heartbeat").because(e))?;
        let mut item = key(HEARTBEATS, &heartbeat.worker);
        item.insert("Heartbeat".to_owned(), s(json));
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await;
        put.map(drop).map_err(|e| Call::new("write to", "dynamodb:PutItem").error(&self.table, &e))
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        let items = self.partition(HEARTBEATS).await?;
        let beats = items.iter().filter_map(|item| {
            let read = serde_json::from_str(text(item, "Heartbeat")?);
            read.inspect_err(|error| tracing::warn!(%error, "a heartbeat is not understood, skipping it")).ok()
        });
        Ok(beats.collect())
    }

    async fn scaler(&self) -> Result<Option<Versioned>> {
        let item = self.system(SCALER).await?;
        Ok(item.and_then(|item| {
            Some(Versioned { value: text(&item, "Value")?.to_owned(), version: number(&item, "Version")? })
        }))
    }

    async fn swap_scaler(&self, expected: Option<u64>, value: &str) -> Result<bool> {
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(SYSTEM, SCALER)))
            .update_expression("SET #value = :value, #version = :next")
            .expression_attribute_names("#value", "Value")
            .expression_attribute_names("#version", "Version")
            .expression_attribute_values(":value", s(value))
            .expression_attribute_values(":next", n(expected.unwrap_or(0) + 1));
        update = match expected {
            None => update.condition_expression("attribute_not_exists(#version)"),
            Some(version) => {
                update.condition_expression("#version = :expected").expression_attribute_values(":expected", n(version))
            }
        };
        match update.send().await {
            Ok(_) => Ok(true),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => Ok(false),
            Err(e) => Err(UPDATE.error(&self.table, &e)),
        }
    }
}

/// Whether an item was asked for after the last reset.
pub(super) fn is_visible(item: &HashMap<String, AttributeValue>, marker: Marker) -> bool {
    number::<i64>(item, ASKED_AT).is_some_and(|asked| asked > marker.at_ms)
}

fn sum(heartbeats: &[Heartbeat]) -> (u64, u64) {
    heartbeats.iter().fold((0, 0), |(done, failed), beat| (done + beat.done, failed + beat.failed))
}
