//! What happens to a message, and to each image that it names.

use std::time::Duration;

use strum::{EnumIter, IntoStaticStr};

use crate::{
    backend::{Error, ErrorKind, Retry},
    contract::Outcome,
};

/// When a message that failed comes back: after 2 s, then twice as long each time.
const BACK_OFF: Retry = Retry { attempts: u32::MAX, first: Duration::from_secs(2), longest: Duration::from_secs(300) };

/// What came of one try at an image, or of a message that names none. Its name is the label of a metric.
#[derive(Debug, Clone, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Fate {
    /// Classified and stored.
    Done,
    /// Recorded as an image that cannot be classified.
    Failed,
    /// Nothing to do: the image is gone or newer, or the message is none of ours.
    Discarded,
    /// Failed this time, for this reason; the message comes again after a back-off.
    Retried(String),
    /// Not done; the message is shown to others at once.
    HandedBack,
    /// Failed at the last receive, for this reason; the message is a dead letter.
    GaveUp(String),
}

/// What the queue is told about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposal {
    /// It is done.
    Delete,
    /// Show it again after so long.
    Show(Duration),
}

impl Fate {
    /// What this means for a message that was received so often.
    #[must_use]
    pub(crate) fn disposal(&self, receive_count: u32) -> Disposal {
        match self {
            Self::Done | Self::Failed | Self::Discarded => Disposal::Delete,
            Self::Retried(_) => Disposal::Show(BACK_OFF.pause(receive_count)),
            // At once: to whoever has time, or, with its receives used up, to the dead-letter queue.
            Self::HandedBack | Self::GaveUp(_) => Disposal::Show(Duration::ZERO),
        }
    }
}

impl From<&Outcome> for Fate {
    /// The fate of an image whose outcome is stored.
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Labelled { .. } => Self::Done,
            Outcome::Failed { .. } => Self::Failed,
        }
    }
}

impl From<Error> for Fate {
    /// The fate of an image that a store did not give or take.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Discarded,
            _ => Self::Retried(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_deleted_only_when_there_is_nothing_left_to_do() {
        for fate in [Fate::Done, Fate::Failed, Fate::Discarded] {
            assert_eq!(fate.disposal(1), Disposal::Delete);
        }
        for fate in [Fate::HandedBack, Fate::GaveUp("no".into())] {
            assert_eq!(fate.disposal(9), Disposal::Show(Duration::ZERO));
        }
        for (receives, longest) in [(1, 2), (2, 4), (5, 32), (30, 300)] {
            let Disposal::Show(pause) = Fate::Retried("no".into()).disposal(receives) else {
                panic!("it is not shown")
            };
            let longest = Duration::from_secs(longest);
            assert!(pause >= longest / 2 && pause <= longest, "{receives}: {pause:?}");
        }
    }
}
