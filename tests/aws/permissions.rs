//! The roles of the template allow what the code calls and nothing else: all of it is done with the roles' policies in
//! force, and the calls that are made are compared with the actions that are allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{BucketVersioningStatus, Tag, VersioningConfiguration};
use serde_json::Value;

use super::{
    emulator::Emulator,
    machines::{Machines, Size},
    pictures,
    proxy::{Call, Proxy, Verdict},
    stack::{Account, STACK, settings},
    system::System,
};
use crate::support::{client_builder, eventually, upload};

/// Statements of what an instance does before the binary runs: the scripts' calls, not the code's.
const OF_THE_BOOT: [(&str, &[&str]); 4] = [
    ("Launch", &["autoscaling:CompleteLifecycleAction"]),
    ("Release", &["s3:GetObject"]),
    ("Tokens", &["ssm:GetParameter"]),
    ("Logs", &["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]),
];

/// The permission that a call needs.
fn permission(call: &Call) -> String {
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
    format!("{}:{action}", service.to_lowercase())
}

/// One role of the template, as a user with its policy.
struct Identity {
    key: String,
    secret: String,
    allowed: BTreeSet<String>,
    proxy: Proxy,
    called: Arc<Mutex<BTreeSet<String>>>,
}

impl Identity {
    async fn new(account: &Account, role: &str, dir: &Path) -> Self {
        let resource = account.aws(&format!(
            "cloudformation describe-stack-resource --stack-name {STACK} --logical-resource-id {role}Role"
        ));
        let name = resource["StackResourceDetail"]["PhysicalResourceId"].as_str().unwrap();
        let policy = role.to_lowercase();
        let policy = account.aws(&format!("iam get-role-policy --role-name {name} --policy-name {policy}"));
        let policy = &policy["PolicyDocument"];
        let file = dir.join(format!("{role}.json"));
        std::fs::write(&file, as_emulated(policy).to_string()).unwrap();
        account.aws(&format!("iam create-user --user-name {role}"));
        let document = format!("file://{}", file.display());
        account.aws(&format!("iam put-user-policy --user-name {role} --policy-name all --policy-document {document}"));
        let key = account.aws(&format!("iam create-access-key --user-name {role}"));
        let field = |name: &str| key["AccessKey"][name].as_str().unwrap().to_owned();
        let proxy = Proxy::start(&account.endpoint).await;
        let called = Arc::<Mutex<BTreeSet<String>>>::default();
        proxy.judge({
            let called = Arc::clone(&called);
            let failures = AtomicU32::new(0);
            move |call| {
                called.lock().unwrap().insert(permission(call));
                // One image's output cannot be written until the SDK has given up once, so that its message comes back.
                let is_failing = call.operation == "S3.PutObject" && call.path.contains("again.png_");
                let fails = is_failing && failures.fetch_add(1, Ordering::Relaxed) < 6;
                if fails { Verdict::Fail } else { Verdict::Pass }
            }
        });
        Self { key: field("AccessKeyId"), secret: field("SecretAccessKey"), allowed: allowed(policy), proxy, called }
    }

    /// Has a command of the stack run as this role's instance would run it.
    fn own(&self, command: &mut Command, settings: &BTreeMap<String, String>) {
        let settings = settings.iter().filter(|(key, _)| key.as_str() != "IMGCLS_WEB_LISTEN");
        command
            .envs(settings)
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ENDPOINT_URL", &self.proxy.url)
            .env("AWS_ACCESS_KEY_ID", &self.key)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret);
    }

    /// Panics unless what was called is what is allowed.
    fn compare(&self, role: &str, auto_scaling: BTreeMap<String, u64>) {
        let mut called = self.called.lock().unwrap().clone();
        // Without it S3 would not tell a key that is missing from one that is forbidden.
        if called.contains("s3:GetObject") {
            called.insert("s3:ListBucket".to_owned());
        }
        // The emulator cannot move messages by itself, so there is no task to watch.
        if called.contains("sqs:StartMessageMoveTask") {
            called.insert("sqs:ListMessageMoveTasks".to_owned());
        }
        called.extend(auto_scaling.keys().map(|name| name.replace("AutoScaling.", "autoscaling:")));
        let missing: Vec<_> = called.difference(&self.allowed).collect();
        let spare: Vec<_> = self.allowed.difference(&called).collect();
        assert!(missing.is_empty() && spare.is_empty(), "{role}: missing {missing:?}, never called {spare:?}");
    }
}

/// A policy as the emulator wants it: there batches and transactions are actions of their own, and tasks that move
/// messages are on no resource.
fn as_emulated(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let tasks = ["sqs:StartMessageMoveTask", "sqs:ListMessageMoveTasks"];
    let statements = policy["Statement"].as_array_mut().unwrap();
    if let Some(results) = statements.iter_mut().find(|statement| statement["Sid"] == "Results") {
        results["Action"].as_array_mut().unwrap().push("dynamodb:TransactWriteItems".into());
    }
    let Some(queue) = statements.iter_mut().find(|statement| statement["Sid"] == "Queue") else { return policy };
    let actions = queue["Action"].as_array_mut().unwrap();
    let has_tasks = actions.iter().any(|action| action == tasks[0]);
    let batches: Vec<Value> =
        actions.iter().filter_map(Value::as_str).map(|action| Value::from(format!("{action}Batch"))).collect();
    actions.extend(batches);
    if has_tasks {
        statements.push(serde_json::json!({ "Effect": "Allow", "Action": tasks, "Resource": "*" }));
    }
    policy
}

/// The actions of a policy, those of the boot excepted, which must be as expected.
fn allowed(policy: &Value) -> BTreeSet<String> {
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
            None => all.extend(actions),
        }
    }
    all
}

