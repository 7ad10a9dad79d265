//! The configuration: defaults, then a file, then `IMGCLS_*` variables, then flags, merged and checked once.
//!
//! Every layer is a TOML table with the same keys, so that a key is spelled once: `fleet.max` in the file is `IMGCLS_FLEET_MAX` in
//! the environment and `--set fleet.max=4` on the command line; frequent keys have flags of their own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub mod address;
pub mod duration;
mod network;
mod secret;

pub use network::Network;
pub use secret::Secret;

use crate::{
    model::{Engine, Limits},
    scaling::Rules,
};

/// The prefix of the environment variables.
const ENV_PREFIX: &str = "IMGCLS_";

/// Most threads of one process: more only take turns.
pub const MAX_THREADS: usize = 256;

/// Variables with the prefix that are no configuration keys: the file's place, the log filter and the build's own.
const ENV_OTHERS: [&str; 3] = ["IMGCLS_CONFIG", "IMGCLS_LOG", "IMGCLS_SHARED"];

/// Why the configuration is refused; every message names the key or the place it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {path} is not valid TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("unknown configuration key {key:?} from {origin}; `imgcls config` prints all keys")]
    UnknownKey {
        /// The key, dotted.
        key: String,
        /// File, variable or flag.
        origin: String,
    },
    /// A value that does not fit its key.
    #[error("bad configuration value: {0}")]
    Value(String),
    /// A value that fits its type and makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Where the stores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// This machine: a data directory.
    Local,
    /// S3, SQS, DynamoDB and EC2 Auto Scaling.
    Aws,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The effective configuration. `config/imgcls.toml` is this with every key explained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the stores are.
    pub backend: BackendKind,
    /// Directory of the local backend, and of uploads in progress on either.
    pub data_dir: PathBuf,
    /// Directory of a model bundle; empty for the embedded one.
    pub model: PathBuf,
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

