//! The queue on SQS.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::{
    Client,
    config::timeout::TimeoutConfig,
    types::{
        ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
        QueueAttributeName, SendMessageBatchRequestEntry,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    client::{Call, internal},
    queue_batch::{Failures, MAX_BATCH, batches, split_failures},
    queue_facts::{DeadQueue, RedrivePolicy, attributes, find_queue},
};
use crate::{
    backend::{Depth, Error, ErrorKind, Message, Queue, QueuePolicy, Receipt, Result, Retry},
    contract::Timestamp,
};

/// Batches that are sent at a time.
const CONCURRENT_SENDS: usize = 8;

/// SQS's limit of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// How much longer than its wait a long poll may take.
const POLL_SLACK: Duration = Duration::from_secs(8);

/// How long messages are hidden while they are looked at.
const PEEK: Duration = Duration::from_secs(10);

const SEND: Call = Call::new("send to", "sqs:SendMessage");
const RECEIVE: Call = Call::new("receive from", "sqs:ReceiveMessage");
const EXTEND: Call = Call::new("change visibility in", "sqs:ChangeMessageVisibility");
const DELETE: Call = Call::new("delete from", "sqs:DeleteMessage");

/// A standard queue with its own visibility time-out and redrive policy, read when it is opened.
#[derive(Debug)]
pub(crate) struct SqsQueue {
    pub(super) client: Client,
    pub(super) url: String,
    pub(super) arn: String,
    visibility: Duration,
    pub(super) dead: Option<DeadQueue>,
}