/// Everything that the page and the scaler do.
async fn use_the_web_tier(system: &System, url: &str, client: &reqwest::Client) {
    let get = async |path: &str| {
        let answer = client.get(format!("{url}{path}")).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {} {}", answer.status(), answer.text().await.unwrap());
    };
    let post = async |path: &str, form: &[(&str, &str)]| {
        let request = client.post(format!("{url}{path}")).header("accept", "application/json");
        let answer = request.form(form).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {} {}", answer.status(), answer.text().await.unwrap());
    };
    let pictures = pictures();
    let files = [("a.png", 0), ("a.png", 1), ("b.png", 2)].map(|(name, i)| (name.to_owned(), pictures[i].clone()));
    let stored = upload(client, url, files).await;
    assert!(stored.iter().all(|entry| entry["error"].is_null()), "{stored:?}");
    for path in [
        "/",
        "/results",
        "/api/results",
        "/api/results?label=cat",
        "/api/counts",
        "/api/results.csv",
        "/status",
        "/api/status",
        "/readyz",
        "/metrics",
    ] {
        get(path).await;
    }
    get("/images/a.png").await;
    let names = client.post(format!("{url}/api/results/lookup")).json(&["a.png", "b.png"]).send().await.unwrap();
    assert!(names.status().is_success(), "{}", names.status());
    let gone = client.delete(format!("{url}/images/b.png")).send().await.unwrap();
    assert!(gone.status().is_success(), "{}", gone.status());
    post("/requeue", &[("which", "missing")]).await;
    post("/requeue", &[("which", "all")]).await;
    let dead = system.queue_url(&format!("{}-dead", system.names.queue)).await;
    let bury = async || {
        system.sqs.send_message().queue_url(&dead).message_body("{}").send().await.unwrap();
    };
    bury().await;
    get("/queue/dead").await;
    post("/queue/redrive", &[]).await;
    bury().await;
    post("/queue/drop", &[]).await;
}

/// A reset where somebody keeps versions, which it takes too.
async fn reset_versions(system: &System, url: &str, client: &reqwest::Client) {
    let files = [("c.png".to_owned(), pictures()[3].clone())];
    upload(client, url, files).await;
    let reset = client.post(format!("{url}/reset")).header("accept", "application/json").send().await.unwrap();
    assert!(reset.status().is_success(), "{}", reset.text().await.unwrap());
    assert!(system.keys(&system.bucket()).await.is_empty());
}

