//! `imgcls queue`: looks into the queue, and deals with dead letters.

use std::{io::Write, num::NonZero, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};

use super::confirm::confirm;
use crate::{
    backend::{self, Which, requeue},
    clock::SystemClock,
    config::{Stores, flags::positive},
    contract::event,
    model::Bundle,
};

/// Flags of `imgcls queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shows waiting messages without taking them.
    Peek {
        /// Most messages.
        #[arg(long, default_value = "10", value_name = "N", value_parser = positive)]
        limit: NonZero<usize>,
    },
    /// Lists the dead letters: messages that were received too often.
    Dead {
        /// Most messages.
        #[arg(long, default_value = "100", value_name = "N", value_parser = positive)]
        limit: NonZero<usize>,
    },
    /// Moves all dead letters back to the queue.
    Redrive,
    /// Deletes all dead letters.
    Drop {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Has stored images classified again.
    Requeue {
        /// Which images.
        #[arg(value_enum)]
        which: Which,
    },
}

/// Runs one action on the queue.
///
/// # Errors
/// What the backend says.
pub async fn run(args: QueueArgs, stores: Stores, model: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let backend = backend::open_existing(&stores, Arc::new(SystemClock)).await?;
    let mut out = std::io::stdout().lock();
    match args.action {
        Action::Peek { limit } => {
            if backend.queue.policy().peek_counts {
                eprintln!(
                    "looking counts as a receive of each message shown; one that used up half of its receives is sent \
                     anew, so that none becomes a dead letter by it"
                );
            }
            let messages = backend.queue.peek(limit.get()).await?;
            if messages.is_empty() {
                writeln!(out, "no message waits")?;
            }
            for message in messages {
                writeln!(out, "{}  received {} times  {}", message.id, message.receive_count, subject(&message.body))?;
            }
        }
        Action::Dead { limit } => {
            let letters = backend.dead_letters.list(limit.get()).await?;
            if letters.is_empty() {
                writeln!(out, "there are no dead letters")?;
            }
            for letter in letters {
                writeln!(out, "{}  received {} times  {}", letter.id, letter.receive_count, subject(&letter.body))?;
            }
        }
        Action::Redrive => writeln!(out, "moved {} dead letters back", backend.dead_letters.redrive().await?)?,
        Action::Drop { yes } => {
            if !confirm(&format!("Delete every dead letter of {stores}?"), yes)? {
                return Ok(ExitCode::FAILURE);
            }
            writeln!(out, "deleted {} dead letters", backend.dead_letters.drop_all().await?)?;
        }
        Action::Requeue { which } => {
            let model = if which == Which::Stale { Bundle::open(model.as_deref())?.card.id() } else { String::new() };
            writeln!(out, "requeued {} images", requeue(&backend, which, &model).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a message is about, in few words.
fn subject(body: &str) -> String {
    match event::parse(body) {
        Ok(events) if events.is_empty() => "no created object".to_owned(),
        Ok(events) => events.iter().map(|e| format!("{}/{}", e.bucket, e.key)).collect::<Vec<_>>().join(", "),
        Err(error) => error.to_string(),
    }
}
