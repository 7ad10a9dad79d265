//! `imgcls setup`: creates or checks the AWS resources.

use std::{io::Write, process::ExitCode};

use clap::Args;

use super::UsageError;
use crate::{
    backend::aws::setup::{Action, Step, setup},
    config::Stores,
};

/// Flags of `imgcls setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Only tell what would be created or changed.
    #[arg(long)]
    dry_run: bool,
}

/// Creates or checks buckets, queue, dead-letter queue, notification and table, one line for each.
///
/// # Errors
/// With the local backend, and at the first resource that cannot be created or used.
pub async fn run(args: SetupArgs, stores: Stores) -> anyhow::Result<ExitCode> {
    let Stores::Aws(aws) = stores else {
        let message = "only the aws backend needs a setup; say --backend aws, or just `imgcls serve`";
        return Err(UsageError(message.to_owned()).into());
    };
    let dry_run = args.dry_run;
    let mut broken_pipe = Ok(());
    let mut tell = |step: Step| {
        let told = writeln!(std::io::stdout(), "{}", line(&step, dry_run));
        broken_pipe = std::mem::replace(&mut broken_pipe, Ok(())).and(told);
    };
    setup(&aws, dry_run, &mut tell).await?;
    broken_pipe?;
    Ok(ExitCode::SUCCESS)
}

fn line(Step { resource, action }: &Step, dry_run: bool) -> String {
    match (action, dry_run) {
        (Action::Kept, _) => format!("{resource}: ok"),
        (Action::Created, false) => format!("{resource}: created"),
        (Action::Created, true) => format!("{resource}: would be created"),
        (Action::Changed(what), false) => format!("{resource}: {what}"),
        (Action::Changed(what), true) => format!("{resource}: would change ({what})"),
        (Action::Warned(what), _) => format!("{resource}: ok, but {what}"),
    }
}