/// A client of the page with its token.
pub(crate) fn client(token: &str) -> reqwest::Client {
    let mut bearer = reqwest::header::HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    bearer.set_sensitive(true);
    let headers = std::iter::once((reqwest::header::AUTHORIZATION, bearer)).collect();
    client_builder().default_headers(headers).build().unwrap()
}

/// Leaves heartbeats of so many workers behind that the next one sums them up.
async fn leave_old_heartbeats(system: &System) {
    for i in 0..70 {
        let worker = format!("gone-{i}");
        let beat = serde_json::json!({
            "worker": worker, "started_at_ms": 0, "seen_at_ms": 1, "in_flight": 0, "draining": true,
            "done": 0, "failed": 0, "busy_ms": 0, "minutes": {}, "labels": {},
        });
        let put = system.dynamodb.put_item().table_name(&system.names.table);
        let put = put.item("Shard", AttributeValue::N("-2".to_owned())).item("SortKey", AttributeValue::S(worker));
        put.item("Heartbeat", AttributeValue::S(beat.to_string())).send().await.unwrap();
    }
}

/// Everything that a worker does; its group takes it away in the end.
async fn use_the_app_tier(system: &System, machines: &mut Machines<'_>) {
    let pictures = pictures();
    let labels = system.labels(&pictures);
    let other = labels.iter().position(|label| *label != labels[0]).expect("the pictures have more labels than one");
    let result = async |machines: &mut Machines<'_>, name: &str, label: &str| {
        eventually("a result", async || {
            machines.follow().await;
            let rows = system.rows().await;
            rows.get(name).is_some_and(|row| row.as_deref() == Ok(label)).then_some(())
        })
        .await;
    };
    system.put("a.png", &pictures[0]).await;
    result(machines, "a.png", &labels[0]).await;
    // Tags of others are kept, an output of another label is removed.
    let tag = Tag::builder().key("owner").value("me").build().unwrap();
    let put = system.s3.put_object().bucket(system.bucket()).key("in/a.png").tagging("owner=me");
    put.body(pictures[other].clone().into()).send().await.unwrap();
    result(machines, "a.png", &labels[other]).await;
    let tags = system.s3.get_object_tagging().bucket(system.bucket()).key("in/a.png").send().await.unwrap();
    assert!(tags.tag_set().contains(&tag), "{tags:?}");
    let mut outputs = system.keys(&system.output_bucket()).await;
    outputs.retain(|key| key.starts_with("a.png_"));
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    system.put("broken.png", b"no picture").await;
    eventually("an error", async || {
        machines.follow().await;
        system.rows().await.get("broken.png").is_some_and(Result::is_err).then_some(())
    })
    .await;
    // An event that is older than the row changes nothing, and what it wrote before it knew is put right.
    let queue = system.queue_url(&system.names.queue).await;
    let key = serde_json::json!({ "key": "in/a.png", "sequencer": "00" });
    let object = serde_json::json!({ "bucket": { "name": system.bucket() }, "object": key });
    let older = serde_json::json!({ "Records": [{ "eventName": "ObjectCreated:Put", "s3": object }] }).to_string();
    system.sqs.send_message().queue_url(&queue).message_body(older).send().await.unwrap();
    // A store that fails for a while brings the message back.
    system.put("again.png", &pictures[0]).await;
    result(machines, "again.png", &labels[0]).await;
    eventually("an empty queue", async || (system.depth(&system.names.queue).await == (0, 0)).then_some(())).await;
    // Idle, it drops its protection, and takes it again for the next image.
    let protections = |machines: &Machines<'_>| machines.calls().get("AutoScaling.SetInstanceProtection").copied();
    eventually("a worker without protection", async || protections(machines).filter(|n| *n > 0)).await;
    system.put("b.png", &pictures[0]).await;
    result(machines, "b.png", &labels[0]).await;
}

/// Has the scaler let workers go that something keeps protected, until none is left.
async fn scale_in(machines: &mut Machines<'_>, scaling: &Proxy, scale: impl AsyncFn()) {
    eventually("a worker that is let go", async || {
        machines.follow().await;
        machines.protect().await;
        scale().await;
        scaling.counts().contains_key("AutoScaling.SetInstanceProtection").then_some(())
    })
    .await;
    eventually("an empty fleet", async || {
        scale().await;
        let instances = machines.follow().await;
        (instances == 0 && machines.running() == 0).then_some(())
    })
    .await;
}

