//! Where the stores are: the `backend`, `data_dir`, `queue`, `fleet` and `aws` keys.

use std::{
    fmt::{self, Display},
    path::PathBuf,
    time::Duration,
};

use super::{
    ConfigError,
    raw::{Queue, Raw, StoresKind},
    worker::cores,
};
use crate::contract::{name::MAX_NAME_BYTES, result::MAX_OBJECT_KEY_BYTES};

/// Most worker processes where nobody says how many: each holds the model.
const MAX_WORKERS: u32 = 8;

/// Where images, queue, results and fleet are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stores {
    /// In a data directory of this machine.
    Local(Local),
    /// On AWS.
    Aws(Aws),
}

impl Display for Stores {
    /// Names them, for a question about them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(Local { data_dir, .. }) => write!(f, "data directory {}", data_dir.display()),
            Self::Aws(Aws { bucket, prefix, output_bucket, queue_url, table, .. }) => {
                write!(f, "s3://{bucket}/{prefix}, s3://{output_bucket}, queue {queue_url} and table {table}")
            }
        }
    }
}

/// The local stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The directory.
    pub data_dir: PathBuf,
    /// The queue.
    pub queue: Queue,
    /// The fleet.
    pub fleet: Fleet,
}

/// The local fleet's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// Fewest worker processes.
    pub min: u32,
    /// Most worker processes.
    pub max: u32,
}

/// AWS resources. Region and credentials come from the SDK's own chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aws {
    /// Input bucket.
    pub bucket: String,
    /// Key prefix in the input bucket, such as `in/`.
    pub prefix: String,
    /// Output bucket; another than `bucket`.
    pub output_bucket: String,
    /// URL of the queue.
    pub queue_url: String,
    /// DynamoDB table.
    pub table: String,
    /// Auto Scaling group of the app tier; `None` where nothing scales it.
    pub auto_scaling_group: Option<String>,
    /// Endpoint of an S3-compatible or emulated service; `None` for AWS.
    pub endpoint_url: Option<String>,
    /// Address buckets by path, as most S3-compatible stores need it.
    pub path_style: bool,
    /// Send checksums only where the operation requires them, for stores that refuse the trailer.
    pub checksum_when_required: bool,
}

impl Raw {
    /// Where the stores are.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the key.
    pub fn stores(&self) -> Result<Stores, ConfigError> {
        match self.backend {
            StoresKind::Local => self.local().map(Stores::Local),
            StoresKind::Aws => self.aws().map(Stores::Aws),
        }
    }

    /// The local stores, whatever the `backend` key says.
    ///
    /// # Errors
    /// As for [`Self::stores`].
    pub fn local(&self) -> Result<Local, ConfigError> {
        Ok(Local { data_dir: self.data_dir()?, queue: self.queue()?, fleet: self.fleet()? })
    }

