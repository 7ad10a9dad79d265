//! The `limits` section.

use super::{ConfigError, raw};
use crate::model::Limits;

impl raw::Limits {
    /// Checks the section.
    pub(super) fn resolve(&self) -> Result<Limits, ConfigError> {
        for (key, value) in
            [("max_bytes", self.max_bytes.0), ("max_side", self.max_side.into()), ("max_pixels", self.max_pixels)]
        {
            if value == 0 {
                return Err(ConfigError::invalid(format!("limits.{key} is 0, which lets nothing through; raise it")));
            }
        }
        Ok(Limits { max_bytes: self.max_bytes.0, max_side: self.max_side, max_pixels: self.max_pixels })
    }
}
