//! A whole system of real processes on an emulator: `setup`, `serve`, `work`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, Region, timeout::TimeoutConfig};
use aws_sdk_s3::config::Credentials;

use super::emulator;
use crate::support::{DEADLINE, imgcls};

/// What the resources of a system are called.
pub(crate) struct Names {
    pub(crate) bucket: String,
    pub(crate) output_bucket: String,
    pub(crate) queue: String,
    pub(crate) table: String,
}

/// Names and endpoint of one system; its files go when it is dropped.
pub(crate) struct System {
    pub(crate) account: String,
    pub(crate) names: Names,
    endpoint: String,
    dir: tempfile::TempDir,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
}

/// A running role; killed when dropped.
pub(crate) struct Role {
    child: Child,
    log: PathBuf,
}

/// An emulator that leaves a call without an answer is asked again, and not for ever.
pub(crate) fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(60)).operation_timeout(DEADLINE).build()
}

impl System {
    /// A system that nobody has set up yet at the emulator `upstream`; its processes talk to `endpoint`.
    pub(crate) async fn bare(upstream: &str, endpoint: &str) -> Self {
        Self::of(emulator::account(), upstream, endpoint).await
    }

    /// The system of an account at the emulator `upstream`; its processes talk to `endpoint`.
    pub(crate) async fn of(account: String, upstream: &str, endpoint: &str) -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(upstream)
            .region(Region::from_static("eu-central-1"))
            .timeout_config(timeouts())
            .credentials_provider(Credentials::new(&account, "secret", None, None, "test"))
            .load()
            .await;
        let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        let names = Names {
            bucket: format!("in-{account}"),
            output_bucket: format!("out-{account}"),
            queue: "images".to_owned(),
            table: "Classifications".to_owned(),
        };
        Self {
            account,
            names,
            endpoint: endpoint.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            s3: aws_sdk_s3::Client::from_conf(s3),
            sqs: aws_sdk_sqs::Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
        }
    }

    /// A fresh system that `imgcls setup` made.
    pub(crate) async fn new(upstream: &str, endpoint: &str) -> Self {
        let system = Self::bare(upstream, endpoint).await;
        let output = system.tool(&["setup"]).env("AWS_ENDPOINT_URL", upstream).output().unwrap();
        assert!(output.status.success(), "setup: {}", String::from_utf8_lossy(&output.stderr));
        // The bucket greets a queue that it is told to notify; the tests count messages.
        let url = system.queue_url("images").await;
        let greetings = system.sqs.receive_message().queue_url(&url).wait_time_seconds(5).send().await.unwrap();
        for greeting in greetings.messages.unwrap_or_default() {
            let receipt = greeting.receipt_handle.unwrap();
            system.sqs.delete_message().queue_url(&url).receipt_handle(receipt).send().await.unwrap();
        }
        system
    }

    pub(crate) fn bucket(&self) -> String {
        self.names.bucket.clone()
    }

    pub(crate) fn output_bucket(&self) -> String {
        self.names.output_bucket.clone()
    }

    /// The binary on this system.
    pub(crate) fn tool(&self, args: &[&str]) -> Command {
        let mut command = imgcls();
        command
            .args(args)
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", &self.account)
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("IMGCLS_BACKEND", "aws")
            .env("IMGCLS_DATA_DIR", self.dir.path())
            .env("IMGCLS_AWS_BUCKET", self.bucket())
            .env("IMGCLS_AWS_PREFIX", "in/")
            .env("IMGCLS_AWS_OUTPUT_BUCKET", self.output_bucket())
            .env("IMGCLS_AWS_QUEUE_URL", &self.names.queue)
            .env("IMGCLS_AWS_TABLE", &self.names.table);
        command
    }

    /// Starts a role and writes its log to a file.
    pub(crate) fn start(&self, mut command: Command, stdout: Stdio) -> Role {
        let log = self.dir.path().join(format!("log-{:016x}", rand::random::<u64>()));
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(file).spawn().unwrap();
        Role { child, log }
    }

    /// Starts a worker.
    pub(crate) fn work(&self, args: &[&str]) -> Role {
        self.start(self.tool(&[&["work"], args].concat()), Stdio::null())
    }

    /// Starts the web tier and answers its address.
    pub(crate) fn serve(&self) -> (Role, String) {
        self.listen(self.tool(&["serve", "--listen", "127.0.0.1:0"]))
    }

    /// Starts a web tier by this command and answers its address.
    pub(crate) fn listen(&self, serve: Command) -> (Role, String) {
        let mut role = self.start(serve, Stdio::piped());
        let mut line = String::new();
        BufReader::new(role.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        (role, url.unwrap_or_else(|| panic!("no address in {line:?}")))
    }

    pub(crate) async fn queue_url(&self, name: &str) -> String {
        self.sqs.get_queue_url().queue_name(name).send().await.unwrap().queue_url.unwrap()
    }

    /// Messages in a queue: visible, in flight.
    pub(crate) async fn depth(&self, name: &str) -> (u64, u64) {
        use aws_sdk_sqs::types::QueueAttributeName as Name;
        let url = self.queue_url(name).await;
        let got = self.sqs.get_queue_attributes().queue_url(url).attribute_names(Name::All).send().await.unwrap();
        let count = |name| got.attributes().and_then(|a| a.get(&name)).map_or(0, |n| n.parse().unwrap());
        (count(Name::ApproximateNumberOfMessages), count(Name::ApproximateNumberOfMessagesNotVisible))
    }

    /// Sets attributes of the queue.
    pub(crate) async fn set_queue(&self, attributes: &[(aws_sdk_sqs::types::QueueAttributeName, String)]) {
        let mut set = self.sqs.set_queue_attributes().queue_url(self.queue_url("images").await);
        for (name, value) in attributes {
            set = set.attributes(name.clone(), value);
        }
        set.send().await.unwrap();
    }

    /// The attribute that makes a message a dead letter after so many receives.
    pub(crate) async fn redrive_after(&self, receives: u32) -> (aws_sdk_sqs::types::QueueAttributeName, String) {
        use aws_sdk_sqs::types::QueueAttributeName as Name;
        let dead = self.queue_url("images-dead").await;
        let got = self.sqs.get_queue_attributes().queue_url(dead).attribute_names(Name::All).send().await.unwrap();
        let arn = &got.attributes().unwrap()[&Name::QueueArn];
        let policy = serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": receives});
        (Name::RedrivePolicy, policy.to_string())
    }

    /// Stores an image as any other tool would.
    pub(crate) async fn put(&self, name: &str, bytes: &[u8]) {
        let put = self.s3.put_object().bucket(self.bucket()).key(format!("in/{name}")).body(bytes.to_vec().into());
        put.send().await.unwrap();
    }

    /// All rows of the table: image, then label or error.
    pub(crate) async fn rows(&self) -> BTreeMap<String, Result<String, String>> {
        let mut rows = BTreeMap::new();
        let mut pages = self.dynamodb.scan().table_name(&self.names.table).into_paginator().items().send();
        while let Some(item) = pages.next().await {
            let item = item.unwrap();
            let text = |name: &str| item.get(name).map(|v| v.as_s().unwrap().clone());
            let Some(name) = text("ImageName") else { continue };
            let outcome = match text("Error") {
                Some(error) => Err(error),
                None => Ok(text("Classification").unwrap()),
            };
            assert_eq!(rows.insert(name.clone(), outcome), None, "two rows of {name}");
        }
        rows
    }

    /// How many images each worker did, by its last heartbeat.
    pub(crate) async fn done(&self) -> BTreeMap<String, u64> {
        use aws_sdk_dynamodb::types::AttributeValue as Value;
        let query = self.dynamodb.query().table_name(&self.names.table).key_condition_expression("#s = :beats");
        // A reserved word.
        let query = query.expression_attribute_names("#s", "Shard");
        let beats = query.expression_attribute_values(":beats", Value::N("-2".to_owned())).send().await.unwrap();
        let done = |item: &std::collections::HashMap<String, Value>| {
            let beat: serde_json::Value = serde_json::from_str(item["Heartbeat"].as_s().unwrap()).unwrap();
            (beat["worker"].as_str().unwrap().to_owned(), beat["done"].as_u64().unwrap())
        };
        beats.items().iter().map(done).collect()
    }

    /// The keys of a bucket.
    pub(crate) async fn keys(&self, bucket: &str) -> Vec<String> {
        let mut pages = self.s3.list_objects_v2().bucket(bucket).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.unwrap().contents().iter().filter_map(|o| o.key().map(str::to_owned)));
        }
        keys
    }

    /// The labels that the binary gives to these pictures without any service.
    pub(crate) fn labels(&self, pictures: &[Vec<u8>]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..pictures.len()).map(|i| dir.path().join(format!("{i}.png"))).collect();
        for (path, picture) in paths.iter().zip(pictures) {
            std::fs::write(path, picture).unwrap();
        }
        let output = imgcls().args(["classify", "--json"]).args(&paths).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let label =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["label"].as_str().unwrap().to_owned();
        lines.lines().map(label).collect()
    }
}

impl Role {
    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
    }

    /// How it ended, if it did.
    pub(crate) fn status(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self, within: Duration) -> std::process::ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; its log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}