/// The web tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Opens everything but `/healthcheck`; empty for none.
    pub token: Secret,
    /// Guards reset, delete, requeue and dead letters; empty for the same as `token`.
    pub admin_token: Secret,
    /// Listen wider than loopback without a token.
    pub open: bool,
    /// Host names, with a port if it is not the scheme's, under which browsers reach the service besides loopback.
    pub public_hosts: Vec<String>,
    /// Addresses, and ranges of them, whose `X-Forwarded-*` headers count.
    pub trusted_proxies: Vec<Network>,
    /// Largest request body in bytes.
    pub max_request_bytes: u64,
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
    pub pixel_budget: u64,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: BackendKind::Local,
            data_dir: PathBuf::from("imgcls-data"),
            model: PathBuf::new(),
            log_format: LogFormat::Text,
            limits: Limits::default(),
            web: Web {
                listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
                token: Secret::default(),
                admin_token: Secret::default(),
                open: false,
                public_hosts: Vec::new(),
                trusted_proxies: Vec::new(),
                max_request_bytes: 8 << 30,
                max_connections: 512,
                classify_timeout: Duration::from_secs(60),
            },
            worker: Worker {
                threads: 0,
                engine: Engine::default(),
                batch: 16,
                receivers: 2,
                pixel_budget: 256 << 20,
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

impl Config {
    /// Merges the layers: defaults, `file`, the `IMGCLS_*` variables of `env`, then `flags` as dotted keys with values as text.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and where it came from.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut merged = Table::try_from(Self::default()).map_err(|e| ConfigError::Value(e.to_string()))?;
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            let table = text
                .parse::<Table>()
                .map_err(|e| ConfigError::Syntax { path: path.to_owned(), source: Box::new(e) })?;
            let origin = format!("file {}", path.display());
            merge(&mut merged, table, "", &origin)?;
            read(&merged, &origin)?;
        }
        let known = keys(&merged, "");
        for (variable, text) in env {
            let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
            if ENV_OTHERS.contains(&variable.as_str()) {
                continue;
            }
            let key = known.iter().find(|key| key.replace('.', "_").eq_ignore_ascii_case(name));
            let origin = format!("environment variable {variable}");
            let Some(key) = key else {
                return Err(ConfigError::UnknownKey { key: variable, origin: "the environment".to_owned() });
            };
            set(&mut merged, key, &text, &origin)?;
            read(&merged, &origin)?;
        }
        for (key, text) in flags {
            set(&mut merged, key, text, "the command line")?;
            read(&merged, "the command line")?;
        }
        read(&merged, "the defaults")?.checked()
    }

    /// What the stores are, for a question about them.
    #[must_use]
    pub fn stores(&self) -> String {
        let Aws { bucket, prefix, output_bucket, queue_url, table, .. } = &self.aws;
        match self.backend {
            BackendKind::Local => format!("data directory {}", self.data_dir.display()),
            BackendKind::Aws => {
                format!("s3://{bucket}/{prefix}, s3://{output_bucket}, queue {queue_url} and table {table}")
            }
        }
    }

    /// Refuses what cannot work.
    fn checked(mut self) -> Result<Self, ConfigError> {
        let invalid = |message: &str| Err(ConfigError::Invalid(message.to_owned()));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.worker.threads == 0 {
            self.worker.threads = cores;
        }
        if self.fleet.max == 0 {
            self.fleet.max = u32::try_from(cores.min(8)).unwrap_or(8).max(self.fleet.min);
        }
        if self.fleet.min > self.fleet.max {
            return invalid("fleet.min is larger than fleet.max; lower the one or raise the other");
        }
        if self.data_dir.as_os_str().is_empty() {
            return invalid("data_dir is empty; name a directory with --data-dir");
        }
        for (key, secret) in [("web.token", &self.web.token), ("web.admin_token", &self.web.admin_token)] {
            if secret.expose() == Some(Secret::SET) {
                return Err(ConfigError::Invalid(format!(
                    "{key} is {:?}, which `imgcls config` prints in place of a secret; put the secret itself there, or into IMGCLS_{}",
                    Secret::SET,
                    key.replace('.', "_").to_uppercase()
                )));
            }
        }
        for (key, value) in [
            ("limits.max_bytes", self.limits.max_bytes),
            ("limits.max_side", self.limits.max_side.into()),
            ("limits.max_pixels", self.limits.max_pixels),
            ("web.max_request_bytes", self.web.max_request_bytes),
            ("web.max_connections", self.web.max_connections as u64),
            ("worker.pixel_budget", self.worker.pixel_budget),
        ] {
            if value == 0 {
                return Err(ConfigError::Invalid(format!("{key} is 0, which lets nothing through; raise it")));
            }
        }
        if let Some(host) = self.web.public_hosts.iter().find(|host| host.is_empty() || host.contains(['/', ' '])) {
            return Err(ConfigError::Invalid(format!(
                "web.public_hosts has {host:?}; name hosts alone, such as \"photos.example\" or \"photos.example:8443\""
            )));
        }
        if self.worker.threads > MAX_THREADS {
            return Err(ConfigError::Invalid(format!("worker.threads must be at most {MAX_THREADS}, or 0")));
        }
        if !(1..=256).contains(&self.worker.batch) {
            return invalid("worker.batch must be 1 to 256");
        }
        if !(1..=64).contains(&self.worker.receivers) {
            return invalid("worker.receivers must be 1 to 64");
        }
        if self.worker.shutdown_command.is_empty() {
            return invalid("worker.shutdown_command is empty; name a program");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(12 * 3600)).contains(&self.queue.visibility_timeout) {
            return invalid("queue.visibility_timeout must be between 1s and 12h");
        }
        if self.queue.max_receives == 0 {
            return invalid("queue.max_receives must be at least 1");
        }
        if !self.web.listen.ip().is_loopback() && self.web.token.expose().is_none() && !self.web.open {
            return invalid(
                "web.listen is not a loopback address, so anybody could use the service; set a token (--token or IMGCLS_WEB_TOKEN), or say --open",
            );
        }
        self.scaling.check().map_err(|error| ConfigError::Invalid(error.to_string()))?;
        if self.backend == BackendKind::Aws {
            for (key, value) in [
                ("aws.bucket", &self.aws.bucket),
                ("aws.output_bucket", &self.aws.output_bucket),
                ("aws.queue_url", &self.aws.queue_url),
            ] {
                if value.is_empty() {
                    return Err(ConfigError::Invalid(format!("{key} is not set; the aws backend needs it")));
                }
            }
            if self.aws.bucket == self.aws.output_bucket {
                return invalid(
                    "aws.output_bucket is the input bucket; its objects would be classified again and again, so name another",
                );
            }
            if self.aws.queue_url.ends_with(".fifo") {
                return invalid("aws.queue_url is a FIFO queue, which S3 cannot notify; name a standard queue");
            }
        }
        Ok(self)
    }
}

