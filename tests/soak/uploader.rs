//! One of those who upload, with a ledger of what was acknowledged.

use std::{sync::Arc, time::Instant};

use imgcls::contract::{Digest, ImageName};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Expected, Ledger, Resets},
    pictures::Pictures,
};
use crate::support::{client_builder, form};

/// An uploader.
pub(super) struct Uploader {
    id: usize,
    rng: StdRng,
    client: reqwest::Client,
    url: watch::Receiver<String>,
    pictures: Arc<Pictures>,
    resets: Arc<Resets>,
    ledger: Ledger,
    names: usize,
    pub(super) acknowledged: usize,
}

impl Uploader {
    pub(super) fn new(
        id: usize,
        seed: u64,
        url: watch::Receiver<String>,
        pictures: Arc<Pictures>,
        resets: Arc<Resets>,
    ) -> Self {
        let client = client_builder().timeout(std::time::Duration::from_secs(90)).build().unwrap();
        let rng = StdRng::seed_from_u64(seed.wrapping_add(1 + id as u64));
        Self { id, rng, client, url, pictures, resets, ledger: Ledger::default(), names: 0, acknowledged: 0 }
    }

    /// Uploads, classifies and deletes until `stop`; its ledger, and how often something was acknowledged.
    pub(super) async fn run(mut self, stop: CancellationToken) -> (Ledger, usize) {
        while !stop.is_cancelled() {
            match self.rng.random_range(0..100) {
                0..70 => self.upload().await,
                70..84 => self.classify().await,
                84..88 => self.look().await,
                _ => self.delete().await,
            }
            let pause = std::time::Duration::from_millis(self.rng.random_range(50..700));
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(pause) => {} }
        }
        (self.ledger, self.acknowledged)
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", *self.url.borrow())
    }

    /// A new name, or now and then one that is known.
    fn name(&mut self) -> String {
        let n = self.rng.random_range(0..4096);
        if n % 10 == 0
            && let Some((name, _)) = self.ledger.certain(&self.resets, n)
        {
            return name;
        }
        self.names += 1;
        format!("u{}-{}.png", self.id, self.names)
    }

    fn picture(&mut self) -> usize {
        self.rng.random_range(0..self.pictures.count())
    }

    async fn upload(&mut self) {
        let mut files: Vec<(String, usize)> = Vec::new();
        for _ in 0..self.rng.random_range(1..20) {
            let file = (self.name(), self.picture());
            if !files.iter().any(|(name, _)| *name == file.0) {
                files.push(file);
            }
        }
        let began = Instant::now();
        let body = form(files.iter().map(|(name, picture)| (name.clone(), self.pictures.bytes(*picture).to_vec())));
        let request = self.client.post(self.address("/")).header("accept", "application/json").multipart(body);
        let answer: Option<serde_json::Value> = match request.send().await {
            Err(error) if error.is_connect() => return,
            Err(_) => None,
            Ok(response) => response.json().await.ok(),
        };
        let entries = answer.as_ref().and_then(|answer| answer["files"].as_array());
        for (n, (name, picture)) in files.into_iter().enumerate() {
            match entries.and_then(|entries| entries.get(n)?["image"].as_str()) {
                Some(stored) => self.acknowledge(stored, picture, began),
                None => self.perhaps(&name, picture, began),
            }
        }
    }

    fn acknowledge(&mut self, stored: &str, picture: usize, began: Instant) {
        self.acknowledged += 1;
        self.ledger.acknowledged(stored, picture, began);
    }

    /// It may be stored under any of the names that would be tried.
    fn perhaps(&mut self, name: &str, picture: usize, began: Instant) {
        let digest = Digest::of(self.pictures.bytes(picture));
        let name: ImageName = name.parse().unwrap();
        for candidate in name.candidates(&digest) {
            // What is there is not overwritten, so this cannot be under it.
            let expected = self.ledger.expected(&self.resets, candidate.as_str());
            if !matches!(expected, Expected::Stored(other) if other != picture) {
                self.ledger.unclear(candidate.as_str(), picture, began);
            }
        }
    }

    async fn classify(&mut self) {
        let (name, picture, began) = (self.name(), self.picture(), Instant::now());
        let body = form([(name.clone(), self.pictures.bytes(picture).to_vec())]);
        let request = self.client.post(self.address("/classify")).header("accept", "application/json").multipart(body);
        let response = match request.send().await {
            Err(error) if error.is_connect() => return,
            Err(_) => return self.perhaps(&name, picture, began),
            Ok(response) => response,
        };
        let status = response.status();
        match response.json::<serde_json::Value>().await {
            Ok(row) if status == StatusCode::OK => {
                let label = self.pictures.label(picture, row["model"].as_str().unwrap());
                assert_eq!(row["label"].as_str(), label, "the answer for {name}: {row}");
                self.acknowledge(row["image"].as_str().unwrap(), picture, began);
            }
            _ => self.perhaps(&name, picture, began),
        }
    }

    /// Looks at the small picture of an image.
    async fn look(&mut self) {
        let n = self.rng.random_range(0..4096);
        let Some((name, _)) = self.ledger.certain(&self.resets, n) else { return };
        let asked = self.client.get(self.address(&format!("/images/{name}?size=64&v={n}"))).send().await;
        // The server may be gone; an answer has all its bytes.
        if let Ok(answer) = asked
            && answer.status() == StatusCode::OK
            && let Ok(bytes) = answer.bytes().await
        {
            assert!(bytes.starts_with(&[0xff, 0xd8]) && bytes.ends_with(&[0xff, 0xd9]), "the thumbnail of {name}");
        }
    }

    async fn delete(&mut self) {
        let n = self.rng.random_range(0..4096);
        let Some((name, _)) = self.ledger.certain(&self.resets, n) else { return };
        let response = match self.client.delete(self.address(&format!("/images/{name}"))).send().await {
            Err(error) if error.is_connect() => return,
            Err(_) => return self.ledger.perhaps_deleted(&name),
            Ok(response) => response,
        };
        match response.status() {
            StatusCode::OK => self.ledger.deleted(&name),
            StatusCode::NOT_FOUND => {
                let expected = self.ledger.expected(&self.resets, &name);
                assert!(!matches!(expected, Expected::Stored(_)), "{name} was acknowledged and is not there");
                self.ledger.deleted(&name);
            }
            _ => self.ledger.perhaps_deleted(&name),
        }
    }
}
