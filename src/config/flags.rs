//! Flags that set configuration keys: what all commands take, and how their values are read.

use std::{num::NonZero, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

use super::{LogFormat, MAX_THREADS, Secret, StoresKind};

/// What all commands take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Configuration file; `imgcls config --default` prints one with every key.
    #[arg(long, global = true, env = "IMGCLS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets any configuration key, such as `fleet.max=4`; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, Secret)>,
    /// Where the stores are.
    #[arg(long, global = true, value_enum)]
    pub backend: Option<StoresKind>,
    /// Directory of the local backend.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How log lines look; the variable `IMGCLS_LOG` says which there are, such as `debug` or
    /// `imgcls=debug,aws_config=warn`.
    #[arg(long, global = true, value_enum)]
    pub log_format: Option<LogFormat>,
}

impl Global {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut keys = Overrides(self.set.clone());
        keys.set("backend", self.backend.map(value_name));
        keys.set("data_dir", self.data_dir.as_ref().map(|dir| dir.display()));
        keys.set("log_format", self.log_format.map(value_name));
        keys
    }

    /// The arguments with which a worker process gets the file and all of `flags` that it may need: the web tier's
    /// tokens and a mirror's password would be in the process list.
    #[must_use]
    pub fn for_workers(&self, flags: &Overrides) -> Vec<String> {
        let file = self.config.iter().map(|file| format!("--config={}", file.display()));
        let keys = flags.0.iter().filter(|(key, _)| !key.starts_with("web.") && key != "model_mirror");
        file.chain(keys.map(|(key, value)| format!("--set={key}={}", value.expose()))).collect()
    }
}

/// Configuration keys that flags set, with their values as text, any of which may be a secret. Later ones win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(pub Vec<(String, Secret)>);

impl Overrides {
    /// Sets `key`, if there is a value.
    pub fn set(&mut self, key: &str, value: Option<impl ToString>) {
        self.0.extend(value.map(|value| (key.to_owned(), value.to_string().into())));
    }

    /// These, and then `more`.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }
}

/// The name of a value as the command line and the configuration spell it.
pub fn value_name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Reads a whole number of 0 or more.
///
/// # Errors
/// If it is none, in words for a user.
pub fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "must be a whole number, and not a huge one".to_owned())
}

/// Reads an amount of 0 or more.
///
/// # Errors
/// If it is none, in words for a user.
pub fn amount(text: &str) -> Result<f64, String> {
    let amount = text.parse().ok().filter(|amount: &f64| amount.is_finite() && *amount >= 0.0);
    amount.ok_or_else(|| "must be a number of 0 or more, such as 0.085".to_owned())
}

/// Reads a length of time.
///
/// # Errors
/// If it is none, in words for a user.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a time such as 30s, 5m or 1h 30m".to_owned())
}

/// Reads a whole number of 1 or more.
///
/// # Errors
/// If it is none, in words for a user.
pub fn positive(text: &str) -> Result<NonZero<usize>, String> {
    text.parse().map_err(|_| "must be a whole number of 1 or more".to_owned())
}

/// Reads a number of threads.
///
/// # Errors
/// If it is none, in words for a user.
pub fn threads(text: &str) -> Result<NonZero<usize>, String> {
    positive(text).ok().filter(|n| n.get() <= MAX_THREADS).ok_or_else(|| format!("must be 1 to {MAX_THREADS}"))
}

/// Checks that `text` is an address or a name, and a port.
///
/// # Errors
/// If it is not, in words for a user.
pub fn address(text: &str) -> Result<String, String> {
    let is_address = text.parse::<std::net::SocketAddr>().is_ok();
    let is_name =
        |(name, port): (&str, &str)| !name.is_empty() && !name.contains([':', '/', ' ']) && port.parse::<u16>().is_ok();
    if is_address || text.rsplit_once(':').is_some_and(is_name) {
        return Ok(text.to_owned());
    }
    Err("must be an IP address or a name, and a port, such as 127.0.0.1:8080, [::1]:8080 or localhost:8080".to_owned())
}

fn key_value(text: &str) -> Result<(String, Secret), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.to_owned().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_every_flag_but_the_web_tiers() {
        let global = Global {
            config: Some("/c.toml".into()),
            set: ["web.token=s3cret", "model_mirror=https://me:s3cret@a.example", "worker.batch=2"]
                .map(|set| key_value(set).unwrap())
                .to_vec(),
            backend: Some(StoresKind::Local),
            data_dir: Some("/d".into()),
            log_format: None,
        };
        assert!(!format!("{global:?}{:?}", global.overrides()).contains("s3cret"));
        let mut more = Overrides::default();
        more.set("model", Some("/m"));
        more.set("fleet.max", None::<u32>);
        assert_eq!(
            global.for_workers(&global.overrides().and(more)),
            ["--config=/c.toml", "--set=worker.batch=2", "--set=backend=local", "--set=data_dir=/d", "--set=model=/m"]
        );
    }

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for good in ["127.0.0.1:0", "[::1]:8080", "localhost:8080", "0.0.0.0:80"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in ["", "localhost", "8080", ":80", "::1:80", "http://a:80", "a:99999"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
