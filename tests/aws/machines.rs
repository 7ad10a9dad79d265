//! Machines for the app tier: moto's Auto Scaling group, and for each instance that it lists a worker process with a
//! metadata service of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_autoscaling::{Client, config::Credentials, types::AutoScalingGroup};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, Uri},
    routing::put,
};

use super::{
    emulator::Emulator,
    proxy::{Call, Proxy, Verdict},
    system::{Role, System, timeouts},
};

/// What moto does not know: a lifecycle action to complete.
const COMPLETED: &str = "<CompleteLifecycleActionResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
    <CompleteLifecycleActionResult/><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
    </CompleteLifecycleActionResponse>";

/// What moto does not mind: protecting an instance that is being taken away.
const NOT_IN_SERVICE: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code>\
    <Message>The instance is not in InService or EnteringStandby or Standby.</Message></Error></ErrorResponse>";

/// What moto never says: that an earlier change is not finished.
pub(crate) const IN_PROGRESS: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>ScalingActivityInProgress</Code>\
    <Message>Scaling activity is in progress.</Message></Error></ErrorResponse>";

/// What moto never says: that a permission is missing.
pub(crate) const DENIED: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\
    <Message>User is not authorized.</Message></Error></ErrorResponse>";

/// A group and the machines that it has, or had.
pub(crate) struct Machines<'a> {
    system: &'a System,
    name: String,
    group: Client,
    proxy: Proxy,
    departures: Arc<Mutex<Departures>>,
    running: BTreeMap<String, Machine>,
    launch: Option<Launch>,
    moto: Emulator,
}

/// How an instance of this id, with a metadata service and an Auto Scaling at these addresses, is started.
type Launch = Box<dyn Fn(&str, &str, &str) -> Command + Send + Sync>;

/// The bounds and the start of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) min: i32,
    pub(crate) max: i32,
    pub(crate) desired: i32,
}

/// Instances that the group has taken away.
#[derive(Default)]
struct Departures {
    taken: BTreeSet<String>,
    completed: BTreeSet<String>,
    /// Calls that completed a launch, each of which is refused at first.
    launched: BTreeSet<String>,
}

/// A worker process, and what its metadata service tells it.
struct Machine {
    worker: Role,
    facts: Arc<Mutex<Facts>>,
}

/// What an instance may learn of its end.
pub(crate) struct Facts {
    target_state: &'static str,
    is_interrupted: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self { target_state: "InService", is_interrupted: false }
    }
}

impl<'a> Machines<'a> {
    /// A group of one instance and at most `max`, whose instances are born protected and wait to be told that they may
    /// end.
    pub(crate) async fn new(system: &'a System, max: i32) -> Self {
        Self::group(system, "app", Size { min: 1, max, desired: 1 }, None).await
    }

    /// Such a group of this name and size; its instances are started by `launch`, or are workers of this system.
    pub(crate) async fn group(system: &'a System, name: &str, size: Size, launch: Option<Launch>) -> Self {
        let moto = tokio::task::spawn_blocking(Emulator::moto).await.unwrap();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(&moto.url)
            .region(Region::from_static("eu-central-1"))
            .timeout_config(timeouts())
            .credentials_provider(Credentials::new(&system.account, "secret", None, None, "test"))
            .load()
            .await;
        let group = Client::new(&config);
        let configuration =
            group.create_launch_configuration().launch_configuration_name(name).image_id("ami-12c6146b");
        configuration.instance_type("t2.micro").send().await.unwrap();
        let create = group.create_auto_scaling_group().auto_scaling_group_name(name).launch_configuration_name(name);
        let create = create.min_size(size.min).max_size(size.max).desired_capacity(size.desired);
        let create = create.availability_zones("eu-central-1a");
        create.new_instances_protected_from_scale_in(true).send().await.unwrap();
        let hook = group.put_lifecycle_hook().auto_scaling_group_name(name).lifecycle_hook_name("drain");
        hook.lifecycle_transition("autoscaling:EC2_INSTANCE_TERMINATING").send().await.unwrap();
        let departures = Arc::<Mutex<Departures>>::default();
        let proxy = Proxy::start(&moto.url).await;
        proxy.judge({
            let departures = Arc::clone(&departures);
            move |call| departures.lock().unwrap().judge(call)
        });
        let (name, running) = (name.to_owned(), BTreeMap::new());
        Self { system, name, group, proxy, departures, running, launch, moto }
    }

