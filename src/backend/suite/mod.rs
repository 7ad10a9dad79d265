//! The contract suite: what every backend must do, told once and run on each.
//!
//! A backend runs it by [`contract_suite!`] with a function that makes an [`Environment`] of its own for each case.

use std::{collections::BTreeSet, path::PathBuf, pin::Pin, time::Duration};

use time::OffsetDateTime;

use super::{Backend, Message, Put, Upload, UploadBytes, Written};
use crate::{
    contract::{Classification, Digest, ImageName, ObjectEvent, Outcome, Sequencer, Timestamp, event},
    model::Score,
};

pub(crate) mod images;
pub(crate) mod queue;
pub(crate) mod reset;
pub(crate) mod results;
pub(crate) mod search;

/// Lets time pass.
type Advance = dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// A fresh, empty system to test.
pub(crate) struct Environment {
    /// A handle on it.
    pub(crate) backend: Backend,
    /// The handle of another process.
    pub(crate) other: Backend,
    /// Lets time pass, by moving the clock or by waiting.
    pub(crate) advance: Box<Advance>,
    /// How long a message may take to arrive.
    pub(crate) patience: Duration,
    /// Whether a stale receipt is refused; some emulators take it silently.
    pub(crate) refuses_stale_receipts: bool,
    /// Whether the store refuses rows of images that nobody removed and that are not there; where images are elsewhere
    /// it cannot know.
    pub(crate) knows_removed_images: bool,
    /// Sets the clock back, where the store has one of ours.
    pub(crate) set_back: Option<Box<dyn Fn(Duration) + Send + Sync>>,
    /// A directory for spooled uploads.
    pub(crate) spool: PathBuf,
    /// Kept until the case is over.
    pub(crate) _guards: Vec<Box<dyn std::any::Any + Send + Sync>>,
}

/// One test per case of the suite. `$environment` is an async function that makes an [`Environment`].
macro_rules! contract_suite {
    ($environment:path) => {
        $crate::backend::suite::contract_suite! { $environment,
            images: keeps_what_is_put, same_name_other_bytes, racing_puts_overwrite_nothing,
                odd_names_come_back_in_events, refuses_foreign_events, lists_all_in_pages, keeps_foreign_tags,
                holds_outputs, asks_again_without_sequencer;
            queue: hides_and_shows_again, extends_and_hands_back, buries_redrives_and_drops, takes_any_number,
                gives_each_message_to_one_receiver, wakes_a_waiting_receiver, peeks, buries_nothing_by_looking,
                waits_no_longer_for_a_clock_that_was_set_back;
            results: replaces_by_sequencer, pages_both_ways_from_any_name, knows_failures, deletes_rows,
                refuses_rows_of_removed_images, a_removed_image_stays_away_until_it_is_uploaded_again, keeps_heartbeats,
                swaps_the_scaler_once;
            search: finds_names_labels_and_folders, says_what_it_cannot_find, ignores_case,
                finds_neighbours_in_each_order, orders_and_counts_states;
            reset: empties_everything, discards_work_in_flight, keeps_the_new_image_of_an_old_name,
                leaves_nothing_once_it_has_settled;
        }
    };
    ($environment:path, $($module:ident: $($case:ident),+;)+) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::backend::suite::$module::$case(&$environment().await).await;
            })+
        })+
    };
}
pub(crate) use contract_suite;

impl Environment {
    /// Uploads `bytes` under `name` over `backend`.
    pub(crate) async fn put_over(&self, backend: &Backend, name: &str, bytes: &[u8]) -> Put {
        // Both ways, each about as often.
        let path = self.spool.join(format!("{:032x}", rand::random::<u128>()));
        let in_memory = rand::random::<bool>();
        let bytes_at = if in_memory {
            UploadBytes::Memory(bytes.to_vec().into())
        } else {
            std::fs::write(&path, bytes).unwrap();
            UploadBytes::File(path.clone())
        };
        let upload = Upload {
            name: self::name(name),
            bytes: bytes_at,
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            media_type: "image/png",
        };
        let put = backend.images.put(&upload).await.unwrap();
        if !in_memory {
            drop(std::fs::remove_file(path));
        }
        put
    }

