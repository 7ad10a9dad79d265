//! The `worker` section.

use std::{net::SocketAddr, num::NonZero, thread};

use super::{ConfigError, raw};
use crate::model::Engine;

/// Most threads of one process: more only take turns.
pub const MAX_THREADS: usize = 256;

/// The app tier's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Threads for inference, and in a worker as many for decoding; `None` for as many as fit the machine.
    pub threads: Option<NonZero<usize>>,
    /// What runs the network.
    pub engine: Engine,
    /// Most images in one run of the network.
    pub batch: usize,
    /// Concurrent receivers.
    pub receivers: usize,
    /// Bytes of decoded pixels that may wait for the network.
    pub pixel_budget: u64,
    /// What `--shutdown-after` runs, program and arguments.
    pub shutdown_command: (String, Vec<String>),
    /// Where it answers `GET /metrics`, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
}

impl Worker {
    /// Threads of a worker that has the machine to itself.
    #[must_use]
    pub fn all_threads(&self) -> NonZero<usize> {
        self.threads.unwrap_or_else(cores)
    }
}

impl raw::Worker {
    /// Checks the section.
    pub(super) fn resolve(&self) -> Result<Worker, ConfigError> {
        if self.threads > MAX_THREADS {
            return Err(ConfigError::invalid(format!("worker.threads must be at most {MAX_THREADS}, or 0")));
        }
        if !(1..=256).contains(&self.batch) {
            return Err(ConfigError::invalid("worker.batch must be 1 to 256"));
        }
        if !(1..=64).contains(&self.receivers) {
            return Err(ConfigError::invalid("worker.receivers must be 1 to 64"));
        }
        if self.pixel_budget.0 == 0 {
            return Err(ConfigError::invalid("worker.pixel_budget is 0, which lets nothing through; raise it"));
        }
        let Some((program, arguments)) = self.shutdown_command.split_first() else {
            return Err(ConfigError::invalid("worker.shutdown_command is empty; name a program"));
        };
        Ok(Worker {
            threads: NonZero::new(self.threads),
            engine: self.engine,
            batch: self.batch,
            receivers: self.receivers,
            pixel_budget: self.pixel_budget.0,
            shutdown_command: (program.clone(), arguments.to_vec()),
            metrics_listen: self.metrics_listen,
        })
    }
}

/// The machine's cores, at most as many as a process may have threads.
pub(super) fn cores() -> NonZero<usize> {
    let most = NonZero::new(MAX_THREADS).unwrap_or(NonZero::<usize>::MIN);
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Raw};

    #[test]
    fn refusals_name_their_key() {
        let refused = |change: fn(&mut raw::Worker)| {
            let mut worker = Raw::default().worker;
            change(&mut worker);
            worker.resolve().unwrap_err().to_string()
        };
        assert!(refused(|w| w.threads = 257).contains("worker.threads must be at most 256"));
        assert!(refused(|w| w.batch = 0).contains("worker.batch"));
        assert!(refused(|w| w.receivers = 65).contains("worker.receivers"));
        assert!(refused(|w| w.pixel_budget = ByteSize(0)).contains("worker.pixel_budget is 0"));
        assert!(refused(|w| w.shutdown_command.clear()).contains("worker.shutdown_command"));
    }
}
