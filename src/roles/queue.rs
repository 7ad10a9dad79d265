//! `imgcls queue`: looks into the queue, and deals with dead letters.

use std::{io::Write, num::NonZero, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::confirm::confirm;
use crate::{
    backend::{self, Backend, Heartbeat, Which, requeue},
    clock::{Clock as _, SystemClock},
    config::{Stores, flags::positive},
    contract::{Timestamp, event},
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
        /// The model with which `stale` compares, by name or directory; the configured one by default or, without one,
        /// that of the worker that started last of those that run.
        #[arg(long, value_name = "MODEL")]
        model: Option<PathBuf>,
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
        Action::Requeue { which, model: named } => {
            writeln!(out, "requeued {}", again(&backend, which, named.or(model)).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has images classified again, and returns how many and which in words.
async fn again(backend: &Backend, which: Which, model: Option<PathBuf>) -> anyhow::Result<String> {
    if which != Which::Stale {
        return Ok(format!("{} images", requeue(backend, which, "").await?));
    }
    let model = match model {
        Some(model) => Bundle::open(Some(&model))?.id(),
        None => present(&backend.workers.heartbeats().await?, SystemClock.now())?,
    };
    let count = requeue(backend, which, &model).await?;
    Ok(format!("{count} images whose results are not of {model}"))
}

/// The model of the service where this command was told none, as rows have it.
fn present(beats: &[Heartbeat], now: Timestamp) -> anyhow::Result<String> {
    let model = backend::model_of(beats, now).context(
        "no worker runs that would tell its model; name the one with which to compare with --model, or try again when \
         workers run",
    )?;
    Ok(model.to_owned())
}

/// What a message is about, in few words.
fn subject(body: &str) -> String {
    match event::parse(body) {
        Ok(events) if events.is_empty() => "no created object".to_owned(),
        Ok(events) => events.iter().map(|e| format!("{}/{}", e.bucket, e.key)).collect::<Vec<_>>().join(", "),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        queue: QueueArgs,
    }

    #[test]
    fn stale_compares_with_the_model_of_the_workers() {
        let args = ["queue", "requeue", "stale", "--model", "mine"];
        let Action::Requeue { model, .. } = Line::parse_from(args).queue.action else { panic!("another command") };
        assert_eq!(model, Some(PathBuf::from("mine")));

        let beat = |model: &str, started_at_ms| Heartbeat {
            model: model.to_owned(),
            started_at: Timestamp::from_millis(started_at_ms),
            seen_at: Timestamp::from_millis(9),
            ..Heartbeat::default()
        };
        let ended = Heartbeat { draining: true, ..beat("newer@3", 5) };
        let beats = [beat("old@1", 1), beat("new@2", 3), beat("old@1", 2), beat("", 4), ended];
        let now = Timestamp::from_millis(10);
        assert_eq!(present(&beats, now).unwrap(), "new@2");
        assert!(present(&beats[3..], now).unwrap_err().to_string().contains("--model"));
        let later = now + std::time::Duration::from_secs(3600);
        assert!(present(&beats, later).is_err());
    }
}
