//! An address and port as text, empty for none.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes `127.0.0.1:80`.
///
/// # Errors
/// The serializer's.
pub(super) fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&address.map(|a| a.to_string()).unwrap_or_default())
}

/// Reads `127.0.0.1:80`.
///
/// # Errors
/// If it is no address with a port.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parse = || text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not ADDRESS:PORT")));
    (!text.is_empty()).then(parse).transpose()
}
