//! What each role gets of the configuration: checked, and nothing that the role does not need.

use std::{net::SocketAddr, num::NonZero, path::PathBuf};

use super::{ConfigError, MinConfidence, Raw, Rules, Stores, Web, Worker, web::address, worker::cores};
use crate::model::Limits;

/// What `imgcls serve` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Serve {
    /// Where the stores are.
    pub stores: Stores,
    /// Uploads in progress are below it, whatever the stores.
    pub data_dir: PathBuf,
    /// Name of a model, or directory of a bundle; `None` for the embedded one.
    pub model: Option<PathBuf>,
    /// Limits for one image.
    pub limits: Limits,
    /// The web tier.
    pub web: Web,
    /// The worker processes that it runs itself; `None` where others run them.
    pub workers: Option<Workers>,
}

/// The worker processes that a server runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Workers {
    /// Threads of each. A fixed share, not one that shrinks as the fleet grows: running workers cannot give threads
    /// back.
    pub threads: NonZero<usize>,
    /// When there are more or fewer of them.
    pub rules: Rules,
}

/// What `imgcls work` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Where the stores are.
    pub stores: Stores,
    /// Name of a model, or directory of a bundle; `None` for the embedded one.
    pub model: Option<PathBuf>,
    /// Limits for one image.
    pub limits: Limits,
    /// Probability below which a label is uncertain.
    pub min_confidence: MinConfidence,
    /// The worker.
    pub worker: Worker,
}

/// What `imgcls classify` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Classify {
    /// Name of a model, or directory of a bundle; `None` for the embedded one.
    pub model: Option<PathBuf>,
    /// Limits for one image.
    pub limits: Limits,
    /// Probability below which a label is uncertain.
    pub min_confidence: MinConfidence,
    /// Threads, engine and batch.
    pub worker: Worker,
}

/// What `imgcls scale` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Where the stores are.
    pub stores: Stores,
    /// The policy.
    pub rules: Rules,
}

impl Raw {
    /// The part of `imgcls serve`. With workers of its own, their part is checked too: they would not start.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn serve(&self) -> Result<Serve, ConfigError> {
        let stores = self.stores()?;
        let workers = match &stores {
            Stores::Local(local) if self.fleet.supervise => {
                let share = NonZero::new(cores().get() / local.fleet.max as usize).unwrap_or(NonZero::<usize>::MIN);
                let threads = self.work()?.worker.threads.unwrap_or(share);
                Some(Workers { threads, rules: self.rules()? })
            }
            Stores::Local(_) | Stores::Aws(_) => None,
        };
        Ok(Serve {
            stores,
            data_dir: self.data_dir()?,
            model: self.model(),
            limits: self.limits.resolve()?,
            web: self.web.resolve()?,
            workers,
        })
    }

    /// Where the web tier of this machine listens.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn listen(&self) -> Result<SocketAddr, ConfigError> {
        address(&self.web.listen)
    }

    /// The part of `imgcls work`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn work(&self) -> Result<Work, ConfigError> {
        let Classify { model, limits, min_confidence, worker } = self.classify()?;
        Ok(Work { stores: self.stores()?, model, limits, min_confidence, worker })
    }

    /// The part of `imgcls classify`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn classify(&self) -> Result<Classify, ConfigError> {
        Ok(Classify {
            model: self.model(),
            limits: self.limits.resolve()?,
            min_confidence: self.min_confidence,
            worker: self.worker.resolve()?,
        })
    }

    /// The part of `imgcls scale`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn scale(&self) -> Result<Scale, ConfigError> {
        Ok(Scale { stores: self.stores()?, rules: self.rules()? })
    }

    /// The scaling policy.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn rules(&self) -> Result<Rules, ConfigError> {
        self.scaling.check().map_err(|error| ConfigError::invalid(error.to_string()))?;
        Ok(self.scaling.clone())
    }

    /// The name of a model or directory of a bundle, `None` for the embedded one.
    #[must_use]
    pub fn model(&self) -> Option<PathBuf> {
        Some(self.model.clone()).filter(|dir| !dir.as_os_str().is_empty())
    }

    /// All of it as it takes effect: checked for every role, with the numbers that were left to the machine.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn effective(&self) -> Result<Self, ConfigError> {
        self.serve()?;
        self.scale()?;
        let worker = self.work()?.worker;
        let mut all = self.clone();
        all.worker.threads = worker.all_threads().get();
        if let Ok(local) = self.local() {
            all.fleet.max = local.fleet.max;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_not_stopped_by_what_only_others_need() {
        let mut raw = Raw::default();
        raw.web.listen = "0.0.0.0:80".to_owned();
        assert!(raw.serve().is_err() && raw.work().is_ok() && raw.scale().is_ok());
        raw = Raw::default();
        raw.worker.batch = 0;
        assert!(raw.work().is_err() && raw.classify().is_err() && raw.scale().is_ok());
        assert!(raw.serve().is_err(), "its workers would not start");
        raw.fleet.supervise = false;
        assert!(raw.serve().is_ok());
        raw = Raw::default();
        raw.scaling.max_step = 0;
        assert!(raw.scale().is_err() && raw.work().is_ok());
        raw = Raw::default();
        raw.data_dir = PathBuf::new();
        assert!(raw.classify().is_ok() && raw.work().is_err());
    }

    #[test]
    fn workers_get_what_is_asked_for_or_a_share_of_the_cores() {
        let mut raw = Raw::default();
        raw.worker.threads = 3;
        assert_eq!(raw.serve().unwrap().workers.unwrap().threads.get(), 3);
        (raw.worker.threads, raw.fleet.max) = (0, 10_000);
        assert_eq!(raw.serve().unwrap().workers.unwrap().threads.get(), 1);
    }
}
