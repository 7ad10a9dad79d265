//! Durations as text: `30s`, `2m`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes `30s`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// Reads `30s`, `1m 30s`, or a number of seconds.
///
/// # Errors
/// If it is neither.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Seconds(u64),
    }
    match Either::deserialize(deserializer)? {
        Either::Seconds(seconds) => Ok(Duration::from_secs(seconds)),
        Either::Text(text) => humantime::parse_duration(&text)
            .map_err(|_| D::Error::custom(format!("{text:?} is not a duration such as \"30s\""))),
    }
}