    /// The binary on this system, with its group.
    pub(crate) fn tool(&self, args: &[&str]) -> Command {
        let mut command = self.system.tool(args);
        command.env("AWS_ENDPOINT_URL_AUTO_SCALING", &self.proxy.url).env("IMGCLS_AWS_AUTO_SCALING_GROUP", &self.name);
        command
    }

    /// Answers calls of `operation` like this from now on, and all others as they should be.
    pub(crate) fn answer(&self, operation: &'static str, status: StatusCode, body: &'static str) {
        let departures = Arc::clone(&self.departures);
        self.proxy.judge(move |call| match call.operation == operation {
            true => Verdict::Answer(status, body),
            false => departures.lock().unwrap().judge(call),
        });
    }

    /// Does what the group and EC2 do all the time: takes instances away that are too many, starts and stops machines.
    /// Answers how many instances the group has.
    pub(crate) async fn follow(&mut self) -> usize {
        let mut group = self.describe().await;
        let desired = group.desired_capacity().unwrap();
        let unprotected = group.instances().iter().any(|i| i.protected_from_scale_in() == Some(false));
        if unprotected && group.instances().len() > usize::try_from(desired).unwrap() {
            // moto looks for instances to take away only when the desired capacity is set.
            let again = self.group.set_desired_capacity().auto_scaling_group_name(&self.name).desired_capacity(desired);
            again.send().await.unwrap();
            group = self.describe().await;
        }
        let listed: BTreeSet<String> =
            group.instances().iter().filter_map(|i| i.instance_id().map(str::to_owned)).collect();
        for id in &listed {
            if !self.running.contains_key(id) {
                let machine = self.boot(id).await;
                self.running.insert(id.clone(), machine);
            }
        }
        self.running.retain(|id, machine| {
            if !listed.contains(id) && self.departures.lock().unwrap().taken.insert(id.clone()) {
                machine.facts.lock().unwrap().target_state = "Terminated";
            }
            let Some(status) = machine.worker.status() else { return true };
            let is_expected = !listed.contains(id) || machine.facts.lock().unwrap().is_interrupted;
            assert!(status.success() && is_expected, "{id} ended by itself: {}", machine.worker.log());
            false
        });
        for id in listed.iter().filter(|id| !self.running.contains_key(*id)) {
            // It drained on its notice, and EC2 takes it.
            self.take(id).await;
        }
        listed.len()
    }

    /// Pulls an instance's plug, and has the group replace it.
    pub(crate) async fn kill(&mut self, id: &str) {
        self.running.remove(id).unwrap().worker.kill();
        self.take(id).await;
    }

    /// Gives an instance the notice that its spot capacity is about to be taken.
    pub(crate) fn interrupt(&self, id: &str) {
        self.running[id].facts.lock().unwrap().is_interrupted = true;
    }

    /// Takes an instance away, and has the group replace it.
    pub(crate) async fn take(&self, id: &str) {
        let taken = self.group.terminate_instance_in_auto_scaling_group().instance_id(id);
        let taken = taken.should_decrement_desired_capacity(false).send().await;
        // The scaler may have been quicker.
        let is_listed = async || self.describe().await.instances().iter().any(|i| i.instance_id() == Some(id));
        assert!(taken.is_ok() || !is_listed().await, "{taken:?}");
    }

    /// Where the machines' Auto Scaling is.
    pub(crate) fn auto_scaling_url(&self) -> &str {
        &self.proxy.url
    }

