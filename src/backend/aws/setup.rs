//! Creates or checks the AWS resources. Merges into what is there, replaces nothing of others, may be repeated.

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
};
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, Event, FilterRule, FilterRuleName, NotificationConfiguration,
    NotificationConfigurationFilter, QueueConfiguration, S3KeyFilter,
};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    client::{Call, Clients, status},
    images::S3Images,
    queue::{RedrivePolicy, attributes, find_queue, queue_name},
    results::DynamoResults,
    row::{SHARD, SORT_KEY},
};
use crate::{
    backend::{Error, ErrorKind, Result},
    config::Aws,
};

/// A message that was received so often is a dead letter.
const MAX_RECEIVES: u32 = 10;

/// How long a received message is hidden in a queue that we create; workers extend it at half of it.
const VISIBILITY: Duration = Duration::from_secs(30);

/// How long a new queue keeps messages, and how long its dead letters: the latter keep their age when they move, so they need longer.
const RETENTION: Duration = Duration::from_secs(4 * 24 * 3600);
const DEAD_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

/// How long a new table may take to be there.
const TABLE_WAIT: Duration = Duration::from_secs(120);

const HEAD_BUCKET: Call = Call::new("look for bucket", "s3:ListBucket");
const CREATE_BUCKET: Call = Call::new("create bucket", "s3:CreateBucket");
const GET_NOTIFICATION: Call = Call::new("read the notifications of bucket", "s3:GetBucketNotification");
const PUT_NOTIFICATION: Call = Call::new("set the notifications of bucket", "s3:PutBucketNotification");
const PROBE: Call = Call::new("try a conditional write in bucket", "s3:PutObject");
const CREATE_QUEUE: Call = Call::new("create queue", "sqs:CreateQueue");
const SET_QUEUE: Call = Call::new("set attributes of queue", "sqs:SetQueueAttributes");
const DESCRIBE_TABLE: Call = Call::new("look for table", "dynamodb:DescribeTable");
const CREATE_TABLE: Call = Call::new("create table", "dynamodb:CreateTable");

/// What was done about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is, with its name.
    pub resource: String,
    /// What was done, or with a dry run would be.
    pub action: Action,
}

/// What was done about a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It was as it should be.
    Kept,
    /// It was created.
    Created,
    /// Something was added to it.
    Changed(String),
    /// It is there and usable, but somebody should look at it.
    Warned(String),
}

/// Creates or checks everything that `config` names, and tells each step as it is done. With `dry_run` nothing is changed.
///
/// # Errors
/// At the first resource that cannot be created or used, naming it, and the IAM permission that is missing.
pub async fn setup(config: &Aws, dry_run: bool, tell: &mut (dyn FnMut(Step) + Send)) -> Result<()> {
    let clients = Clients::new(config).await;
    Setup { clients, config, dry_run, tell }.run().await
}

pub(super) struct Setup<'a> {
    pub(super) clients: Clients,
    pub(super) config: &'a Aws,
    pub(super) dry_run: bool,
    pub(super) tell: &'a mut (dyn FnMut(Step) + Send),
}

