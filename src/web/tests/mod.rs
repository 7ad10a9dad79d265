//! The web tier over real connections, on a real local backend, with a real worker where results are needed.

use std::{io::Cursor, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Client, Method, StatusCode, header, multipart};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::{App, ModelFacts, serve};
use crate::{
    backend::{Backend, local},
    clock::SystemClock,
    config::{Raw, Secret, Serve, Stores},
    model::{Bundle, Classifier, Engine, Parallel},
    worker,
};

mod access;
mod api;
mod classify;
mod load;
mod pages;
mod thumbnails;
mod uploads;

/// A server on a free port, with a data directory of its own.
struct Server {
    url: String,
    address: SocketAddr,
    client: Client,
    backend: Backend,
    app: Arc<App>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start(change: impl FnOnce(&mut Serve)) -> Self {
        Self::start_with(change, |_| {}).await
    }

    /// The same with other stores.
    async fn start_with(change: impl FnOnce(&mut Serve), stores: impl FnOnce(&mut Backend)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Raw { data_dir: dir.path().join("data"), ..Raw::default() }.serve().unwrap();
        change(&mut config);
        let Stores::Local(local) = &config.stores else { panic!("{:?}", config.stores) };
        let (mut backend, _) = local::open(local, Arc::new(SystemClock)).unwrap();
        stores(&mut backend);
        let model = ModelFacts { name: "test".into(), labels: vec!["cat".into()], note: "A note.".into() };
        let app = App::new(backend.clone(), config, model, Arc::new(SystemClock)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(serve(listener, Arc::clone(&app), stop.clone()));
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { url: format!("http://{address}"), address, client, backend, app, stop, ended, dir }
    }

    /// Starts a worker; it ends with the server.
    fn work(&self) {
        let config = Raw::default().work().unwrap();
        let classifier = Classifier::new(Bundle::embedded().unwrap(), Engine::default(), Parallel::one(1)).unwrap();
        let settings = worker::Settings {
            worker: "w".into(),
            threads: 1,
            batch: 8,
            receivers: 1,
            pixel_budget: config.worker.pixel_budget,
            limits: config.limits,
            min_confidence: 0.0,
            until_empty: false,
        };
        let worker = worker::Worker {
            backend: self.backend.clone(),
            instance: Arc::new(crate::backend::Host::default()),
            classifier: Arc::new(classifier),
            clock: Arc::new(SystemClock),
            metrics: worker::Metrics::new(),
            settings,
        };
        tokio::spawn(worker.run(self.stop.clone()));
    }

    async fn upload(&self, files: Vec<(String, Vec<u8>)>) -> (StatusCode, Value) {
        let request = self.client.post(&self.url).header("accept", "application/json").multipart(form(files));
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// Sends bytes as they are and answers what comes until the server closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn form(files: Vec<(String, Vec<u8>)>) -> multipart::Form {
    files.into_iter().fold(multipart::Form::new(), |form, (name, bytes)| {
        form.part("myfile", multipart::Part::bytes(bytes).file_name(name))
    })
}

fn picture(seed: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(24, 24, |x, y| {
        let [r, g, b, _] = (x.wrapping_mul(7) ^ y.wrapping_mul(13) ^ seed.wrapping_mul(2_654_435_761)).to_le_bytes();
        image::Rgb([r, g, b])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