impl SqsQueue {
    /// Opens the queue with this URL or name.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a FIFO queue, or one that does not exist.
    pub(crate) async fn open(client: Client, queue: &str) -> Result<Self> {
        let url = if queue.contains("://") {
            queue.to_owned()
        } else {
            let missing =
                || Error::new(ErrorKind::Refused, format!("there is no queue {queue:?}; `imgcls setup` creates it"));
            find_queue(&client, queue).await?.ok_or_else(missing)?
        };
        let url = url.as_str();
        let attributes = attributes(&client, url).await?;
        let text = |name: QueueAttributeName| attributes.get(&name).map(String::as_str);
        if url.ends_with(".fifo") || text(QueueAttributeName::FifoQueue) == Some("true") {
            let message = format!("{url} is a FIFO queue, which S3 cannot notify; use a standard queue");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let visibility = text(QueueAttributeName::VisibilityTimeout).and_then(|t| t.parse().ok()).unwrap_or(30);
        if visibility == 0 {
            let message = format!(
                "{url} has a visibility time-out of 0, so that every message would be worked on by all; set 30 s"
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let dead = match text(QueueAttributeName::RedrivePolicy).filter(|t| !t.is_empty()) {
            None => {
                tracing::warn!(
                    queue = url,
                    "the queue has no dead-letter queue: an image that cannot be stored comes back until its message \
                     expires; `imgcls setup` adds one"
                );
                None
            }
            Some(policy) => {
                let policy: RedrivePolicy = serde_json::from_str(policy).map_err(|e| {
                    Error::new(ErrorKind::Refused, format!("the redrive policy of {url} is not understood")).because(e)
                })?;
                Some(DeadQueue::find(&client, policy).await?)
            }
        };
        Ok(Self {
            client,
            url: url.to_owned(),
            arn: text(QueueAttributeName::QueueArn).unwrap_or_default().to_owned(),
            visibility: Duration::from_secs(visibility),
            dead,
        })
    }

    /// Receives from the queue at `url`, hiding messages for `visibility` (`None`: the queue's own).
    pub(super) async fn receive_from(
        &self,
        url: &str,
        max: usize,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Message>> {
        assert!((1..=MAX_BATCH).contains(&max), "ReceiveMessage takes 1 to 10");
        let wait = wait.min(MAX_WAIT);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(wait + POLL_SLACK).build();
        let received = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(max).unwrap_or(10))
            .wait_time_seconds(i32::try_from(wait.as_secs()).unwrap_or(20))
            .set_visibility_timeout(visibility.map(seconds))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .customize()
            .config_override(aws_sdk_sqs::Config::builder().timeout_config(timeouts))
            .send()
            .await
            .map_err(|e| RECEIVE.error(url, &e))?;
        Ok(received.messages.unwrap_or_default().into_iter().filter_map(message).collect())
    }

    /// Receives up to `limit` messages of the queue at `url`. They are counted as received once more, and hidden for
    /// [`PEEK`].
    pub(super) async fn look_at(&self, url: &str, limit: usize) -> Result<Vec<Message>> {
        let mut seen: Vec<Message> = Vec::new();
        let mut empty = 0;
        while seen.len() < limit && empty < 2 {
            let max = (limit - seen.len()).min(MAX_BATCH);
            // A long poll asks all servers of the queue, a short one only some of them.
            let got = self.receive_from(url, max, Duration::from_secs(1), Some(PEEK)).await?;
            empty = if got.is_empty() { empty + 1 } else { 0 };
            seen.extend(got);
        }
        Ok(seen)
    }

    /// Makes messages of the queue at `url` visible at once.
    pub(super) async fn hand_back<'a>(&self, url: &str, messages: impl IntoIterator<Item = &'a Message>) -> Result<()> {
        let receipts: Vec<Receipt> = messages.into_iter().map(|m| m.receipt.clone()).collect();
        // Those that are stale became visible by themselves.
        self.change_visibility(url, &receipts, Duration::ZERO).await.map(drop)
    }

    /// Sends messages anew and then deletes them: the copies have all their receives before them.
    async fn renew(&self, messages: &[&Message]) -> Result<()> {
        let bodies: Vec<String> = messages.iter().map(|m| m.body.clone()).collect();
        self.send(&bodies).await?;
        let receipts: Vec<Receipt> = messages.iter().map(|m| m.receipt.clone()).collect();
        // One that stays is done twice, which does no harm.
        self.delete_from(&self.url, &receipts).await.map(drop)
    }

    async fn change_visibility(&self, url: &str, receipts: &[Receipt], visibility: Duration) -> Result<Vec<Receipt>> {
        let (mut stale, mut error) = (Vec::new(), None);
        for chunk in receipts.chunks(MAX_BATCH) {
            let (mut left, mut attempts) = (chunk.to_vec(), Retry::CALL.start());
            loop {
                let failed = match self.change_chunk(url, &left, visibility).await {
                    Ok(failed) => failed,
                    Err(e) => {
                        error = Some(e);
                        break;
                    }
                };
                stale.extend(failed.hopeless);
                left = failed.again;
                if left.is_empty() {
                    break;
                }
                if let Err(e) = attempts.again(transient(&EXTEND, url, failed.why)).await {
                    error = Some(e);
                    break;
                }
            }
        }
        error.map_or(Ok(stale), Err)
    }

    async fn change_chunk(&self, url: &str, chunk: &[Receipt], visibility: Duration) -> Result<Failures<Receipt>> {
        let entries = chunk.iter().enumerate().map(|(i, receipt)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(i.to_string())
                .receipt_handle(&receipt.0)
                .visibility_timeout(seconds(visibility))
                .build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|e| internal(&e))?;
        let sent = self.client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries)).send().await;
        Ok(split_failures(chunk, &sent.map_err(|e| EXTEND.error(url, &e))?.failed))
    }

    /// Deletes from the queue at `url`. Returns the receipts for which it failed.
    pub(super) async fn delete_from(&self, url: &str, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        let mut not_deleted = Vec::new();
        for chunk in receipts.chunks(MAX_BATCH) {
            let (mut left, mut attempts) = (chunk.to_vec(), Retry::CALL.start());
            while !left.is_empty() {
                let error = match self.delete_chunk(url, &left).await {
                    // What is hopeless is stale or gone: its message comes again, or never will.
                    Ok(failed) => {
                        left = failed.again;
                        transient(&DELETE, url, failed.why)
                    }
                    Err(error) => error,
                };
                if !left.is_empty()
                    && let Err(error) = attempts.again(error).await
                {
                    tracing::warn!(%error, messages = left.len(), "messages not deleted");
                    break;
                }
            }
            not_deleted.extend(left);
        }
        Ok(not_deleted)
    }

