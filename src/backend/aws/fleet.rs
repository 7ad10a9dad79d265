//! The app tier's Auto Scaling group.

use async_trait::async_trait;
use aws_sdk_autoscaling::{
    Client,
    types::{AutoScalingGroup, Instance, LifecycleState},
};
use parking_lot::Mutex;

use super::client::Call;
use crate::backend::{Error, ErrorKind, Fleet, FleetState, Result, SetDesired};

const DESCRIBE: Call = Call::new("read Auto Scaling group", "autoscaling:DescribeAutoScalingGroups");
const RELEASE: Call = Call::new("drop the scale-in protection in", "autoscaling:SetInstanceProtection");
const SET: Call = Call::new("set the desired capacity of", "autoscaling:SetDesiredCapacity");

/// Most instances in one call.
const RELEASED_AT_ONCE: usize = 50;

/// An Auto Scaling group, by name.
#[derive(Debug)]
pub(crate) struct AutoScalingFleet {
    pub(super) client: Client,
    /// Empty where nothing scales the workers.
    pub(super) group: String,
    /// Smallest and largest capacity as last seen, so that setting the desired one needs no further call.
    bounds: Mutex<Option<(u32, u32)>>,
    /// Instances in service that were protected as last seen.
    protected: Mutex<Vec<String>>,
}

impl AutoScalingFleet {
    pub(crate) fn new(client: Client, group: &str) -> Self {
        Self { client, group: group.to_owned(), bounds: Mutex::default(), protected: Mutex::default() }
    }

    fn bounds(&self) -> parking_lot::MutexGuard<'_, Option<(u32, u32)>> {
        self.bounds.lock()
    }

    fn named(&self) -> Result<()> {
        let unnamed =
            || Error::new(ErrorKind::Refused, "aws.auto_scaling_group is not set, so there is nothing to scale");
        if self.group.is_empty() { Err(unnamed()) } else { Ok(()) }
    }
}

#[async_trait]
impl Fleet for AutoScalingFleet {
    /// Without a group, a fleet of nobody: workers that were started by hand are in the heartbeats.
    async fn observe(&self) -> Result<FleetState> {
        if self.named().is_err() {
            return Ok(FleetState::default());
        }
        let described = self.client.describe_auto_scaling_groups().auto_scaling_group_names(&self.group).send().await;
        let described = described.map_err(|e| DESCRIBE.error(&self.group, &e))?;
        let Some(group) = described.auto_scaling_groups().first() else {
            let message = format!("there is no Auto Scaling group {:?} in this region and account", self.group);
            return Err(Error::new(ErrorKind::Refused, message));
        };
        let state = state(group);
        *self.bounds() = Some((state.min, state.max));
        let protected = group.instances().iter().filter(|instance| is_protected(instance));
        *self.protected.lock() = protected.filter_map(|instance| instance.instance_id().map(str::to_owned)).collect();
        Ok(state)
    }

    async fn set_desired(&self, desired: u32) -> Result<SetDesired> {
        self.named()?;
        let known = *self.bounds();
        let (min, max) = match known {
            Some(bounds) => bounds,
            None => {
                let state = self.observe().await?;
                (state.min, state.max)
            }
        };
        let set = self
            .client
            .set_desired_capacity()
            .auto_scaling_group_name(&self.group)
            .desired_capacity(i32::try_from(desired.clamp(min, max)).unwrap_or(i32::MAX))
            // The policy has its own cool-downs.
            .honor_cooldown(false)
            .send()
            .await;
        match set {
            Ok(_) => Ok(SetDesired::Accepted),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_scaling_activity_in_progress_fault()) => {
                Ok(SetDesired::InProgress)
            }
            Err(e) => {
                // The bounds may have been changed; the next call looks.
                *self.bounds() = None;
                Err(SET.error(&self.group, &e))
            }
        }
    }

    fn protected(&self) -> Vec<String> {
        self.protected.lock().clone()
    }

    /// Their lifecycle hook waits until they have drained.
    async fn release(&self, machines: &[String]) -> Result<()> {
        self.named()?;
        for some in machines.chunks(RELEASED_AT_ONCE) {
            let set = self.client.set_instance_protection().auto_scaling_group_name(&self.group);
            let set = set.set_instance_ids(Some(some.to_vec()));
            let set = set.protected_from_scale_in(false).send().await;
            set.map_err(|e| RELEASE.error(&self.group, &e))?;
        }
        Ok(())
    }
}

/// Whether the instance is in service and the group may not take it away.
fn is_protected(instance: &Instance) -> bool {
    instance.lifecycle_state() == Some(&LifecycleState::InService) && instance.protected_from_scale_in() == Some(true)
}

fn state(group: &AutoScalingGroup) -> FleetState {
    let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let mut state = FleetState {
        min: number(group.min_size()),
        max: number(group.max_size()),
        desired: number(group.desired_capacity()),
        ..FleetState::default()
    };
    for instance in group.instances() {
        match instance.lifecycle_state() {
            Some(LifecycleState::InService) => {
                state.in_service += 1;
                state.protected += u32::from(is_protected(instance));
            }
            Some(LifecycleState::Pending | LifecycleState::PendingWait | LifecycleState::PendingProceed) => {
                state.pending += 1;
            }
            Some(
                LifecycleState::Terminating | LifecycleState::TerminatingWait | LifecycleState::TerminatingProceed,
            ) => {
                state.terminating += 1;
            }
            // Warm pools, stand-by and detaching: no workers.
            _ => {}
        }
    }
    state
}
