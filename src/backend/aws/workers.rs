//! Heartbeats: one item a worker, few altogether.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem};

use super::{
    client::{Call, internal},
    results::DynamoResults,
    row::{HEARTBEATS, Item, SORT_KEY, key, s, text},
};
use crate::{
    backend::{Error, ErrorKind, Heartbeat, Registry, Result, workers::MAX_HEARTBEATS},
    clock::{Clock, SystemClock},
    contract::{Timestamp, WorkerId},
};

/// The attribute that holds the heartbeat as JSON.
const HEARTBEAT: &str = "Heartbeat";

/// DynamoDB's limit of items in one transaction.
const MAX_TRANSACTION: usize = 100;

/// A worker that was not heard of for so long is gone for good, even if its machine was suspended.
const GONE: Duration = Duration::from_secs(10 * 60);

const PUT: Call = Call::new("write to", "dynamodb:PutItem");
const FOLD: Call = Call::new("sum up heartbeats in", "dynamodb:PutItem and dynamodb:DeleteItem");

#[async_trait]
impl Registry for DynamoResults {
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<()> {
        let beat = Heartbeat { seen_at: SystemClock.now(), ..heartbeat.clone() };
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item(&beat)?)).send().await;
        put.map_err(|e| PUT.error(&self.table, &e))?;
        // Every start leaves a heartbeat behind, so every start looks after those that are too many.
        if !self.folded.swap(true, std::sync::atomic::Ordering::Relaxed)
            && let Err(error) = self.fold_old_beats(beat.seen_at).await
        {
            tracing::warn!(%error, "cannot sum up the heartbeats of workers long gone");
        }
        Ok(())
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        Ok(self.partition(HEARTBEATS).await?.iter().filter_map(read).collect())
    }
}

impl DynamoResults {
    /// Sums up the heartbeats of workers that are gone, the oldest first, until few are left.
    pub(super) async fn fold_old_beats(&self, now: Timestamp) -> Result<()> {
        let items = self.partition(HEARTBEATS).await?;
        let (mut sum_item, mut old) = (None, Vec::new());
        let (mut count, former) = (items.len(), WorkerId::of_former_workers());
        for item in items {
            match read(&item) {
                Some(beat) if beat.worker == former => sum_item = Some(item),
                Some(beat) if now.since(beat.seen_at) > GONE => old.push((beat, item)),
                _ => {}
            }
        }
        old.sort_by_key(|(beat, _)| beat.seen_at);
        for chunk in old.chunks(MAX_TRANSACTION - 1) {
            // The sum counts as one.
            let Some(too_many) = (count + usize::from(sum_item.is_none())).checked_sub(MAX_HEARTBEATS) else { break };
            let chunk = &chunk[..chunk.len().min(too_many)];
            if chunk.is_empty() {
                break;
            }
            count = count + usize::from(sum_item.is_none()) - chunk.len();
            let sum = self.fold(sum_item.take(), chunk).await?;
            sum_item = Some(sum);
        }
        Ok(())
    }

    /// Adds heartbeats to the sum and removes them, all at once. Returns the new sum.
    async fn fold(&self, before: Option<Item>, chunk: &[(Heartbeat, Item)]) -> Result<Item> {
        let mut sum = before.as_ref().and_then(read).unwrap_or_else(Heartbeat::of_former_workers);
        chunk.iter().for_each(|(beat, _)| sum.absorb(beat));
        let item = item(&sum)?;
        // Whoever wrote meanwhile, another start or a worker that lives after all, makes it fail; the next start tries
        // again.
        let put = Put::builder().table_name(&self.table).set_item(Some(item.clone()));
        let put = put.expression_attribute_names("#beat", HEARTBEAT);
        let put = match before {
            None => put.condition_expression("attribute_not_exists(#beat)"),
            Some(before) => put.condition_expression("#beat = :before").set_expression_attribute_values(
                before.get(HEARTBEAT).map(|b| [(":before".to_owned(), b.clone())].into()),
            ),
        };
        let put = TransactWriteItem::builder().put(put.build().map_err(|e| internal(&e))?).build();
        let mut writes = vec![put];
        for (beat, item) in chunk {
            let delete = Delete::builder()
                .table_name(&self.table)
                .set_key(Some(key(HEARTBEATS, beat.worker.as_str())))
                .condition_expression("#beat = :seen")
                .expression_attribute_names("#beat", HEARTBEAT)
                .set_expression_attribute_values(item.get(HEARTBEAT).map(|b| [(":seen".to_owned(), b.clone())].into()));
            writes.push(TransactWriteItem::builder().delete(delete.build().map_err(|e| internal(&e))?).build());
        }
        assert!(writes.len() <= MAX_TRANSACTION, "a transaction takes 100 items");
        let written = self.client.transact_write_items().set_transact_items(Some(writes)).send().await;
        written.map_err(|e| FOLD.error(&self.table, &e))?;
        Ok(item)
    }
}

fn item(beat: &Heartbeat) -> Result<Item> {
    let json = serde_json::to_string(beat)
        .map_err(|e| Error::new(ErrorKind::Refused, "cannot write a heartbeat").because(e))?;
    let mut item = key(HEARTBEATS, beat.worker.as_str());
    item.insert(HEARTBEAT.to_owned(), s(json));
    Ok(item)
}

fn read(item: &Item) -> Option<Heartbeat> {
    let beat = serde_json::from_str(text(item, HEARTBEAT)?);
    let worker = text(item, SORT_KEY);
    beat.inspect_err(|error| tracing::warn!(worker, %error, "a heartbeat is not understood, skipping it")).ok()
}
