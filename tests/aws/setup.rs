//! `imgcls setup` on stores that hold others' things, and on stores and identities that do not suffice.

use std::collections::BTreeSet;

use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, Event, FilterRule, FilterRuleName, NotificationConfiguration,
    NotificationConfigurationFilter, QueueConfiguration, S3KeyFilter,
};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use super::{
    ministack,
    proxy::{Proxy, Verdict},
    system::System,
};

/// Standard output and error of a setup, and whether it went well.
fn setup(system: &System, args: &[&str]) -> (bool, String, String) {
    let output = system.tool(&[&["setup"], args].concat()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

async fn attribute(system: &System, queue: &str, name: QueueAttributeName) -> String {
    let url = system.queue_url(queue).await;
    let got = system.sqs.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await.unwrap();
    got.attributes().and_then(|a| a.get(&name)).cloned().unwrap_or_default()
}

/// A dry run changes nothing; a setup adds to what others have configured; a second one finds all as it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setup_adds_to_what_is_there_and_takes_nothing_away() {
    let system = System::bare(ministack().await, ministack().await).await;
    let (well, told, error) = setup(&system, &["--dry-run"]);
    assert!(well && told.lines().all(|line| line.ends_with(": would be created")), "{told}{error}");
    assert!(system.s3.head_bucket().bucket(system.bucket()).send().await.is_err());
    assert!(system.sqs.list_queues().send().await.unwrap().queue_urls().is_empty());
    assert!(system.dynamodb.list_tables().send().await.unwrap().table_names().is_empty());

    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "theirs", "Effect": "Deny", "Principal": "*", "Action": "sqs:PurgeQueue", "Resource": "*"}]});
    let create = system.sqs.create_queue().queue_name("images").attributes(QueueAttributeName::VisibilityTimeout, "77");
    create.attributes(QueueAttributeName::Policy, policy.to_string()).send().await.unwrap();
    system.sqs.create_queue().queue_name("theirs").send().await.unwrap();
    let place = CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::EuCentral1).build();
    let create = system.s3.create_bucket().bucket(system.bucket()).create_bucket_configuration(place);
    create.send().await.unwrap();
    let rule = FilterRule::builder().name(FilterRuleName::Prefix).value("theirs/").build();
    let theirs = QueueConfiguration::builder()
        .id("theirs")
        .queue_arn(attribute(&system, "theirs", QueueAttributeName::QueueArn).await)
        .events(Event::S3ObjectRemoved)
        .filter(
            NotificationConfigurationFilter::builder().key(S3KeyFilter::builder().filter_rules(rule).build()).build(),
        )
        .build()
        .unwrap();
    let notification = NotificationConfiguration::builder().queue_configurations(theirs).build();
    let put = system.s3.put_bucket_notification_configuration().bucket(system.bucket());
    put.notification_configuration(notification).send().await.unwrap();

    let (well, told, error) = setup(&system, &[]);
    assert!(well, "{told}{error}");
    let policy: Value = serde_json::from_str(&attribute(&system, "images", QueueAttributeName::Policy).await).unwrap();
    let sids: Vec<&str> = policy["Statement"].as_array().unwrap().iter().filter_map(|s| s["Sid"].as_str()).collect();
    assert!(sids.len() == 2 && sids.contains(&"theirs"), "{policy}");
    assert_eq!(attribute(&system, "images", QueueAttributeName::VisibilityTimeout).await, "77");
    let redrive: Value =
        serde_json::from_str(&attribute(&system, "images", QueueAttributeName::RedrivePolicy).await).unwrap();
    assert_eq!(redrive["maxReceiveCount"].to_string().trim_matches('"'), "10", "{redrive}");
    let got = system.s3.get_bucket_notification_configuration().bucket(system.bucket()).send().await.unwrap();
    let ids: BTreeSet<_> = got.queue_configurations().iter().filter_map(|q| q.id()).collect();
    assert!(got.queue_configurations().len() == 2 && ids.contains("theirs"), "{got:?}");

    let (well, told, error) = setup(&system, &[]);
    assert!(well && told.lines().all(|line| line.ends_with(": ok")), "{told}{error}");
    let again = system.s3.get_bucket_notification_configuration().bucket(system.bucket()).send().await.unwrap();
    assert_eq!(again.queue_configurations().len(), 2);
}

/// Whatever permission the identity lacks, the setup names it, and goes on where it ended once it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    let proxy = Proxy::start(ministack().await).await;
    let system = System::bare(ministack().await, &proxy.url).await;
    for (operation, permission) in [
        ("S3.HeadBucket", "s3:ListBucket"),
        ("S3.CreateBucket", "s3:CreateBucket"),
        ("S3.PutObject", "s3:PutObject"),
        ("S3.DeleteObject", "s3:DeleteObject"),
        ("SQS.CreateQueue", "sqs:CreateQueue"),
        ("SQS.GetQueueAttributes", "sqs:GetQueueAttributes"),
        ("SQS.SetQueueAttributes", "sqs:SetQueueAttributes"),
        ("S3.GetBucketNotification", "s3:GetBucketNotification"),
        ("S3.PutBucketNotification", "s3:PutBucketNotification"),
        ("DynamoDB.DescribeTable", "dynamodb:DescribeTable"),
        ("DynamoDB.CreateTable", "dynamodb:CreateTable"),
    ] {
        proxy.judge(move |call| if call.operation == operation { Verdict::Deny } else { Verdict::Pass });
        let (well, told, error) = setup(&system, &[]);
        assert!(!well && error.contains(&format!("IAM permission {permission}")), "{operation}: {told}{error}");
    }
    proxy.judge(|_| Verdict::Pass);
    let (well, told, error) = setup(&system, &[]);
    assert!(well, "{told}{error}");
}

/// A store that takes a conditional write for an ordinary one is refused: uploads could overwrite each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_conditional_writes_is_refused() {
    let proxy = Proxy::start(ministack().await).await;
    let system = System::bare(ministack().await, &proxy.url).await;
    proxy.judge(|_| Verdict::Without("if-none-match"));
    let (well, told, error) = setup(&system, &[]);
    assert!(!well && error.contains("ignores If-None-Match"), "{told}{error}");
    assert!(system.keys(&system.output_bucket()).await.is_empty(), "the probe's object is left");
}