/// The configuration of a merged table, to which `origin` was the last to add.
fn read(merged: &Table, origin: &str) -> Result<Config, ConfigError> {
    merged.clone().try_into().map_err(|e: toml::de::Error| {
        ConfigError::Value(format!("{} (from {origin})", e.to_string().trim_end().replace('\n', " ")))
    })
}

/// The dotted keys of all leaves.
fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => out.extend(keys(inner, &format!("{prefix}{key}."))),
            _ => out.push(format!("{prefix}{key}")),
        }
    }
    out
}

/// Lays `over` on `base`, key by key; a key that `base` lacks is unknown.
fn merge(base: &mut Table, over: Table, prefix: &str, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in over {
        let dotted = format!("{prefix}{key}");
        match (base.get_mut(&key), value) {
            (None, _) => return Err(ConfigError::UnknownKey { key: dotted, origin: origin.to_owned() }),
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over, &format!("{dotted}."), origin)?,
            (Some(slot), value) => *slot = value,
        }
    }
    Ok(())
}

/// Sets one dotted key from text, read as the type that the default has.
fn set(table: &mut Table, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
    let unknown = || ConfigError::UnknownKey { key: key.to_owned(), origin: origin.to_owned() };
    let bad = |want: &str| ConfigError::Value(format!("{key} from {origin} is {text:?}, which is not {want}"));
    let mut slot = None;
    let mut table = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let value = table.get_mut(part).ok_or_else(unknown)?;
        if parts.peek().is_none() {
            slot = Some(value);
            break;
        }
        table = value.as_table_mut().ok_or_else(unknown)?;
    }
    let slot = slot.ok_or_else(unknown)?;
    *slot = match slot {
        Value::Table(_) => return Err(unknown()),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| bad("true or false"))?),
        Value::Integer(_) => {
            let number = text.parse::<u64>().ok().and_then(|number| i64::try_from(number).ok());
            Value::Integer(number.ok_or_else(|| bad("a whole number of 0 or more"))?)
        }
        Value::Float(_) => Value::Float(text.parse().map_err(|_| bad("a number"))?),
        Value::Array(_) if text.trim_start().starts_with('[') => {
            let parsed: Table = format!("x = {text}").parse().map_err(|_| bad("a list"))?;
            parsed.get("x").cloned().ok_or_else(|| bad("a list"))?
        }
        Value::Array(_) => {
            Value::Array(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Value::from).collect())
        }
        Value::String(_) | Value::Datetime(_) => Value::String(text.to_owned()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn later_layers_win() {
        let file = file("data_dir = \"/a\"\n[fleet]\nmin = 2\nmax = 5\n[queue]\nvisibility_timeout = \"1m\"\n");
        let variables = env(&[("IMGCLS_FLEET_MAX", "6"), ("IMGCLS_DATA_DIR", "/b"), ("HOME", "/h")]);
        let config = Config::load(Some(file.path()), variables, &env(&[("data_dir", "/c")])).unwrap();
        assert_eq!((config.fleet.min, config.fleet.max), (2, 6));
        assert_eq!(config.data_dir, Path::new("/c"));
        assert_eq!(config.queue.visibility_timeout, Duration::from_secs(60));
    }

    #[test]
    fn lists_and_secrets_come_from_text() {
        let variables = env(&[
            ("IMGCLS_WEB_TOKEN", "s3cret"),
            ("IMGCLS_WEB_PUBLIC_HOSTS", "a.example, b.example"),
            ("IMGCLS_WORKER_SHUTDOWN_COMMAND", r#"["sh", "-c", "a, b"]"#),
        ]);
        let config = Config::load(None, variables, &[]).unwrap();
        assert_eq!(config.web.public_hosts, ["a.example", "b.example"]);
        assert_eq!(config.worker.shutdown_command, ["sh", "-c", "a, b"]);
        assert_eq!(config.web.token.expose(), Some("s3cret"));
        let printed = format!("{config:?}{}", toml::to_string(&config).unwrap());
        assert!(!printed.contains("s3cret"), "{printed}");
    }

    #[test]
    fn errors_name_the_key_and_where_it_came_from() {
        let bad = file("[fleet]\nmaximum = 3\n");
        let no_toml = file("fleet");
        for (file, variables, flags, want) in [
            (Some(bad.path()), env(&[]), env(&[]), "unknown configuration key \"fleet.maximum\" from file"),
            (Some(no_toml.path()), env(&[]), env(&[]), "is not valid TOML"),
            (
                Some(Path::new("/nonexistent.toml")),
                env(&[]),
                env(&[]),
                "cannot read configuration file /nonexistent.toml",
            ),
            (None, env(&[("IMGCLS_FLEET_MUX", "3")]), env(&[]), "IMGCLS_FLEET_MUX"),
            (
                None,
                env(&[("IMGCLS_FLEET_MAX", "many")]),
                env(&[]),
                "fleet.max from environment variable IMGCLS_FLEET_MAX",
            ),
            (None, env(&[]), env(&[("web.listen", "nowhere")]), "web"),
            (None, env(&[]), env(&[("worker.metrics_listen", "9101")]), "\"9101\" is not ADDRESS:PORT"),
            (None, env(&[]), env(&[("web.listen", "0.0.0.0:80")]), "set a token"),
            (None, env(&[]), env(&[("fleet.max", "-1")]), "fleet"),
            (None, env(&[]), env(&[("fleet", "1")]), "unknown configuration key \"fleet\""),
            (None, env(&[]), env(&[("backend", "aws")]), "aws.bucket is not set"),
            (None, env(&[]), env(&[("queue.visibility_timeout", "soon")]), "not a duration"),
        ] {
            let error = Config::load(file, variables, &flags).unwrap_err().to_string();
            assert!(error.contains(want), "{error:?} does not say {want:?}");
        }
    }

    #[test]
    fn aws_settings_that_would_loop_are_refused() {
        let set = |bucket: &str, output: &str, queue: &str| {
            let flags =
                [("backend", "aws"), ("aws.bucket", bucket), ("aws.output_bucket", output), ("aws.queue_url", queue)];
            Config::load(None, [], &env(&flags))
        };
        assert!(set("in", "out", "https://sqs.example/1/q").is_ok());
        assert!(set("in", "in", "https://sqs.example/1/q").unwrap_err().to_string().contains("output_bucket"));
        assert!(set("in", "out", "https://sqs.example/1/q.fifo").unwrap_err().to_string().contains("FIFO"));
    }

    #[test]
    fn every_default_survives_the_file() {
        let text = toml::to_string(&Config::default()).unwrap();
        let file = file(&text);
        assert_eq!(Config::load(Some(file.path()), [], &[]).unwrap(), Config::load(None, [], &[]).unwrap());
    }
}
