//! Creates or checks the AWS resources. Merges into what is there, replaces nothing of others, may be repeated.

use super::{client::Clients, queue_facts::queue_name};
use crate::{
    backend::{Error, ErrorKind, Result},
    config::Aws,
};

mod bucket;
mod queue;
mod table;

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

/// Creates or checks everything that `config` names, and tells each step as it is done. With `dry_run` nothing is
/// changed.
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
}

fn unbuilt(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, "cannot build the request").because(cause)
}
