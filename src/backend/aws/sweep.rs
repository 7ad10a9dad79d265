//! What a reset does to the table: it sets the marker, then removes the rows that the marker hides.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    marker::sum,
    results::{DELETE, DynamoResults, QUERY, RESET, UPDATE},
    row::{ASKED_AT, DELETED_AT, Item, SHARD, SHARDS, SORT_KEY, SYSTEM, key, n},
};
use crate::{
    backend::{Registry, Result},
    contract::Timestamp,
};

impl DynamoResults {
    /// Sets the marker, unless a later one is there.
    pub(super) async fn set_marker(&self, at: Timestamp) -> Result<()> {
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
            .expression_attribute_values(":at", n(at))
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

    /// Removes the rows that were asked for at or before the marker, and what is left of those removed by then. Returns
    /// how many rows.
    pub(super) async fn sweep(&self, marker: Timestamp) -> Result<u64> {
        let shards: Vec<_> = (0..i32::from(SHARDS)).map(|shard| self.sweep_shard(shard, marker)).collect();
        stream::iter(shards)
            .buffer_unordered(usize::from(SHARDS))
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await
    }

    async fn sweep_shard(&self, shard: i32, marker: Timestamp) -> Result<u64> {
        let mut count = 0;
        let mut start = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("#shard = :shard")
                .filter_expression("#asked <= :marker OR #deleted <= :marker")
                .projection_expression("#shard, #sort, #asked")
                .expression_attribute_names("#shard", SHARD)
                .expression_attribute_names("#sort", SORT_KEY)
                .expression_attribute_names("#asked", ASKED_AT)
                .expression_attribute_names("#deleted", DELETED_AT)
                .expression_attribute_values(":shard", n(shard))
                .expression_attribute_values(":marker", n(marker))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|e| QUERY.error(&self.table, &e))?;
            let deletes: Vec<_> =
                page.items.unwrap_or_default().into_iter().map(|item| self.delete_if_old(item, marker)).collect();
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

    /// Not a batch: a row that was written anew meanwhile stays. True if a row went.
    pub(super) async fn delete_if_old(&self, mut item: Item, marker: Timestamp) -> Result<bool> {
        let was_row = item.remove(ASKED_AT).is_some();
        item.retain(|name, _| name == SHARD || name == SORT_KEY);
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(item))
            .condition_expression("#at <= :marker")
            .expression_attribute_names("#at", if was_row { ASKED_AT } else { DELETED_AT })
            .expression_attribute_values(":marker", n(marker))
            .send()
            .await;
        match deleted {
            Ok(_) => Ok(was_row),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => Ok(false),
            Err(e) => Err(DELETE.error(&self.table, &e)),
        }
    }
}