    pub(crate) async fn put(&self, name: &str, bytes: &[u8]) -> Put {
        self.put_over(&self.backend, name, bytes).await
    }

    /// Receives until `count` messages came.
    pub(crate) async fn receive(&self, count: usize) -> Vec<Message> {
        let deadline = tokio::time::Instant::now() + self.patience * 5;
        let mut messages = Vec::new();
        while messages.len() < count {
            assert!(tokio::time::Instant::now() < deadline, "{} of {count} messages came", messages.len());
            let max = (count - messages.len()).min(10);
            messages.extend(self.backend.queue.receive(max, self.patience).await.unwrap());
        }
        messages
    }

    /// Asserts that no message is visible.
    pub(crate) async fn receive_none(&self) {
        let messages = self.backend.queue.receive(10, Duration::from_millis(200)).await.unwrap();
        assert!(messages.is_empty(), "{messages:?}");
    }

    /// Sends messages with these bodies, and receives them.
    pub(crate) async fn sent(&self, bodies: &[&str]) -> Vec<Message> {
        self.backend.queue.send(&bodies.iter().map(ToString::to_string).collect::<Vec<_>>()).await.unwrap();
        self.receive(bodies.len()).await
    }

    /// Lets the visibility time-out pass.
    pub(crate) async fn time_out(&self) {
        (self.advance)(self.backend.queue.policy().visibility_timeout + Duration::from_millis(500)).await;
    }

    /// Uploads an image of this name, and answers a result for it that was asked for by its own event.
    pub(crate) async fn result_for(&self, name: &str, label: &str) -> Classification {
        let put = self.put(name, name.as_bytes()).await;
        assert!(put.created);
        let stored = self.backend.images.get(&put.image, 1 << 20).await.unwrap();
        let sequencer = stored.sequencer.unwrap_or_else(|| Sequencer::new("0055AED6DCD90281"));
        Classification { sequencer: Some(sequencer), ..result(put.image.as_str(), label) }
    }

    /// Uploads images of these names and writes results for them.
    pub(crate) async fn rows(&self, names: &[&str], label: &str) {
        for name in names {
            let result = self.result_for(name, label).await;
            self.write(&result).await;
        }
    }

    /// Writes a row as publishing does. Returns the label that it replaced, if that is another, and what became of it.
    pub(crate) async fn write(&self, result: &Classification) -> (Option<String>, Written) {
        match self.backend.results.put(result, None).await.unwrap() {
            Written::Labelled(label) => {
                let written = self.backend.results.put(result, Some(&label)).await.unwrap();
                (Some(label), written)
            }
            written => (None, written),
        }
    }
}

pub(crate) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// A result without a sequencer, asked for in a far future.
pub(crate) fn result(image: &str, label: &str) -> Classification {
    let top = vec![
        Score { label: label.to_owned(), confidence: 0.75 },
        Score { label: "other".to_owned(), confidence: 0.125 },
    ];
    Classification {
        image: name(image),
        outcome: Outcome::labelled(top).unwrap(),
        location: format!("/images/{image}"),
        model: "model".to_owned(),
        worker: "host-1".into(),
        classified_at: OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap(),
        sequencer: None,
        image_sequencer: None,
        asked_at: Timestamp::from_millis(10_000_000_000_000),
    }
}

/// A sequencer after `sequencer`, by the `step`-th digit that no store uses.
pub(crate) fn later(sequencer: &Sequencer, step: u8) -> Sequencer {
    Sequencer::new(&format!("{}{step:X}", &sequencer.as_str()[..24]))
}

/// The one event in a message.
pub(crate) fn event_in(message: &Message) -> ObjectEvent {
    let events = event::parse(&message.body).unwrap();
    assert_eq!(events.len(), 1, "{message:?}");
    events.into_iter().next().unwrap()
}

pub(crate) fn bodies(messages: &[Message]) -> BTreeSet<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}