/// With the roles' policies in force all works, and no action is allowed in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_allow_what_is_called_and_nothing_else() {
    let ministack = tokio::task::spawn_blocking(Emulator::guarded_ministack).await.unwrap();
    let account = Account { id: Emulator::ROOT.to_owned(), endpoint: ministack.url.clone() };
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("imgcls");
    std::fs::write(&binary, "not run").unwrap();
    account.deploy(&binary, &[]);
    let system = account.system(&ministack.url).await;
    for bucket in [system.bucket(), system.output_bucket()] {
        // It refuses connections in clear, and the emulator has no others.
        account.aws(&format!("s3api delete-bucket-policy --bucket {bucket}"));
    }
    let (web, app) =
        (Identity::new(&account, "Web", dir.path()).await, Identity::new(&account, "App", dir.path()).await);
    let web_settings = settings(&account.user_data(&format!("{STACK}-web")));
    let app_settings = settings(&account.user_data(&format!("{STACK}-app")));

    let size = Size { min: 0, max: 2, desired: 0 };
    let launch = {
        let mut command = system.tool(&["work", "--threads", "1"]);
        app.own(&mut command, &app_settings);
        let variables: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        move |_: &str, metadata: &str, auto_scaling: &str| {
            let mut command = crate::support::imgcls();
            command.args(["work", "--threads", "1"]);
            for (key, value) in &variables {
                if let Some(value) = value {
                    command.env(key, value);
                }
            }
            command.env_remove("AWS_EC2_METADATA_DISABLED").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata);
            command.env("AWS_ENDPOINT_URL_AUTO_SCALING", auto_scaling).env("IMGCLS_WORKER_RECEIVERS", "4");
            command
        }
    };
    let mut machines = Machines::group(&system, &format!("{STACK}-app"), size, Some(Box::new(launch))).await;

    // The scaler's calls apart from the workers'.
    let scaling = Proxy::start(machines.moto_url()).await;
    let serve = || {
        let mut serve = system.tool(&["serve", "--listen", "127.0.0.1:0"]);
        web.own(&mut serve, &web_settings);
        serve.env("AWS_ENDPOINT_URL_AUTO_SCALING", &scaling.url).env("IMGCLS_WEB_TOKEN", account.token());
        system.listen(serve)
    };
    let client = client(&account.token());
    let (first, url) = serve();
    use_the_web_tier(&system, &url, &client).await;
    let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let put = system.s3.put_bucket_versioning().bucket(system.bucket()).versioning_configuration(versioning);
    put.send().await.unwrap();
    // A process looks once whether there are versions.
    let (second, url) = serve();
    reset_versions(&system, &url, &client).await;
    for role in [first, second] {
        assert!(!role.log().contains("not authorized"), "{}", role.log());
    }
    leave_old_heartbeats(&system).await;
    system.put("d.png", &pictures()[0]).await;
    let scale = async || {
        let mut command = system.tool(&["scale"]);
        web.own(&mut command, &web_settings);
        command.env("AWS_ENDPOINT_URL_AUTO_SCALING", &scaling.url);
        for (key, value) in [("INTERVAL", "1s"), ("COOLDOWN_OUT", "0s"), ("COOLDOWN_IN", "0s"), ("WARMUP", "0s")] {
            command.env(format!("IMGCLS_SCALING_{key}"), value);
        }
        let mut role = system.start(command, Stdio::null());
        let status = role.ended(Duration::from_secs(60)).await;
        assert!(status.success(), "{}", role.log());
    };
    eventually("the first worker", async || {
        scale().await;
        (machines.desired().await == 1).then_some(())
    })
    .await;
    use_the_app_tier(&system, &mut machines).await;
    scale_in(&mut machines, &scaling, &scale).await;
    web.compare("web", scaling.counts());
    app.compare("app", machines.calls());
}
