//! The EC2 instance that a worker runs on: its id, its protection from scale-in, and the signs that it is about to go.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::{imds, provider_config::ProviderConfig};
use aws_sdk_autoscaling::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use tokio::time::{sleep, timeout};

use super::client::{Call, Clients, http_client};
use crate::{
    backend::{Departure, Error, ErrorKind, Instance, Result, host_name},
    config::Aws,
};

/// How long the metadata service may take to tell the id: off EC2 nobody answers, and a start must not wait for that.
const DECIDE: Duration = Duration::from_secs(1);

/// Time between looks for signs of an end. A spot notice comes two minutes ahead, so five seconds lose little.
const POLL: Duration = Duration::from_secs(5);

const ID: &str = "/latest/meta-data/instance-id";
const SPOT: &str = "/latest/meta-data/spot/instance-action";
const TARGET_STATE: &str = "/latest/meta-data/autoscaling/target-lifecycle-state";

/// The target state of an instance that is in service, or on its way there.
const IN_SERVICE: &str = "InService";

const MEMBER: Call = Call::new("find the Auto Scaling group of", "autoscaling:DescribeAutoScalingInstances");
const PROTECT: Call = Call::new("change the scale-in protection of", "autoscaling:SetInstanceProtection");
const HOOKS: Call = Call::new("read the lifecycle hooks of", "autoscaling:DescribeLifecycleHooks");
const COMPLETE: Call = Call::new("complete the lifecycle action of", "autoscaling:CompleteLifecycleAction");
const GROUP: Call = Call::new("read Auto Scaling group", "autoscaling:DescribeAutoScalingGroups");
const TERMINATE: Call = Call::new("terminate", "autoscaling:TerminateInstanceInAutoScalingGroup");

/// An EC2 instance of a group, or where none is configured or there is no metadata service, a host that nobody manages.
#[derive(Debug)]
pub(crate) struct Ec2Instance {
    id: String,
    managed: Option<Managed>,
    imds: imds::Client,
    autoscaling: Client,
}

/// The group that the instance belongs to.
#[derive(Debug)]
struct Managed {
    group: String,
}

impl Ec2Instance {
    /// Finds out what the process runs on, within a second and a few for the group.
    pub(crate) async fn find(config: &Aws) -> Result<Self> {
        let provider = ProviderConfig::default().with_http_client(http_client());
        let imds = imds::Client::builder().configure(&provider).max_attempts(1).connect_timeout(DECIDE / 2).build();
        Self::with(Clients::new(config).await.autoscaling, imds, config).await
    }

    pub(super) async fn with(autoscaling: Client, imds: imds::Client, config: &Aws) -> Result<Self> {
        // Without a configured group nothing scales, and nobody has to be asked for leave. The name is the host's then:
        // containers share an instance, and each of them may have its worker as process 1.
        let Some(group) = &config.auto_scaling_group else {
            return Ok(Self { id: host_name(), managed: None, imds, autoscaling });
        };
        let asked = timeout(DECIDE, imds.get(ID)).await;
        let Some(id) = asked.ok().and_then(Result::ok).map(String::from).filter(|id| !id.is_empty()) else {
            return Ok(Self { id: host_name(), managed: None, imds, autoscaling });
        };
        let mut this = Self { id, managed: None, imds, autoscaling };
        this.managed = this.membership(group).await?;
        Ok(this)
    }

    /// The configured group if the instance is in it.
    async fn membership(&self, group: &str) -> Result<Option<Managed>> {
        let described = self.autoscaling.describe_auto_scaling_instances().instance_ids(&self.id).send().await;
        let described = described.map_err(|e| MEMBER.error(&self.id, &e))?;
        let actual = described.auto_scaling_instances().first().and_then(|i| i.auto_scaling_group_name());
        if actual != Some(group) {
            tracing::warn!(
                instance = self.id,
                configured = group,
                actual,
                "this instance is not in the configured group"
            );
        }
        Ok(actual.filter(|a| *a == group).map(|a| Managed { group: a.to_owned() }))
    }