impl Setup<'_> {
    pub(super) async fn run(&mut self) -> Result<()> {
        let (input, output) = (self.config.bucket.as_str(), self.config.output_bucket.as_str());
        let has_input = self.bucket(input).await?;
        let has_output = self.bucket(output).await?;
        if has_output && !self.dry_run {
            self.probe(output).await?;
        }
        let name = queue_name(&self.config.queue_url).to_owned();
        let queue = self.queue(&name).await?;
        if let Some((url, arn)) = &queue {
            self.allow(url, arn, input).await?;
        }
        match &queue {
            Some((_, arn)) if has_input => self.notify(input, arn).await?,
            _ => self.step(format!("notification of bucket {input}"), Action::Created),
        }
        self.table().await
    }

    fn step(&mut self, resource: String, action: Action) {
        (self.tell)(Step { resource, action });
    }

    /// True if the bucket is there now.
    async fn bucket(&mut self, name: &str) -> Result<bool> {
        let resource = format!("bucket {name}");
        match self.clients.s3.head_bucket().bucket(name).send().await {
            Ok(_) => {
                self.step(resource, Action::Kept);
                return Ok(true);
            }
            Err(error) if status(&error) == Some(404) => {}
            Err(error) if status(&error) == Some(403) => {
                return Err(HEAD_BUCKET.error(name, &error).because("or the bucket belongs to another account"));
            }
            Err(error) => return Err(HEAD_BUCKET.error(name, &error)),
        }
        if !self.dry_run {
            // us-east-1 is the region without a name: S3 refuses it as a constraint.
            let region = self.clients.region.as_deref().filter(|r| *r != "us-east-1");
            let place = region.map(|region| {
                CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(region)).build()
            });
            let created =
                self.clients.s3.create_bucket().bucket(name).set_create_bucket_configuration(place).send().await;
            created.map_err(|e| CREATE_BUCKET.error(name, &e))?;
        }
        self.step(resource, Action::Created);
        Ok(!self.dry_run)
    }

    /// Writes an object twice on the condition that it is not there: the second write must fail.
    async fn probe(&mut self, bucket: &str) -> Result<()> {
        let key = format!(".imgcls-probe-{:016x}", rand::random::<u64>());
        let write = || self.clients.s3.put_object().bucket(bucket).key(&key).if_none_match("*").send();
        write().await.map_err(|e| PROBE.error(bucket, &e))?;
        let second = write().await;
        let deleted = self.clients.s3.delete_object().bucket(bucket).key(&key).send().await;
        deleted.map_err(|e| Call::new("delete an object in bucket", "s3:DeleteObject").error(bucket, &e))?;
        match second {
            Ok(_) => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the store of bucket {bucket} ignores If-None-Match, so that uploads of one name could overwrite each other; \
                     use one that has conditional writes"
                ),
            )),
            Err(error) if matches!(status(&error), Some(409 | 412)) => {
                self.step(format!("conditional writes in bucket {bucket}"), Action::Kept);
                Ok(())
            }
            Err(error) => Err(PROBE.error(bucket, &error)),
        }
    }

    /// URL and ARN of the queue; `None` if a dry run would create it.
    async fn queue(&mut self, name: &str) -> Result<Option<(String, String)>> {
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
    async fn allow(&mut self, url: &str, arn: &str, bucket: &str) -> Result<()> {
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

    /// Has the bucket tell the queue of new objects.
    async fn notify(&mut self, bucket: &str, arn: &str) -> Result<()> {
        let resource = format!("notification of bucket {bucket}");
        let got = self.clients.s3.get_bucket_notification_configuration().bucket(bucket).send().await;
        let got = got.map_err(|e| GET_NOTIFICATION.error(bucket, &e))?;
        if got.queue_configurations().iter().any(|q| tells_of(q, arn, &self.config.prefix)) {
            self.step(resource, Action::Kept);
            return Ok(());
        }
        let mut queues = got.queue_configurations.unwrap_or_default();
        queues.push(notification(arn, &self.config.prefix)?);
        let merged = NotificationConfiguration::builder()
            .set_queue_configurations(Some(queues))
            .set_topic_configurations(got.topic_configurations)
            .set_lambda_function_configurations(got.lambda_function_configurations)
            .set_event_bridge_configuration(got.event_bridge_configuration)
            .build();
        if !self.dry_run {
            let put = self.clients.s3.put_bucket_notification_configuration().bucket(bucket);
            let put = put.notification_configuration(merged).send().await;
            put.map_err(|e| PUT_NOTIFICATION.error(bucket, &e))?;
        }
        self.step(resource, Action::Created);
        Ok(())
    }

    async fn table(&mut self) -> Result<()> {
        let (dynamodb, name) = (self.clients.dynamodb.clone(), self.config.table.clone());
        let resource = format!("table {name}");
        match dynamodb.describe_table().table_name(&name).send().await {
            Ok(described) => {
                let keys = described.table().map(|t| t.key_schema()).unwrap_or_default();
                let ours = [(SHARD, KeyType::Hash), (SORT_KEY, KeyType::Range)];
                if !ours.iter().all(|(n, t)| keys.iter().any(|k| k.attribute_name() == *n && k.key_type() == t)) {
                    let message =
                        format!("table {name} has other keys than {SHARD} and {SORT_KEY}; name another table");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                self.step(resource, Action::Kept);
            }
            Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_not_found_exception()) => {
                if !self.dry_run {
                    self.create_table(&name).await?;
                }
                self.step(resource, Action::Created);
            }
            Err(error) => return Err(DESCRIBE_TABLE.error(&name, &error)),
        }
        if !self.dry_run {
            // Marks a new table with its layout, and refuses one of another.
            let images = S3Images::new(self.clients.s3.clone(), &self.config.bucket, &self.config.prefix);
            DynamoResults::open(dynamodb, &name, Arc::new(images)).await?;
        }
        Ok(())
    }

    async fn create_table(&self, name: &str) -> Result<()> {
        let key = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(unbuilt);
        let attribute = |name, kind| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(unbuilt)
        };
        let created = self
            .clients
            .dynamodb
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(key(SHARD, KeyType::Hash)?)
            .key_schema(key(SORT_KEY, KeyType::Range)?)
            .attribute_definitions(attribute(SHARD, ScalarAttributeType::N)?)
            .attribute_definitions(attribute(SORT_KEY, ScalarAttributeType::S)?)
            .send()
            .await;
        created.map_err(|e| CREATE_TABLE.error(name, &e))?;
        let end = Instant::now() + TABLE_WAIT;
        while Instant::now() < end {
            // Just created, it may not be found for a moment.
            let described = self.clients.dynamodb.describe_table().table_name(name).send().await;
            if described.is_ok_and(|d| d.table().and_then(|t| t.table_status()) == Some(&TableStatus::Active)) {
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
        }
        let message = format!("table {name} is created and not active after {TABLE_WAIT:?}; run `imgcls setup` again");
        Err(Error::new(ErrorKind::Transient, message))
    }
}

fn unbuilt(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, "cannot build the request").because(cause)
}

