//! Dead letters on SQS: list, redrive, drop.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use tokio::time::Instant;

use super::{client::Call, queue::SqsQueue, queue_batch::MAX_BATCH, queue_facts::is_unsupported};
use crate::backend::{DeadLetter, DeadLetters, Error, ErrorKind, Queue, Receipt, Result, Retry};

/// How long one call goes on; what is left then is done by another one.
const BUDGET: Duration = Duration::from_secs(50);

/// How long a dead letter is hidden while it is moved or dropped.
const HIDE: Duration = Duration::from_secs(60);

/// How often a move is looked at, which takes about as long as [`BUDGET`].
const WATCH: Retry = Retry { attempts: 66, first: Duration::from_millis(500), longest: Duration::from_secs(1) };

const MOVE: Call = Call::new("start moving messages from", "sqs:StartMessageMoveTask");

#[async_trait]
impl DeadLetters for SqsQueue {
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let Some(dead) = &self.dead else { return Ok(Vec::new()) };
        let seen = self.look_at(&dead.url, limit).await?;
        self.hand_back(&dead.url, &seen).await?;
        Ok(seen.into_iter().map(DeadLetter::from).collect())
    }

    /// Lets SQS move the messages; where the service cannot do that, receives, sends and deletes them.
    async fn redrive(&self) -> Result<u64> {
        let Some(dead) = &self.dead else { return Ok(0) };
        let started =
            self.client.start_message_move_task().source_arn(&dead.arn).destination_arn(&self.arn).send().await;
        match started {
            Ok(_) => self.watch_move(&dead.arn).await,
            Err(error) if is_unsupported(&error) => self.drain_dead(true).await,
            Err(error) => {
                // A task of somebody else's redrive does the same.
                let running = error.message().is_some_and(|m| m.contains("already"));
                if running { self.watch_move(&dead.arn).await } else { Err(MOVE.error(&dead.arn, &error)) }
            }
        }
    }

    async fn drop_all(&self) -> Result<u64> {
        self.drain_dead(false).await
    }
}

impl SqsQueue {
    /// Waits for the newest move task and returns how many messages it moved so far.
    async fn watch_move(&self, source: &str) -> Result<u64> {
        let mut looks = WATCH.start();
        loop {
            let tasks = self.client.list_message_move_tasks().source_arn(source).max_results(1).send().await;
            let tasks = tasks
                .map_err(|e| Call::new("watch messages move from", "sqs:ListMessageMoveTasks").error(source, &e))?;
            let Some(task) = tasks.results().first() else { return Ok(0) };
            let moved = u64::try_from(task.approximate_number_of_messages_moved()).unwrap_or(0);
            let running = || Error::new(ErrorKind::Transient, format!("messages are still moved from {source}"));
            if task.status() != Some("RUNNING") || looks.again(running()).await.is_err() {
                if let Some(reason) = task.failure_reason() {
                    tracing::warn!(reason, "moving dead letters back stopped early");
                }
                return Ok(moved);
            }
        }
    }

    /// Receives and deletes all dead letters, having sent them to the queue again if `resend`. Returns how many were
    /// deleted.
    async fn drain_dead(&self, resend: bool) -> Result<u64> {
        let Some(dead) = &self.dead else { return Ok(0) };
        let end = Instant::now() + BUDGET;
        let mut count = 0;
        let mut empty = 0;
        while empty < 2 && Instant::now() < end {
            let got = self.receive_from(&dead.url, MAX_BATCH, Duration::from_secs(1), Some(HIDE)).await?;
            if got.is_empty() {
                empty += 1;
                continue;
            }
            empty = 0;
            if resend {
                self.send(&got.iter().map(|m| m.body.clone()).collect::<Vec<_>>()).await?;
            }
            let receipts: Vec<Receipt> = got.into_iter().map(|m| m.receipt).collect();
            let failed = self.delete_from(&dead.url, &receipts).await?;
            count += (receipts.len() - failed.len()) as u64;
        }
        Ok(count)
    }
}
