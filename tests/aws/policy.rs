//! What a policy of the template allows, and what a call needs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::proxy::Call;

/// Statements of what an instance does before the binary runs: the scripts' calls, not the code's.
const OF_THE_BOOT: [(&str, &[&str]); 4] = [
    ("Launch", &["autoscaling:CompleteLifecycleAction"]),
    ("Release", &["s3:GetObject"]),
    ("Tokens", &["ssm:GetParameter"]),
    ("Logs", &["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]),
];

/// The permission that a call needs, for a bucket or a queue with its name.
pub(crate) fn permission(call: &Call) -> String {
    let (service, operation) = call.operation.split_once('.').unwrap();
    let of_version = || call.path.contains("versionId=") || call.body.windows(11).any(|part| part == b"<VersionId>");
    let action = match operation {
        "HeadObject" => "GetObject",
        "HeadBucket" => "ListBucket",
        "ListOrGetBucket" if call.path.contains("versioning") => "GetBucketVersioning",
        "ListOrGetBucket" if call.path.contains("versions") => "ListBucketVersions",
        "ListOrGetBucket" => "ListBucket",
        "OtherBucket" | "DeleteObject" if of_version() => "DeleteObjectVersion",
        "OtherBucket" => "DeleteObject",
        // Its other half is a put, which a worker makes on its own too.
        "TransactWriteItems" => "DeleteItem",
        other => other.strip_suffix("Batch").filter(|_| service == "SQS").unwrap_or(other),
    };
    let action = format!("{}:{action}", service.to_lowercase());
    match service {
        "S3" => on(&action, call.path.split(['/', '?']).nth(1).unwrap()),
        "SQS" => {
            let body: Value = serde_json::from_slice(&call.body).unwrap();
            let queue = ["QueueUrl", "QueueName", "SourceArn"].iter().find_map(|key| body[key].as_str()).unwrap();
            on(&action, queue.rsplit(['/', ':']).next().unwrap())
        }
        _ => action,
    }
}

/// An action, and what it is done to.
fn on(action: &str, what: &str) -> String {
    format!("{action} on {what}")
}

/// A policy as the emulator wants it: there batches and transactions are actions of their own, and tasks that move messages are on no
/// resource.
pub(crate) fn as_emulated(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let tasks = ["sqs:StartMessageMoveTask", "sqs:ListMessageMoveTasks"];
    let statements = policy["Statement"].as_array_mut().unwrap();
    if let Some(results) = statements.iter_mut().find(|statement| statement["Sid"] == "Results") {
        results["Action"].as_array_mut().unwrap().push("dynamodb:TransactWriteItems".into());
    }
    let mut has_tasks = false;
    for actions in statements.iter_mut().filter_map(|statement| statement["Action"].as_array_mut()) {
        has_tasks |= actions.iter().any(|action| action == tasks[0]);
        let of_queues = actions.iter().filter_map(Value::as_str).filter(|action| action.starts_with("sqs:"));
        let batches: Vec<Value> = of_queues.map(|action| Value::from(format!("{action}Batch"))).collect();
        actions.extend(batches);
    }
    if has_tasks {
        statements.push(serde_json::json!({ "Effect": "Allow", "Action": tasks, "Resource": "*" }));
    }
    policy
}

/// The actions of a policy with the buckets and queues that they are allowed on, those of the boot excepted, which must be as expected.
pub(crate) fn allowed(policy: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        let actions: Vec<String> = match &statement["Action"] {
            Value::String(action) => vec![action.clone()],
            actions => serde_json::from_value(actions.clone()).unwrap(),
        };
        assert!(actions.iter().all(|action| !action.contains('*')), "{statement}");
        match OF_THE_BOOT.iter().find(|(sid, _)| statement["Sid"] == *sid) {
            Some((_, expected)) => assert_eq!(actions, *expected),
            None => all.extend(actions.iter().flat_map(|action| {
                let is_on_one = ["s3:", "sqs:"].iter().any(|service| action.starts_with(service));
                let resources = if is_on_one { resources(&statement["Resource"]) } else { vec![String::new()] };
                resources.into_iter().map(|name| if name.is_empty() { action.clone() } else { on(action, &name) })
            })),
        }
    }
    all
}

/// The names of the buckets or queues of a statement.
fn resources(of: &Value) -> Vec<String> {
    let arns = of.as_array().cloned().unwrap_or_else(|| vec![of.clone()]);
    let name = |arn: &Value| arn.as_str().unwrap().rsplit(':').next().unwrap().trim_end_matches("/*").to_owned();
    arns.iter().map(name).collect()
}
