//! Results on DynamoDB.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::Mutex, time::Instant};

use super::{
    client::{Call, internal},
    images::S3Images,
    marker::{Marker, is_visible, sum},
    row::{
        self, ASKED_AT, CLASSIFICATION, DELETED_AT, Item, LAYOUT, SEQUENCER, SHARD, SHARDS, SYSTEM, key, n, number, s,
        text,
    },
};
use crate::{
    backend::{
        Counts, Error, ErrorKind, Filter, Heartbeat, Images, Page, PageQuery, Removed, Result, Results, Retry, Search,
        Totals, Written,
    },
    clock::{Clock, SystemClock},
    contract::{Classification, ImageName, Timestamp},
};

/// DynamoDB's limit of keys in one `BatchGetItem`.
const MAX_GET: usize = 100;

/// Batches that are read at a time.
const CONCURRENT_GETS: usize = 4;

/// How long a read reset marker is believed. Rows that a writer lets through meanwhile are hidden by readers, and
/// swept.
const MARKER_AGE: Duration = Duration::from_secs(3);

/// The sort keys in the system partition.
pub(super) const META: &str = "meta";
pub(super) const RESET: &str = "reset";

pub(super) const GET: Call = Call::new("read from", "dynamodb:GetItem");
const BATCH_GET: Call = Call::new("read from", "dynamodb:BatchGetItem");
pub(super) const UPDATE: Call = Call::new("write to", "dynamodb:UpdateItem");
pub(super) const QUERY: Call = Call::new("query", "dynamodb:Query");
pub(super) const DELETE: Call = Call::new("delete from", "dynamodb:DeleteItem");

/// One table; `row.rs` tells its layout.
#[derive(Debug)]
pub(crate) struct DynamoResults {
    pub(super) client: Client,
    pub(super) table: String,
    /// Tells whether an image that was removed is there again, and which folders there are.
    pub(super) images: Arc<S3Images>,
    pub(super) marker: Mutex<Option<(Instant, Marker)>>,
    /// Whether this handle has looked for heartbeats that are too many.
    pub(super) folded: AtomicBool,
}

