//! The backend on emulators: what is particular to it. What all backends have in common is in the contract suite.

use std::{collections::HashSet, sync::Arc, time::Duration};

use aws_sdk_sqs::types::QueueAttributeName;
use time::OffsetDateTime;

use super::{
    client::Clients,
    fleet::AutoScalingFleet,
    images::S3Images,
    open_with,
    results::DynamoResults,
    setup::{Action, Setup, Step},
};
use crate::{
    backend::{
        Backend, ErrorKind, Fleet, Heartbeat, Images, Message, PageQuery, Receipt, Removed, Tally, Upload, UploadBytes,
        Written,
        suite::{Environment, contract_suite},
    },
    clock::{Clock, SystemClock},
    config::Aws,
    contract::{Classification, Digest, ImageName, Outcome, Sequencer, WorkerId, event},
    model::Score,
};

mod images;
mod queue;
mod results;
mod whole;

const MINUTE: Duration = Duration::from_secs(60);

#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../../../tests/aws/emulator.rs"]
pub(super) mod emulator;

mod suite {
    use super::contract_suite;

    contract_suite!(super::super::environment);
}

/// A system for one case of the suite, whose messages come back after two seconds.
async fn environment() -> Environment {
    let system = System::new("in/").await;
    let url = system.clients.sqs.get_queue_url().queue_name("images").send().await.unwrap().queue_url.unwrap();
    let set = system.clients.sqs.set_queue_attributes().queue_url(url);
    set.attributes(QueueAttributeName::VisibilityTimeout, "2").send().await.unwrap();
    let open = || async { open_with(system.clients.clone(), &system.config).await.unwrap() };
    Environment {
        backend: open().await,
        other: open().await,
        advance: Box::new(|by| Box::pin(tokio::time::sleep(by))),
        patience: Duration::from_secs(3),
        refuses_stale_receipts: false,
        knows_removed_images: false,
        set_back: None,
        spool: system.dir.path().to_owned(),
        _guards: vec![Box::new(system.dir)],
    }
}

/// A system of its own on the shared emulator.
struct System {
    backend: Backend,
    config: Aws,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl System {
    async fn new(prefix: &str) -> Self {
        let account = emulator::account();
        let config = Aws {
            bucket: format!("in-{account}"),
            prefix: prefix.to_owned(),
            output_bucket: format!("out-{account}"),
            queue_url: "images".to_owned(),
            endpoint_url: Some(emulator::shared_ministack().to_owned()),
            table: "Classifications".to_owned(),
            ..Aws::default()
        };
        let clients = Clients::of_emulator(&config, &account).await;
        set_up(&clients, &config, false).await;
        let backend = open_with(clients.clone(), &config).await.unwrap();
        // The bucket greets a queue that it is told to notify; the tests count messages.
        for greeting in backend.queue.receive(10, Duration::from_secs(5)).await.unwrap() {
            assert!(greeting.body.contains("s3:TestEvent"), "{greeting:?}");
            backend.queue.delete(&[greeting.receipt]).await.unwrap();
        }
        Self { backend, config, clients, dir: tempfile::tempdir().unwrap() }
    }

    fn upload(&self, name: &str, bytes: &[u8]) -> Upload {
        let digest = Digest::of(bytes);
        let path = self.dir.path().join(format!("{}-{}", digest.to_hex(), rand::random::<u64>()));
        std::fs::write(&path, bytes).unwrap();
        let name = ImageName::from_upload(name, &digest).unwrap();
        Upload { name, bytes: UploadBytes::File(path), size: bytes.len() as u64, digest, media_type: "image/png" }
    }

    async fn receive(&self, count: usize) -> Vec<Message> {
        let mut all = Vec::new();
        for _ in 0..20 {
            all.extend(self.backend.queue.receive(10, Duration::from_secs(1)).await.unwrap());
            if all.len() >= count {
                break;
            }
        }
        all
    }
}

/// Sets up what `config` names, and answers the steps.
async fn set_up(clients: &Clients, config: &Aws, dry_run: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut tell = |step| steps.push(step);
    Setup { clients: clients.clone(), config, dry_run, tell: &mut tell }.run().await.unwrap();
    steps
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn result(image: &str, label: &str, sequencer: Option<u64>) -> Classification {
    Classification {
        image: name(image),
        outcome: Outcome::labelled(vec![Score { label: label.into(), confidence: 0.5 }]).unwrap(),
        location: format!("s3://b/{image}"),
        model: "m".into(),
        worker: "w".into(),
        classified_at: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
        sequencer: sequencer.map(Sequencer::from_counter),
        image_sequencer: None,
        asked_at: SystemClock.now(),
    }
}