    /// What the metadata service says at `path`; `None` where it says nothing.
    async fn metadata(&self, path: &str) -> Option<String> {
        timeout(Duration::from_secs(3), self.imds.get(path)).await.ok()?.ok().map(String::from)
    }

    /// Why the instance is about to go, if it is.
    async fn sign_of_end(&self) -> Option<String> {
        if let Some(action) = self.metadata(SPOT).await {
            return Some(format!("spot notice: {}", action.trim()));
        }
        let state = self.metadata(TARGET_STATE).await?;
        (state.trim() != IN_SERVICE).then(|| format!("the group wants the instance {}", state.trim()))
    }
}

#[async_trait]
impl Instance for Ec2Instance {
    fn id(&self) -> &str {
        &self.id
    }

    async fn protect(&self, on: bool) -> Result<()> {
        let Some(Managed { group }) = &self.managed else { return Ok(()) };
        let set = self
            .autoscaling
            .set_instance_protection()
            .auto_scaling_group_name(group)
            .instance_ids(&self.id)
            .protected_from_scale_in(on)
            .send()
            .await;
        match set {
            Ok(_) => Ok(()),
            // Not in service yet: protection is taken at launch where the group says so, and cannot be set before.
            Err(e) if is_invalid(&e) && self.metadata(TARGET_STATE).await.is_some_and(|s| s.trim() == IN_SERVICE) => {
                tracing::debug!(instance = self.id, "not in service yet, so protection stays as it was at launch");
                Ok(())
            }
            Err(e) => Err(PROTECT.error(&self.id, &e)),
        }
    }

    async fn leaving(&self) -> String {
        loop {
            if let Some(why) = self.sign_of_end().await {
                return why;
            }
            sleep(POLL).await;
        }
    }

    async fn drained(&self) -> Result<()> {
        let Some(Managed { group }) = &self.managed else { return Ok(()) };
        let hooks = self.autoscaling.describe_lifecycle_hooks().auto_scaling_group_name(group).send().await;
        let hooks = hooks.map_err(|e| HOOKS.error(group, &e))?;
        let terminating = |h: &&aws_sdk_autoscaling::types::LifecycleHook| {
            h.lifecycle_transition() == Some("autoscaling:EC2_INSTANCE_TERMINATING")
        };
        for hook in hooks.lifecycle_hooks().iter().filter(terminating) {
            let completed = self
                .autoscaling
                .complete_lifecycle_action()
                .auto_scaling_group_name(group)
                .set_lifecycle_hook_name(hook.lifecycle_hook_name().map(str::to_owned))
                .instance_id(&self.id)
                .lifecycle_action_result("CONTINUE")
                .send()
                .await;
            match completed {
                // No action is waiting: the instance goes for another reason, or the hook has timed out.
                Err(e) if is_invalid(&e) => {}
                other => other.map(drop).map_err(|e| COMPLETE.error(&self.id, &e))?,
            }
        }
        Ok(())
    }

    async fn depart(&self) -> Result<Departure> {
        let Some(Managed { group }) = &self.managed else { return Ok(Departure::Unmanaged) };
        let described = self.autoscaling.describe_auto_scaling_groups().auto_scaling_group_names(group).send().await;
        let described = described.map_err(|e| GROUP.error(group, &e))?;
        let Some(found) = described.auto_scaling_groups().first() else {
            return Err(Error::new(ErrorKind::Refused, format!("there is no Auto Scaling group {group:?} any more")));
        };
        if found.desired_capacity() <= found.min_size() {
            return Ok(Departure::Needed);
        }
        let terminated = self
            .autoscaling
            .terminate_instance_in_auto_scaling_group()
            .instance_id(&self.id)
            .should_decrement_desired_capacity(true)
            .send()
            .await;
        match terminated {
            Ok(_) => Ok(Departure::Leaving),
            // Another one left at the same time, and the group is at its minimum now.
            Err(e) if is_invalid(&e) => Ok(Departure::Needed),
            Err(e) => Err(TERMINATE.error(&self.id, &e)),
        }
    }
}

/// Whether the service takes the call as one that makes no sense in the present state.
fn is_invalid<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("ValidationError")
}
