//! Every key as it is written in the file, in variables and in flags, with its default; nothing is checked yet.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Address, LogFormat, MinConfidence, Network, Rules, Secret, address, duration, size::ByteSize};
use crate::model::Engine;

/// The merged layers. `config/imgcls.toml` is this with every key explained.
///
/// What a role needs of it is checked and resolved by [`serve`](Self::serve), [`work`](Self::work) and their like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// Where the stores are.
    pub backend: StoresKind,
    /// Directory of the local backend, and of uploads in progress on either.
    pub data_dir: PathBuf,
    /// Name of a model, or directory of a bundle; empty for the embedded one.
    pub model: PathBuf,
    /// Address that stands in for scheme and host where known models are fetched; empty for none.
    pub model_mirror: Address,
    /// Probability below which a label is marked as uncertain.
    pub min_confidence: MinConfidence,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Limits for one image.
    pub limits: Limits,
    /// The web tier.
    pub web: Web,
    /// The app tier's worker.
    pub worker: Worker,
    /// The local queue; on AWS the queue's own attributes count.
    pub queue: Queue,
    /// The local fleet; on AWS the Auto Scaling group's own bounds count.
    pub fleet: Fleet,
    /// The scaling policy.
    pub scaling: Rules,
    /// AWS resources.
    pub aws: Aws,
}

/// Which stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StoresKind {
    /// This machine: a data directory.
    Local,
    /// S3, SQS, DynamoDB and EC2 Auto Scaling.
    Aws,
}

/// Limits for one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest file.
    pub max_bytes: ByteSize,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Most pixels.
    pub max_pixels: u64,
}

/// The web tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// Opens everything but `/healthcheck` and the bare states of `/readyz`; empty for none.
    pub token: Secret,
    /// Guards reset, delete, requeue and dead letters; empty for the same as `token`.
    pub admin_token: Secret,
    /// Listen wider than loopback without a token.
    pub open: bool,
    /// Host names, with a port if it is not the scheme's, under which browsers reach the service besides loopback.
    pub public_hosts: Vec<String>,
    /// Addresses, and ranges of them, whose `X-Forwarded-*` headers count.
    pub trusted_proxies: Vec<Network>,
    /// Largest request body.
    pub max_request_bytes: ByteSize,
    /// Largest number of connections at a time.
    pub max_connections: usize,
    /// How long `POST /classify` waits for its result.
    #[serde(with = "duration")]
    pub classify_timeout: Duration,
}

/// The app tier's worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Threads for inference, and in a worker as many for decoding; 0 for one per core.
    pub threads: usize,
    /// What runs the network.
    pub engine: Engine,
    /// Most images in one run of the network.
    pub batch: usize,
    /// Concurrent receivers.
    pub receivers: usize,
    /// Bytes of decoded pixels that may wait for the network.
    pub pixel_budget: ByteSize,
    /// What `--shutdown-after` runs, program and arguments.
    pub shutdown_command: Vec<String>,
    /// Where `imgcls work` answers `GET /metrics`; empty to answer none; port 0 takes a free one.
    #[serde(with = "address")]
    pub metrics_listen: Option<SocketAddr>,
}

/// The local queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// How long a received message is hidden.
    #[serde(with = "duration")]
    pub visibility_timeout: Duration,
    /// After how many receives a message is a dead letter.
    pub max_receives: u32,
}

/// The local fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Fewest worker processes.
    pub min: u32,
    /// Most worker processes; 0 for one per core, at most 8.
    pub max: u32,
    /// Whether `imgcls serve` runs the worker processes and the scaling policy itself.
    pub supervise: bool,
}

/// AWS resources. Region and credentials come from the SDK's own chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aws {
    /// Input bucket.
    pub bucket: String,
    /// Key prefix in the input bucket, such as `in/`; empty for none.
    pub prefix: String,
    /// Output bucket; must be another than `bucket`.
    pub output_bucket: String,
    /// URL of the queue.
    pub queue_url: String,
    /// DynamoDB table.
    pub table: String,
    /// Auto Scaling group of the app tier; empty where nothing scales it.
    pub auto_scaling_group: String,
    /// Endpoint of an S3-compatible or emulated service; empty for AWS.
    pub endpoint_url: String,
    /// Address buckets by path, as most S3-compatible stores need it.
    pub path_style: bool,
    /// Send checksums only where the operation requires them, for stores that refuse the trailer.
    pub checksum_when_required: bool,
}

impl Default for Raw {
    fn default() -> Self {
        let limits = crate::model::Limits::default();
        Self {
            backend: StoresKind::Local,
            data_dir: PathBuf::from("imgcls-data"),
            model: PathBuf::new(),
            model_mirror: Address::default(),
            min_confidence: MinConfidence::OfModel,
            log_format: LogFormat::Text,
            limits: Limits {
                max_bytes: ByteSize(limits.max_bytes),
                max_side: limits.max_side,
                max_pixels: limits.max_pixels,
            },
            web: Web {
                listen: "127.0.0.1:8080".to_owned(),
                token: Secret::default(),
                admin_token: Secret::default(),
                open: false,
                public_hosts: Vec::new(),
                trusted_proxies: Vec::new(),
                max_request_bytes: ByteSize(8 << 30),
                max_connections: 512,
                classify_timeout: Duration::from_secs(60),
            },
            worker: Worker {
                threads: 0,
                engine: Engine::default(),
                batch: 16,
                receivers: 2,
                pixel_budget: ByteSize(128 << 20),
                shutdown_command: ["shutdown", "-h", "now"].map(String::from).to_vec(),
                metrics_listen: None,
            },
            queue: Queue { visibility_timeout: Duration::from_secs(30), max_receives: 10 },
            fleet: Fleet { min: 1, max: 0, supervise: true },
            scaling: Rules::default(),
            aws: Aws {
                bucket: String::new(),
                prefix: String::new(),
                output_bucket: String::new(),
                queue_url: String::new(),
                table: "Classifications".to_owned(),
                auto_scaling_group: String::new(),
                endpoint_url: String::new(),
                path_style: false,
                checksum_when_required: false,
            },
        }
    }
}