    /// Calls of Auto Scaling so far, by operation.
    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        self.proxy.counts()
    }

    /// Where the group is, without a proxy before it.
    pub(crate) fn moto_url(&self) -> &str {
        &self.moto.url
    }

    /// Protects all instances from scale-in, as they protect themselves while they have work.
    pub(crate) async fn protect(&self) {
        let group = self.describe().await;
        let ids: Vec<String> = group.instances().iter().filter_map(|i| i.instance_id().map(str::to_owned)).collect();
        if ids.is_empty() {
            return;
        }
        let set = self.group.set_instance_protection().auto_scaling_group_name(&self.name).set_instance_ids(Some(ids));
        set.protected_from_scale_in(true).send().await.unwrap();
    }

    /// The instances whose machines run and are to go on.
    pub(crate) fn ids(&self) -> Vec<String> {
        let stays = |machine: &Machine| machine.facts.lock().unwrap().target_state == "InService";
        self.running.iter().filter(|entry| stays(entry.1)).map(|(id, _)| id.clone()).collect()
    }

    /// The desired capacity.
    pub(crate) async fn desired(&self) -> i32 {
        self.describe().await.desired_capacity().unwrap()
    }

    /// Instances whose machines run.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Instances that were taken away, and those of them that said that they were ready to end.
    pub(crate) fn departures(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let departures = self.departures.lock().unwrap();
        (departures.taken.clone(), departures.completed.clone())
    }

    async fn describe(&self) -> AutoScalingGroup {
        let described =
            self.group.describe_auto_scaling_groups().auto_scaling_group_names(&self.name).send().await.unwrap();
        described.auto_scaling_groups()[0].clone()
    }

    async fn boot(&self, id: &str) -> Machine {
        let facts = Arc::<Mutex<Facts>>::default();
        let metadata = metadata(id.to_owned(), Arc::clone(&facts)).await;
        let command = match &self.launch {
            Some(launch) => launch(id, &metadata, &self.proxy.url),
            None => {
                let mut command = self.tool(&["work", "--threads", "1"]);
                command
                    .env_remove("AWS_EC2_METADATA_DISABLED")
                    .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
                    // Protection is dropped after three empty receives, of 20 s each: with as many receivers, after 20
                    // s.
                    .env("IMGCLS_WORKER_RECEIVERS", "4");
                command
            }
        };
        Machine { worker: self.system.start(command, Stdio::null()), facts }
    }
}

impl Departures {
    fn judge(&mut self, call: &Call) -> Verdict {
        let body = String::from_utf8_lossy(&call.body);
        let told = |id: &String| body.contains(id.as_str());
        match call.operation.as_str() {
            "AutoScaling.CompleteLifecycleAction" => {
                assert!(body.contains("LifecycleActionResult=CONTINUE"), "{body}");
                if body.contains("LifecycleHookName=boot") && self.launched.insert(body.to_string()) {
                    return Verdict::Answer(StatusCode::FORBIDDEN, DENIED);
                }
                self.completed.extend(self.taken.iter().filter(|id| told(id)).cloned());
                Verdict::Answer(StatusCode::OK, COMPLETED)
            }
            "AutoScaling.SetInstanceProtection" if self.taken.iter().any(told) => {
                Verdict::Answer(StatusCode::BAD_REQUEST, NOT_IN_SERVICE)
            }
            _ => Verdict::Pass,
        }
    }
}

/// Starts the metadata service of one instance, which answers nobody without a token, and answers its address.
pub(crate) async fn metadata(id: String, facts: Arc<Mutex<Facts>>) -> String {
    let fact = move |headers: HeaderMap, uri: Uri| async move {
        if headers.get("x-aws-ec2-metadata-token").is_none_or(|token| token != "token") {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let facts = facts.lock().unwrap();
        match uri.path().trim_start_matches("/latest/meta-data/") {
            "instance-id" => Ok(id),
            "autoscaling/target-lifecycle-state" => Ok(facts.target_state.to_owned()),
            "spot/instance-action" if facts.is_interrupted => Ok(r#"{"action": "terminate"}"#.to_owned()),
            _ => Err(StatusCode::NOT_FOUND),
        }
    };
    let token = put(|| async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "token") });
    let router = Router::new().route("/latest/api/token", token).fallback(fact);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
