//! Sequencers, which order the events of one key.

use serde::{Deserialize, Serialize};

/// Orders the events of one key: S3's hexadecimal text, upper-cased and right-padded with zeros to a fixed width, so
/// that it compares as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Sequencer(String);

impl Sequencer {
    /// S3 has used 16 to 18 digits; the rest is room.
    const WIDTH: usize = 32;

    /// The sequencer that `text` stands for.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(format!("{:0<width$}", text.to_ascii_uppercase(), width = Self::WIDTH))
    }

    /// A sequencer from a counter: 16 hexadecimal digits.
    #[must_use]
    pub fn from_counter(counter: u64) -> Self {
        Self::new(&format!("{counter:016X}"))
    }

    /// The padded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Sequencer {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<Sequencer> for String {
    fn from(sequencer: Sequencer) -> Self {
        sequencer.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequencers_compare_as_padded_text() {
        assert_eq!(Sequencer::new("ab"), Sequencer::new("AB00"));
        assert!(Sequencer::new("0055AED6DCD90281E5") < Sequencer::new("0055AED6DCD90281E6"));
        assert!(Sequencer::from_counter(9) < Sequencer::from_counter(10));
        assert!(Sequencer::from_counter(u64::MAX - 1) < Sequencer::from_counter(u64::MAX));
    }
}
