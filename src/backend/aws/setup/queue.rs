//! The queue, its dead-letter queue, and the policy that lets the bucket send.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use super::{
    super::{
        client::Call,
        queue_facts::{RedrivePolicy, attributes, find_queue},
    },
    Action, Setup,
};
use crate::backend::{Error, ErrorKind, Result};

/// A message that was received so often is a dead letter.
const MAX_RECEIVES: u32 = 10;
/// How long a received message is hidden in a queue that we create; workers extend it at half of it.
const VISIBILITY: Duration = Duration::from_secs(30);
/// How long a new queue keeps messages, and how long its dead letters: the latter keep their age when they move, so
/// they need longer.
const RETENTION: Duration = Duration::from_secs(4 * 24 * 3600);
const DEAD_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
const CREATE_QUEUE: Call = Call::new("create queue", "sqs:CreateQueue");
const SET_QUEUE: Call = Call::new("set attributes of queue", "sqs:SetQueueAttributes");

impl Setup<'_> {
    /// URL and ARN of the queue; `None` if a dry run would create it.
    pub(super) async fn queue(&mut self, name: &str) -> Result<Option<(String, String)>> {
        match find_queue(&self.clients.sqs, name).await? {
            Some(url) => self.existing_queue(name, url).await.map(Some),
            None => self.new_queue(name).await,
        }
    }

    /// Checks a queue, and adds a dead-letter queue if it has none.
    async fn existing_queue(&mut self, name: &str, url: String) -> Result<(String, String)> {
        let mut current = attributes(&self.clients.sqs, &url).await?;
        let arn = current.remove(&QueueAttributeName::QueueArn).unwrap_or_default();
        let resource = format!("queue {name}");
        if let Some(policy) = current.get(&QueueAttributeName::RedrivePolicy).filter(|p| !p.is_empty()) {
            self.step(format!("dead-letter queue of {name}"), check_redrive(policy));
            self.step(resource, Action::Kept);
            return Ok((url, arn));
        }
        if let Some(redrive) = self.redrive(name).await? {
            let set = self.clients.sqs.set_queue_attributes().queue_url(&url);
            let set = set.attributes(QueueAttributeName::RedrivePolicy, redrive);
            set.send().await.map_err(|e| SET_QUEUE.error(name, &e))?;
        }
        self.step(resource, Action::Changed("dead-letter queue added".to_owned()));
        Ok((url, arn))
    }

    async fn new_queue(&mut self, name: &str) -> Result<Option<(String, String)>> {
        let redrive = self.redrive(name).await?;
        self.step(format!("queue {name}"), Action::Created);
        if self.dry_run {
            return Ok(None);
        }
        let sqs = &self.clients.sqs;
        let created = sqs
            .create_queue()
            .queue_name(name)
            .attributes(QueueAttributeName::VisibilityTimeout, VISIBILITY.as_secs().to_string())
            .attributes(QueueAttributeName::ReceiveMessageWaitTimeSeconds, "20")
            .attributes(QueueAttributeName::MessageRetentionPeriod, RETENTION.as_secs().to_string())
            .attributes(QueueAttributeName::RedrivePolicy, redrive.unwrap_or_default())
            .send()
            .await
            .map_err(|e| CREATE_QUEUE.error(name, &e))?;
        let url = created.queue_url.unwrap_or_default();
        let arn = attributes(sqs, &url).await?.remove(&QueueAttributeName::QueueArn).unwrap_or_default();
        Ok(Some((url, arn)))
    }

    /// The redrive policy to the dead-letter queue of queue `name`, which is created if it is not there; `None` in a
    /// dry run.
    async fn redrive(&mut self, name: &str) -> Result<Option<String>> {
        let dead = self.dead_queue(&format!("{name}-dead")).await?;
        Ok(dead.map(|arn| json!({ "deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES }).to_string()))
    }

    /// The ARN of the dead-letter queue; `None` if a dry run would create it.
    async fn dead_queue(&mut self, name: &str) -> Result<Option<String>> {
        let sqs = self.clients.sqs.clone();
        let resource = format!("dead-letter queue {name}");
        let url = match find_queue(&sqs, name).await? {
            Some(url) => {
                self.step(resource, Action::Kept);
                url
            }
            None => {
                self.step(resource, Action::Created);
                if self.dry_run {
                    return Ok(None);
                }
                let retention = DEAD_RETENTION.as_secs().to_string();
                let create = sqs.create_queue().queue_name(name);
                let create = create.attributes(QueueAttributeName::MessageRetentionPeriod, retention);
                create.send().await.map_err(|e| CREATE_QUEUE.error(name, &e))?.queue_url.unwrap_or_default()
            }
        };
        let arn = attributes(&sqs, &url).await?.remove(&QueueAttributeName::QueueArn);
        Ok(arn.filter(|_| !self.dry_run))
    }

    /// Lets the bucket send to the queue.
    pub(super) async fn allow(&mut self, url: &str, arn: &str, bucket: &str) -> Result<()> {
        let resource = format!("queue policy for bucket {bucket}");
        let current = attributes(&self.clients.sqs, url).await?.remove(&QueueAttributeName::Policy);
        let current = current.filter(|p| !p.is_empty());
        let merged = merge_policy(current.as_deref(), arn, bucket).map_err(|e| {
            Error::new(ErrorKind::Refused, format!("the policy of queue {url} is not understood")).because(e)
        })?;
        let Some(merged) = merged else {
            self.step(resource, Action::Kept);
            return Ok(());
        };
        if !self.dry_run {
            let set = self.clients.sqs.set_queue_attributes().queue_url(url);
            let set = set.attributes(QueueAttributeName::Policy, merged.to_string()).send().await;
            set.map_err(|e| SET_QUEUE.error(url, &e))?;
        }
        self.step(resource, Action::Changed("statement added".to_owned()));
        Ok(())
    }
}

/// What is to be said of a redrive policy that is there.
fn check_redrive(policy: &str) -> Action {
    match serde_json::from_str::<RedrivePolicy>(policy) {
        Ok(policy) if policy.max_receive_count < MAX_RECEIVES => Action::Warned(format!(
            "messages are dead letters after {} receives; {MAX_RECEIVES} ride out longer faults",
            policy.max_receive_count
        )),
        Ok(_) => Action::Kept,
        Err(error) => Action::Warned(format!("its redrive policy is not understood: {error}")),
    }
}

/// The queue's policy with a statement that lets `bucket` send; `None` if it has it.
fn merge_policy(current: Option<&str>, arn: &str, bucket: &str) -> Result<Option<Value>, serde_json::Error> {
    // arn:PARTITION:sqs:REGION:ACCOUNT:NAME
    let mut parts = arn.split(':').skip(1);
    let (partition, account) = (parts.next().unwrap_or("aws"), parts.nth(2).unwrap_or_default());
    let sid = format!("imgcls-{bucket}");
    let statement = json!({
        "Sid": sid,
        "Effect": "Allow",
        "Principal": { "Service": "s3.amazonaws.com" },
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {
            "ArnEquals": { "aws:SourceArn": format!("arn:{partition}:s3:::{bucket}") },
            // Bucket names can be taken over by other accounts once they are free.
            "StringEquals": { "aws:SourceAccount": account },
        },
    });
    let mut policy: Value = match current {
        Some(text) => serde_json::from_str(text)?,
        None => json!({ "Version": "2012-10-17", "Statement": [] }),
    };
    let mut statements = match policy["Statement"].take() {
        Value::Array(statements) => statements,
        Value::Null => Vec::new(),
        // A single statement needs no list.
        single => vec![single],
    };
    if statements.contains(&statement) {
        return Ok(None);
    }
    statements.retain(|s| s["Sid"] != sid.as_str());
    statements.push(statement);
    policy["Statement"] = statements.into();
    Ok(Some(policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_merged_and_others_kept() {
        let arn = "arn:aws-cn:sqs:cn-north-1:123456789012:q";
        let fresh = merge_policy(None, arn, "b").unwrap().unwrap();
        assert_eq!(fresh["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"], "arn:aws-cn:s3:::b");
        assert_eq!(fresh["Statement"][0]["Condition"]["StringEquals"]["aws:SourceAccount"], "123456789012");
        assert_eq!(merge_policy(Some(&fresh.to_string()), arn, "b").unwrap(), None);
        let others = json!({"Version": "2008-10-17", "Id": "x", "Statement": {"Sid": "theirs", "Effect": "Deny"}});
        let merged = merge_policy(Some(&others.to_string()), arn, "b").unwrap().unwrap();
        assert_eq!((&merged["Id"], merged["Statement"].as_array().unwrap().len()), (&json!("x"), 2));
        assert_eq!(merged["Statement"][0]["Sid"], "theirs");
        assert!(merge_policy(Some("no json"), arn, "b").is_err());
    }
}
