//! Buckets, and the notification that tells the queue of new objects.

use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, Event, FilterRule, FilterRuleName, NotificationConfiguration,
    NotificationConfigurationFilter, QueueConfiguration, S3KeyFilter,
};

use super::{
    super::client::{Call, status},
    Action, Setup, unbuilt,
};
use crate::backend::{Error, ErrorKind, Result};

const HEAD_BUCKET: Call = Call::new("look for bucket", "s3:ListBucket");
const CREATE_BUCKET: Call = Call::new("create bucket", "s3:CreateBucket");
const PROBE: Call = Call::new("try a conditional write in bucket", "s3:PutObject");
const GET_NOTIFICATION: Call = Call::new("read the notifications of bucket", "s3:GetBucketNotification");
const PUT_NOTIFICATION: Call = Call::new("set the notifications of bucket", "s3:PutBucketNotification");

impl Setup<'_> {
    /// True if the bucket is there now.
    pub(super) async fn bucket(&mut self, name: &str) -> Result<bool> {
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
    pub(super) async fn probe(&mut self, bucket: &str) -> Result<()> {
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
                    "the store of bucket {bucket} ignores If-None-Match, so that uploads of one name could overwrite \
                     each other; use one that has conditional writes"
                ),
            )),
            Err(error) if matches!(status(&error), Some(409 | 412)) => {
                self.step(format!("conditional writes in bucket {bucket}"), Action::Kept);
                Ok(())
            }
            Err(error) => Err(PROBE.error(bucket, &error)),
        }
    }

    /// Has the bucket tell the queue of new objects.
    pub(super) async fn notify(&mut self, bucket: &str, arn: &str) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_notification_is_enough() {
        let arn = "arn:aws:sqs:eu-west-1:123456789012:q";
        let all = notification(arn, "").unwrap();
        let below = notification(arn, "in/").unwrap();
        assert!(tells_of(&all, arn, "in/") && tells_of(&below, arn, "in/") && tells_of(&below, arn, "in/more/"));
        assert!(!tells_of(&below, arn, "") && !tells_of(&all, "another", "in/"));
    }
}