    async fn delete_chunk(&self, url: &str, chunk: &[Receipt]) -> Result<Failures<Receipt>> {
        let entries = chunk.iter().enumerate().map(|(i, receipt)| {
            DeleteMessageBatchRequestEntry::builder().id(i.to_string()).receipt_handle(&receipt.0).build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|e| internal(&e))?;
        let sent = self.client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await;
        Ok(split_failures(chunk, &sent.map_err(|e| DELETE.error(url, &e))?.failed))
    }

    async fn send_batch(&self, bodies: &[String]) -> Result<()> {
        assert!(bodies.len() <= MAX_BATCH, "SendMessageBatch takes 10 messages");
        let (mut left, mut attempts) = (bodies.to_vec(), Retry::CALL.start());
        loop {
            let entries = left
                .iter()
                .enumerate()
                .map(|(i, body)| SendMessageBatchRequestEntry::builder().id(i.to_string()).message_body(body).build());
            let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|e| internal(&e))?;
            let sent = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await;
            let failures = split_failures(&left, &sent.map_err(|e| SEND.error(&self.url, &e))?.failed);
            if !failures.hopeless.is_empty() {
                let why = failures.why.unwrap_or_default();
                return Err(Error::new(ErrorKind::Refused, format!("{} refuses a message: {why}", self.url)));
            }
            left = failures.again;
            if left.is_empty() {
                return Ok(());
            }
            attempts.again(transient(&SEND, &self.url, failures.why)).await?;
        }
    }
}

#[async_trait]
impl Queue for SqsQueue {
    fn policy(&self) -> QueuePolicy {
        QueuePolicy {
            visibility_timeout: self.visibility,
            max_receives: self.dead.as_ref().map(|dead| dead.max_receives),
            long_poll: MAX_WAIT,
            peek_counts: true,
        }
    }

    async fn send(&self, bodies: &[String]) -> Result<()> {
        // Built first: a stream of closures over borrowed bodies is not `Send` for every lifetime.
        let batches: Vec<_> = batches(bodies).into_iter().map(|batch| self.send_batch(batch)).collect();
        stream::iter(batches).buffer_unordered(CONCURRENT_SENDS).try_collect().await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        self.receive_from(&self.url, max, wait, None).await
    }

    async fn extend(&self, receipts: &[Receipt], visibility: Duration) -> Result<Vec<Receipt>> {
        self.change_visibility(&self.url, receipts, visibility).await
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        self.delete_from(&self.url, receipts).await
    }

    async fn depth(&self) -> Result<Depth> {
        let count = |attributes: &HashMap<QueueAttributeName, String>, name| -> u64 {
            attributes.get(&name).and_then(|t: &String| t.parse().ok()).unwrap_or(0)
        };
        let own = attributes(&self.client, &self.url).await?;
        let dead = match &self.dead {
            Some(dead) => attributes(&self.client, &dead.url).await?,
            None => HashMap::new(),
        };
        Ok(Depth {
            visible: count(&own, QueueAttributeName::ApproximateNumberOfMessages)
                + count(&own, QueueAttributeName::ApproximateNumberOfMessagesDelayed),
            in_flight: count(&own, QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            dead: count(&dead, QueueAttributeName::ApproximateNumberOfMessages)
                + count(&dead, QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        })
    }

    async fn peek(&self, limit: usize) -> Result<Vec<Message>> {
        let seen = self.look_at(&self.url, limit).await?;
        // A look is a receive for SQS. Half of those that a message has are left to workers: one that had more is sent
        // anew.
        let most = self.policy().max_receives.map_or(u32::MAX, |max| max / 2);
        let (spent, fresh): (Vec<_>, Vec<_>) = seen.iter().partition(|message| message.receive_count > most);
        self.renew(&spent).await?;
        self.hand_back(&self.url, fresh).await?;
        Ok(seen)
    }
}

fn message(message: aws_sdk_sqs::types::Message) -> Option<Message> {
    let attribute = |name| message.attributes.as_ref().and_then(|a| a.get(&name)).and_then(|t| t.parse::<i64>().ok());
    let count = attribute(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let sent_at = attribute(MessageSystemAttributeName::SentTimestamp).unwrap_or(0);
    Some(Message {
        receipt: Receipt(message.receipt_handle?),
        id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        receive_count: u32::try_from(count).unwrap_or(1),
        sent_at: Timestamp::from_millis(sent_at),
    })
}

fn seconds(duration: Duration) -> i32 {
    // A fraction rounds up, or a short extension would hand the message back.
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds.min(12 * 3600)).unwrap_or(i32::MAX)
}

fn transient(call: &Call, url: &str, why: Option<String>) -> Error {
    Error::new(ErrorKind::Transient, format!("cannot {} {url}", call.what)).because(why.unwrap_or_default())
}
