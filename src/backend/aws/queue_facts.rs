//! What SQS knows of a queue: its URL, its attributes, its dead-letter queue.

use std::collections::HashMap;

use aws_sdk_sqs::{Client, error::ProvideErrorMetadata, types::QueueAttributeName};
use serde::Deserialize;

use super::client::Call;
use crate::backend::Result;

const OPEN: Call = Call::new("read the attributes of", "sqs:GetQueueAttributes");
const FIND: Call = Call::new("find queue", "sqs:GetQueueUrl");

/// Where messages go that were received too often.
#[derive(Debug)]
pub(super) struct DeadQueue {
    pub(super) url: String,
    pub(super) arn: String,
    pub(super) max_receives: u32,
}

/// The queue's `RedrivePolicy`. SQS writes the count as a number or as text, as it was set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RedrivePolicy {
    pub(crate) dead_letter_target_arn: String,
    #[serde(deserialize_with = "number_or_text")]
    pub(crate) max_receive_count: u32,
}

fn number_or_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(n) => Ok(n),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

impl DeadQueue {
    pub(super) async fn find(client: &Client, policy: RedrivePolicy) -> Result<Self> {
        let arn = policy.dead_letter_target_arn;
        // arn:aws:sqs:REGION:ACCOUNT:NAME
        let mut parts = arn.rsplit(':');
        let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let got = client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account).send().await;
        let url = got.map_err(|e| FIND.error(&arn, &e))?.queue_url.unwrap_or_default();
        Ok(Self { url, arn, max_receives: policy.max_receive_count })
    }
}

/// The name in a queue's URL, or the name itself.
pub(super) fn queue_name(queue: &str) -> &str {
    queue.rsplit('/').next().unwrap_or(queue)
}

/// The URL of the queue `name` in this account and region; `None` if there is none.
pub(super) async fn find_queue(client: &Client, name: &str) -> Result<Option<String>> {
    match client.get_queue_url().queue_name(name).send().await {
        Ok(got) => Ok(got.queue_url),
        Err(error) if error.as_service_error().is_some_and(|e| e.is_queue_does_not_exist()) => Ok(None),
        Err(error) => Err(FIND.error(name, &error)),
    }
}

/// All attributes of the queue at `url`.
pub(super) async fn attributes(client: &Client, url: &str) -> Result<HashMap<QueueAttributeName, String>> {
    let got = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All).send().await;
    Ok(got.map_err(|e| OPEN.error(url, &e))?.attributes.unwrap_or_default())
}

/// Whether the service says that it does not know this action.
pub(super) fn is_unsupported<E: ProvideErrorMetadata>(error: &E) -> bool {
    let code = error.code().unwrap_or_default();
    code.contains("Unsupported")
        || code.contains("InvalidAction")
        || code.contains("UnknownOperation")
        || code.contains("NotImplemented")
}