/// A notification of every created object below `prefix`. S3 names it: two of one name would be refused.
fn notification(arn: &str, prefix: &str) -> Result<QueueConfiguration> {
    let rule = FilterRule::builder().name(FilterRuleName::Prefix).value(prefix).build();
    let filter = NotificationConfigurationFilter::builder()
        .key(S3KeyFilter::builder().set_filter_rules(Some(vec![rule])).build())
        .build();
    QueueConfiguration::builder()
        .queue_arn(arn)
        .events(Event::S3ObjectCreated)
        .set_filter((!prefix.is_empty()).then_some(filter))
        .build()
        .map_err(unbuilt)
}

/// Whether a notification already tells our queue of everything below `prefix`.
fn tells_of(configuration: &QueueConfiguration, arn: &str, prefix: &str) -> bool {
    let rules = configuration.filter().and_then(|f| f.key()).map(|k| k.filter_rules()).unwrap_or_default();
    configuration.queue_arn() == arn
        && configuration.events().contains(&Event::S3ObjectCreated)
        && rules.iter().all(|rule| {
            let value = rule.value().unwrap_or_default();
            // Stores differ in how they write the rule's name: Prefix, prefix.
            let is_prefix = rule.name().is_some_and(|n| n.as_str().eq_ignore_ascii_case("prefix"));
            if is_prefix { prefix.starts_with(value) } else { value.is_empty() }
        })
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

    #[test]
    fn a_wider_notification_is_enough() {
        let arn = "arn:aws:sqs:eu-west-1:123456789012:q";
        let all = notification(arn, "").unwrap();
        let below = notification(arn, "in/").unwrap();
        assert!(tells_of(&all, arn, "in/") && tells_of(&below, arn, "in/") && tells_of(&below, arn, "in/more/"));
        assert!(!tells_of(&below, arn, "") && !tells_of(&all, "another", "in/"));
    }
}