impl DynamoResults {
    /// Opens the table and checks its layout; a new table is marked with ours.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if there is no such table, or another version of the program laid it out.
    pub(crate) async fn open(client: Client, table: &str, images: Arc<S3Images>) -> Result<Self> {
        let this =
            Self { client, table: table.to_owned(), images, marker: Mutex::default(), folded: AtomicBool::new(false) };
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

    /// Marks the table with this layout, unless somebody else just did, and returns what is there.
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

    /// An item of the system partition.
    pub(super) async fn system(&self, sort: &str) -> Result<Option<Item>> {
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
        let marker = Marker::read(&item);
        *cached = Some((Instant::now(), marker));
        Ok(marker)
    }

    /// Reads up to 100 rows.
    async fn get_batch(&self, images: &[ImageName]) -> Result<Vec<Item>> {
        assert!(images.len() <= MAX_GET, "BatchGetItem takes 100 keys");
        let keys: Vec<Item> = images.iter().map(row::row_key).collect();
        let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
        let wanted = wanted.map_err(|e| internal(&e))?;
        let mut left = HashMap::from([(self.table.clone(), wanted)]);
        let (mut items, mut attempts) = (Vec::new(), Retry::times(6).start());
        loop {
            let got = self.client.batch_get_item().set_request_items(Some(left)).send().await;
            let got = got.map_err(|e| BATCH_GET.error(&self.table, &e))?;
            items.extend(got.responses.unwrap_or_default().into_values().flatten());
            left = got.unprocessed_keys.unwrap_or_default();
            if left.is_empty() {
                return Ok(items);
            }
            let message = format!("{} answers too slowly: keys stay unprocessed", self.table);
            attempts.again(Error::new(ErrorKind::Transient, message)).await?;
        }
    }

    /// All items of a partition, page by page.
    pub(super) async fn partition(&self, shard: i32) -> Result<Vec<Item>> {
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

    /// Updates a row if `condition` holds. Returns the row before, or, as an error, the one for which it does not hold.
    async fn update_row(&self, image: &ImageName, update: UpdateItemFluentBuilder) -> Result<Result<Item, Item>> {
        let update = update
            .table_name(&self.table)
            .set_key(Some(row::row_key(image)))
            .return_values(ReturnValue::AllOld)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match update.send().await {
            Ok(updated) => Ok(Ok(updated.attributes.unwrap_or_default())),
            Err(SdkError::ServiceError(e)) if e.err().is_conditional_check_failed_exception() => match e.into_err() {
                UpdateItemError::ConditionalCheckFailedException(e) if e.item.is_some() => {
                    Ok(Err(e.item.unwrap_or_default()))
                }
                // A service that does not tell is asked.
                _ => Ok(Err(self.get_batch(std::slice::from_ref(image)).await?.pop().unwrap_or_default())),
            },
            Err(e) => Err(UPDATE.error(&self.table, &e)),
        }
    }

    /// The update that writes the row of `result`, unless a newer one is there, or one with another label, or what is
    /// left of one that was removed at another time than `removed_at`. Rows of before the reset do not count.
    fn put_request(
        &self,
        result: &Classification,
        released: Option<&str>,
        removed_at: Option<Timestamp>,
        marker: Marker,
    ) -> Result<UpdateItemFluentBuilder> {
        let (set, remove) = row::attributes(result)?;
        let mut update = self.client.update_item();
        // Names are aliased: the list of reserved words is long.
        for name in set.iter().map(|(name, _)| name).chain(&remove) {
            update = update.expression_attribute_names(format!("#{name}"), *name);
        }
        let assignments: Vec<String> = set.iter().map(|(name, _)| format!("#{name} = :{name}")).collect();
        let removals: Vec<String> = remove.iter().map(|name| format!("#{name}")).collect();
        for (name, value) in set {
            update = update.expression_attribute_values(format!(":{name}"), value);
        }
        let mut condition = format!("(attribute_not_exists(#{CLASSIFICATION}) OR #{ASKED_AT} <= :marker");
        for (i, label) in [result.outcome.label(), released].into_iter().flatten().enumerate() {
            condition += &format!(" OR #{CLASSIFICATION} = :label{i}");
            update = update.expression_attribute_values(format!(":label{i}"), s(label));
        }
        condition.push(')');
        if result.sequencer.is_some() {
            condition += &format!(
                " AND (attribute_not_exists(#{SEQUENCER}) OR #{SEQUENCER} <= :{SEQUENCER} OR #{ASKED_AT} <= :marker)"
            );
        }
        condition += &format!(" AND (attribute_not_exists(#{DELETED_AT})");
        if let Some(removed_at) = removed_at {
            condition += &format!(" OR #{DELETED_AT} = :removed");
            update = update.expression_attribute_values(":removed", n(removed_at));
        }
        Ok(update
            .expression_attribute_names(format!("#{CLASSIFICATION}"), CLASSIFICATION)
            .expression_attribute_names(format!("#{DELETED_AT}"), DELETED_AT)
            .expression_attribute_values(":marker", n(marker.at))
            .condition_expression(condition + ")")
            .update_expression(format!("SET {} REMOVE {}, #{DELETED_AT}", assignments.join(", "), removals.join(", "))))
    }
}

#[async_trait]
impl Results for DynamoResults {
    async fn put(&self, result: &Classification, released: Option<&str>) -> Result<Written> {
        let marker = self.marker().await?;
        if result.asked_at <= marker.at {
            return Ok(Written::Gone);
        }
        let (mut removed_at, mut attempts) = (None, Retry::CALL.start());
        loop {
            let update = self.put_request(result, released, removed_at, marker)?;
            let Err(there) = self.update_row(&result.image, update).await? else { return Ok(Written::Stored) };
            if let Some(at) = number(&there, DELETED_AT) {
                // Of no use to compare times: clocks differ. But an image that was removed and is there is another one.
                if !self.images.exists(&result.image).await? {
                    return Ok(Written::Gone);
                }
                removed_at = Some(at);
                continue;
            }
            let stored = text(&there, SEQUENCER);
            if result.sequencer.as_ref().zip(stored).is_some_and(|(new, stored)| new.as_str() < stored) {
                return Ok(Written::Stale);
            }
            let label = text(&there, CLASSIFICATION).filter(|_| is_visible(&there, marker));
            if let Some(label) = label.filter(|label| ![result.outcome.label(), released].contains(&Some(*label))) {
                return Ok(Written::Labelled(label.to_owned()));
            }
            let message = format!("the row of {} changes all the time", result.image);
            attempts.again(Error::new(ErrorKind::Transient, message)).await?;
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

    fn search(&self) -> Search {
        Search::Prefix
    }

    async fn page(&self, query: &PageQuery) -> Result<Page> {
        self.read_page(query).await
    }

    async fn counts(&self, filter: &Filter) -> Result<Counts> {
        self.read_counts(filter).await
    }

    async fn delete(&self, image: &ImageName, released: Option<&str>) -> Result<Removed> {
        let marker = self.marker().await?;
        let names: Vec<String> = row::ATTRIBUTES.iter().map(|name| format!("#{name}")).collect();
        let mut update = self.client.update_item();
        for name in row::ATTRIBUTES {
            update = update.expression_attribute_names(format!("#{name}"), name);
        }
        let mut condition = format!("attribute_not_exists(#{CLASSIFICATION}) OR #{ASKED_AT} <= :marker");
        if let Some(label) = released {
            condition += &format!(" OR #{CLASSIFICATION} = :released");
            update = update.expression_attribute_values(":released", s(label));
        }
        // What is left says when the row was removed: a worker that has the image still may not write it again.
        let update = update
            .expression_attribute_names("#deleted", DELETED_AT)
            .expression_attribute_values(":now", n(SystemClock.now()))
            .expression_attribute_values(":marker", n(marker.at))
            .condition_expression(condition)
            .update_expression(format!("SET #deleted = :now REMOVE {}", names.join(", ")));
        Ok(match self.update_row(image, update).await? {
            Ok(before) if is_visible(&before, marker) => Removed::Row,
            Ok(_) => Removed::Nothing,
            Err(there) => Removed::Labelled(text(&there, CLASSIFICATION).unwrap_or_default().to_owned()),
        })
    }

    async fn totals(&self, heartbeats: &[Heartbeat]) -> Result<Totals> {
        let marker = self.marker().await?;
        let (done, failed) = sum(heartbeats);
        let done = done.saturating_sub(marker.done);
        let failed = failed.saturating_sub(marker.failed);
        Ok(Totals { total: done + failed, failed, exact: false })
    }
}
