//! Acknowledgement: deletes settled messages, ten to a call, after a short linger.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tracing::warn;

use super::{
    lease::Leases,
    metrics::{Metrics, Stage},
};
use crate::backend::{Error, ErrorKind, Queue, Receipt, Result, Retry, within};

/// How long a receipt waits for others: long enough to fill calls under load, short against a visibility time-out.
const LINGER: Duration = Duration::from_millis(100);

/// Most receipts in one call: SQS takes ten.
const MOST: usize = 10;

/// How long one call may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// Deletes what comes over `settled` until its senders are gone. The leases are kept until then.
pub(crate) async fn run(
    queue: Arc<dyn Queue>,
    leases: Arc<Leases>,
    metrics: Arc<Metrics>,
    mut settled: mpsc::Receiver<Receipt>,
) {
    while let Some(first) = settled.recv().await {
        let mut batch = vec![first];
        let deadline = Instant::now() + LINGER;
        while batch.len() < MOST {
            match tokio::time::timeout_at(deadline, settled.recv()).await {
                Ok(Some(receipt)) => batch.push(receipt),
                Ok(None) | Err(_) => break,
            }
        }
        if let Err(error) = metrics.time(Stage::Delete, delete(&*queue, &batch)).await {
            // The results are stored; the messages come again and find them.
            warn!(%error, messages = batch.len(), "cannot delete messages; they will be done again");
        }
        leases.forget(&batch);
    }
}

/// Deletes `receipts`, the failed ones again with back-off, a few times.
async fn delete(queue: &dyn Queue, receipts: &[Receipt]) -> Result<()> {
    let (mut left, mut attempts) = (receipts.to_vec(), Retry::times(5).start());
    loop {
        let error = match within(DELETE_TIMEOUT, queue.delete(&left)).await {
            Ok(failed) if failed.is_empty() => return Ok(()),
            Ok(failed) => {
                left = failed;
                Error::new(ErrorKind::Transient, format!("{} messages were not deleted", left.len()))
            }
            Err(error) => error,
        };
        attempts.again(error).await?;
    }
}