    /// The data directory.
    pub(super) fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::invalid("data_dir is empty; name a directory with --data-dir"));
        }
        Ok(self.data_dir.clone())
    }

    fn queue(&self) -> Result<Queue, ConfigError> {
        let hour = Duration::from_secs(3600);
        if !(Duration::from_secs(1)..=12 * hour).contains(&self.queue.visibility_timeout) {
            return Err(ConfigError::invalid("queue.visibility_timeout must be between 1s and 12h"));
        }
        if self.queue.max_receives == 0 {
            return Err(ConfigError::invalid("queue.max_receives must be at least 1"));
        }
        Ok(self.queue.clone())
    }

    fn fleet(&self) -> Result<Fleet, ConfigError> {
        let min = self.fleet.min;
        let max = match self.fleet.max {
            0 => u32::try_from(cores().get()).unwrap_or(MAX_WORKERS).min(MAX_WORKERS).max(min),
            max => max,
        };
        if min > max {
            return Err(ConfigError::invalid("fleet.min is larger than fleet.max; lower the one or raise the other"));
        }
        Ok(Fleet { min, max })
    }

    fn aws(&self) -> Result<Aws, ConfigError> {
        let aws = &self.aws;
        for (key, value) in
            [("bucket", &aws.bucket), ("output_bucket", &aws.output_bucket), ("queue_url", &aws.queue_url)]
        {
            if value.is_empty() {
                return Err(ConfigError::invalid(format!("aws.{key} is not set; the aws backend needs it")));
            }
        }
        if aws.bucket == aws.output_bucket {
            return Err(ConfigError::invalid(
                "aws.output_bucket is the input bucket; its objects would be classified again and again, so name \
                 another",
            ));
        }
        if aws.prefix.len() + MAX_NAME_BYTES > MAX_OBJECT_KEY_BYTES {
            return Err(ConfigError::invalid(format!(
                "aws.prefix has {} bytes; with a name after it, a key would be longer than S3 takes, so use at most {}",
                aws.prefix.len(),
                MAX_OBJECT_KEY_BYTES - MAX_NAME_BYTES
            )));
        }
        if aws.queue_url.ends_with(".fifo") {
            return Err(ConfigError::invalid(
                "aws.queue_url is a FIFO queue, which S3 cannot notify; name a standard queue",
            ));
        }
        let named = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Ok(Aws {
            bucket: aws.bucket.clone(),
            prefix: aws.prefix.clone(),
            output_bucket: aws.output_bucket.clone(),
            queue_url: aws.queue_url.clone(),
            table: aws.table.clone(),
            auto_scaling_group: named(&aws.auto_scaling_group),
            endpoint_url: named(&aws.endpoint_url),
            path_style: aws.path_style,
            checksum_when_required: aws.checksum_when_required,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Raw)) -> String {
        let mut raw = Raw::default();
        change(&mut raw);
        raw.stores().unwrap_err().to_string()
    }

    #[test]
    fn refusals_name_their_key() {
        assert!(refused(|raw| raw.data_dir = PathBuf::new()).contains("data_dir is empty"));
        assert!(refused(|raw| raw.queue.max_receives = 0).contains("queue.max_receives"));
        assert!(refused(|raw| raw.queue.visibility_timeout = Duration::ZERO).contains("queue.visibility_timeout"));
        assert!(refused(|raw| (raw.fleet.min, raw.fleet.max) = (5, 4)).contains("fleet.min"));
        assert!(refused(|raw| raw.backend = StoresKind::Aws).contains("aws.bucket is not set"));
    }

    #[test]
    fn a_prefix_leaves_room_for_names() {
        let set = |raw: &mut Raw, prefix: &str| {
            raw.backend = StoresKind::Aws;
            (raw.aws.bucket, raw.aws.output_bucket, raw.aws.queue_url) = ("a".into(), "b".into(), "q".into());
            raw.aws.prefix = prefix.into();
        };
        assert!(refused(|raw| set(raw, &"p".repeat(513))).contains("aws.prefix has 513 bytes"));
        let mut raw = Raw::default();
        set(&mut raw, &"p".repeat(512));
        assert!(raw.stores().is_ok());
    }

    #[test]
    fn an_automatic_fleet_has_room_for_its_fewest() {
        let mut raw = Raw::default();
        assert!((1..=MAX_WORKERS).contains(&raw.local().unwrap().fleet.max));
        raw.fleet.min = 50;
        assert_eq!(raw.local().unwrap().fleet, Fleet { min: 50, max: 50 });
    }

    #[test]
    fn aws_settings_that_would_loop_are_refused() {
        let set = |bucket: &str, output: &str, queue: &str| {
            let mut raw = Raw { backend: StoresKind::Aws, ..Raw::default() };
            (raw.aws.bucket, raw.aws.output_bucket, raw.aws.queue_url) = (bucket.into(), output.into(), queue.into());
            raw.stores()
        };
        assert!(set("in", "out", "https://sqs.example/1/q").is_ok());
        assert!(set("in", "in", "https://sqs.example/1/q").unwrap_err().to_string().contains("output_bucket"));
        assert!(set("in", "out", "https://sqs.example/1/q.fifo").unwrap_err().to_string().contains("FIFO"));
    }
}
