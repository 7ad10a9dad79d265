//! The door: whatever strangers send, the health check answers within a second, others are served, and memory is
//! bounded.
//!
//! `IMGCLS_DOOR=large` sends ten times as much.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::LocalBoxFuture;
use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::{Server, client, client_builder, picture, upload};

/// More than the server has places.
const CROWD: usize = 600;

/// The health check has this long.
const SOON: Duration = Duration::from_secs(1);

/// The server may have held so much.
const MEMORY: u64 = 400 << 20;

fn scale() -> usize {
    if std::env::var("IMGCLS_DOOR").is_ok_and(|v| v == "large") { 10 } else { 1 }
}

/// Who looks at the server while it is under attack.
struct Watch<'a> {
    server: &'a Server,
    probes: AtomicUsize,
    late: AtomicUsize,
    /// The slowest, in milliseconds.
    slowest: AtomicU64,
    over: AtomicBool,
}

impl<'a> Watch<'a> {
    fn new(server: &'a Server) -> Self {
        Self {
            server,
            probes: AtomicUsize::new(0),
            late: AtomicUsize::new(0),
            slowest: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Asks for the health check, each time by a new connection, until the attack is over. On a loaded machine one in
    /// fifty may be late, but never two in a row.
    async fn health(&self) {
        let client = client_builder().pool_max_idle_per_host(0).timeout(4 * SOON).build().unwrap();
        let mut late_before = false;
        while !self.over.load(Ordering::Relaxed) {
            let start = Instant::now();
            let answer = client.get(format!("{}/healthcheck", self.server.url)).send().await;
            let took = start.elapsed();
            let is_late = answer.is_err() || took > SOON;
            assert!(!(is_late && late_before), "the health check is late twice in a row: {answer:?}");
            late_before = is_late;
            self.probes.fetch_add(1, Ordering::Relaxed);
            self.slowest.fetch_max(u64::try_from(took.as_millis()).unwrap(), Ordering::Relaxed);
            self.late.fetch_add(usize::from(is_late), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Looks at results and uploads a picture: at the height of the attack this may have to be tried again, not for
    /// long.
    async fn others(&self, seed: u32) {
        let client = client_builder().timeout(Duration::from_secs(10)).build().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let form = crate::support::form([(format!("door{seed}.png"), picture(seed))]);
            let sent = client.post(format!("{}/", self.server.url)).header("accept", "application/json");
            let stored = sent.multipart(form).send().await.map(|answer| answer.status());
            let seen =
                client.get(format!("{}/api/results", self.server.url)).send().await.map(|answer| answer.status());
            if matches!((&stored, &seen), (Ok(StatusCode::OK), Ok(StatusCode::OK))) {
                return;
            }
            assert!(Instant::now() < deadline, "others are not served: {stored:?}, {seen:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Runs an attack, and watches what becomes of everybody else.
async fn under(server: &Server, what: &str, seed: u32, attack: impl Future<Output = ()>) {
    let (start, watch) = (Instant::now(), Watch::new(server));
    let attack = async {
        attack.await;
        watch.others(seed).await;
        watch.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(attack, watch.health(), watch.others(seed + 1));
    let (probes, late) = (watch.probes.load(Ordering::Relaxed), watch.late.load(Ordering::Relaxed));
    println!(
        "{what}: {:.1} s, {late} of {probes} health checks late, the slowest took {} ms, peak memory {} MB",
        start.elapsed().as_secs_f64(),
        watch.slowest.load(Ordering::Relaxed),
        server.peak_memory() / 1_000_000
    );
    assert!(late <= 1 + probes / 50, "{what}: {late} of {probes} health checks took longer than {SOON:?}");
    assert!(server.peak_memory() < MEMORY, "{what}: the server held {} bytes", server.peak_memory());
}

fn address(server: &Server) -> String {
    server.url.trim_start_matches("http://").to_owned()
}

/// Opens connections, sends each these bytes, and keeps all of them.
async fn crowd(server: &Server, count: usize, bytes: impl Fn(usize) -> Vec<u8>) -> Vec<TcpStream> {
    let address: SocketAddr = address(server).parse().unwrap();
    let mut connections = Vec::with_capacity(count);
    for n in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        // What the client does not take waits in the server, not in the kernel.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let Ok(Ok(mut stream)) = timeout(Duration::from_secs(10), socket.connect(address)).await else { continue };
        // The server may have closed it already.
        if stream.write_all(&bytes(n)).await.is_ok() {
            connections.push(stream);
        }
    }
    connections
}

/// Sends some bytes on each connection from time to time.
async fn drip(connections: &mut [TcpStream], rounds: usize, bytes: &[u8]) {
    for _ in 0..rounds {
        for stream in &mut *connections {
            drop(stream.try_write(bytes));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Sends just enough on each connection for a while, and then until `others` have ended.
async fn drip_beside(mut connections: Vec<TcpStream>, others: impl Future<Output = ()>) {
    drip(&mut connections, 4, &[b'A'; 1000]).await;
    tokio::select! {
        () = drip(&mut connections, usize::MAX, &[b'A'; 1000]) => {}
        () = others => {}
    }
}

const MULTIPART: &str =
    "Host: localhost\r\nAccept: application/json\r\nContent-Type: multipart/form-data; boundary=X\r\n";

/// A multipart request in chunks of the caller's making, and what the server answers to it.
async fn pour(server: &Server, chunks: impl Iterator<Item = Vec<u8>>) -> String {
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\n{MULTIPART}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut answers, mut requests) = stream.split();
    let send = async {
        for chunk in chunks {
            let head = format!("{:x}\r\n", chunk.len());
            let sent = async {
                requests.write_all(head.as_bytes()).await?;
                requests.write_all(&chunk).await?;
                requests.write_all(b"\r\n").await
            };
            // The server has refused the rest.
            if sent.await.is_err() {
                return;
            }
        }
        drop(requests.write_all(b"0\r\n\r\n").await);
    };
    let mut answer = Vec::new();
    let receive = async { drop(answers.read_to_end(&mut answer).await) };
    timeout(Duration::from_secs(120), async { tokio::join!(send, receive) }).await.expect("the server answers");
    String::from_utf8_lossy(&answer).into_owned()
}

fn part(name: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n");
    [head.as_bytes(), body, b"\r\n"].concat()
}

/// Lets this process have as many connections as it may, and returns how many.
fn raise_limit_of_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_keep_others_from_the_door() {
    let server = Server::start(&["--no-workers"]);
    upload(&client(), &server.url, (0..20).map(|n| (format!("{n}.png"), picture(n)))).await;
    for (n, (what, attack)) in (0..).zip(ATTACKS) {
        under(&server, what, 1000 + 2 * n, attack(&server)).await;
    }
}

type Attack = for<'a> fn(&'a Server) -> LocalBoxFuture<'a, ()>;

const ATTACKS: [(&str, Attack); 14] = [
    ("10,000 idle connections", idle_connections),
    ("slow heads", slow_heads),
    ("slow bodies on every route", slow_bodies),
    ("bodies that are just fast enough", bodies_just_fast_enough),
    ("calls while others have all places", calls_without_a_place),
    ("images in JSON, drop by drop", images_in_json),
    ("clients that take nothing", clients_that_take_nothing),
    ("half-closed clients", half_closed_clients),
    ("names of 900 kB", long_names),
    ("thousands of names of 4 kB", many_long_names),
    ("a million parts", a_million_parts),
    ("a body of 10 GB", ten_gigabytes),
    ("floods of headers", floods_of_headers),
    ("pipelines", pipelines),
];

fn idle_connections(server: &Server) -> LocalBoxFuture<'_, ()> {
    let count = raise_limit_of_files().saturating_sub(2000).min(10_000);
    Box::pin(async move {
        let held = crowd(server, count, |_| Vec::new()).await;
        assert!(held.len() > count / 2, "{} of {count} connections", held.len());
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
}

fn slow_heads(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let mut held = crowd(server, CROWD, |_| b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_vec()).await;
        drip(&mut held, 4, b"x").await;
    })
}

fn slow_bodies(server: &Server) -> LocalBoxFuture<'_, ()> {
    const ROUTES: &str =
        "/ /classify /login /logout /api/results/lookup /requeue /queue/redrive /queue/drop /results /no";
    Box::pin(async move {
        let routes: Vec<&str> = ROUTES.split(' ').collect();
        let head = |n: usize| {
            let kind = match routes[n % routes.len()] {
                "/" | "/classify" => MULTIPART,
                "/api/results/lookup" => "Host: localhost\r\nContent-Type: application/json\r\n",
                _ => "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            };
            format!("POST {} HTTP/1.1\r\n{kind}Content-Length: 100000\r\n\r\n-", routes[n % routes.len()]).into_bytes()
        };
        let mut held = crowd(server, CROWD, head).await;
        drip(&mut held, 4, b"x").await;
        // Those on one route alone, and the one that reads its body at once.
        let login = |_| {
            "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: 9\r\n\r\n"
                .into()
        };
        let mut held = crowd(server, CROWD, login).await;
        drip(&mut held, 4, b"x").await;
    })
}

/// Uploads that have begun and are never given up for themselves.
async fn endless_uploads(server: &Server) -> Vec<TcpStream> {
    let head = format!("POST / HTTP/1.1\r\n{MULTIPART}Content-Length: 8000000\r\n\r\n");
    let begun = [head.into_bytes(), part("endless.png", &picture(1))].concat();
    crowd(server, CROWD, |_| begun.clone()).await
}

fn bodies_just_fast_enough(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move { drip_beside(endless_uploads(server).await, Watch::new(server).others(900)).await })
}

/// More at a time than may wait for a place.
fn calls_without_a_place(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let calls = (0..CROWD / 2).map(|_| async {
            for _ in 0..10 {
                let Ok(mut stream) = TcpStream::connect(address(server)).await else { continue };
                drop(stream.write_all(b"GET /results HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await);
                let mut answer = Vec::new();
                let answered = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
                assert!(answered.is_ok(), "a call is answered or refused");
            }
        });
        drip_beside(endless_uploads(server).await, async { drop(futures_util::future::join_all(calls).await) }).await;
    })
}

/// Two of them have all the memory for images.
fn images_in_json(server: &Server) -> LocalBoxFuture<'_, ()> {
    const BEGUN: &str = "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                         Content-Length: 16777216\r\n\r\n{\"inputs\": \"";
    Box::pin(async move {
        let image = client().get(format!("{}/images/0.png", server.url)).send();
        let shown = async { assert_eq!(image.await.unwrap().status(), StatusCode::OK) };
        drip_beside(crowd(server, 2, |_| BEGUN.into()).await, shown).await;
    })
}

fn clients_that_take_nothing(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let files = b"GET /assets/upload.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(30);
        let held = crowd(server, CROWD, |_| files.clone()).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(held);
    })
}

fn half_closed_clients(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let mut held = crowd(server, CROWD, |n| match n % 2 {
            0 => b"GET /results HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            _ => b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".to_vec(),
        })
        .await;
        for stream in &mut held {
            drop(stream.shutdown().await);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    })
}

fn long_names(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let mut clients = JoinSet::new();
        let name = "n".repeat(900_000);
        let parts = 60 * scale();
        let answers =
            (0..4).map(|_| pour(server, (0..parts).map(|_| part(&name, b"x")).chain([b"--X--\r\n".to_vec()])));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.matches("longer than 4096 bytes").count(), parts, "{}", &answer[..answer.len().min(400)]);
            assert!(answer.contains("\"file\":\"nnnnnnnn"));
        }
        // So many large heads at a time that not all are taken, none of which ever ends.
        for _ in 0..64 {
            let address = address(server);
            clients.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = format!("POST / HTTP/1.1\r\n{MULTIPART}Content-Length: 2000000\r\n\r\n");
                let endless = format!("--X\r\nContent-Disposition: form-data; name=\"{}", "n".repeat(900_000));
                drop(stream.write_all(head.as_bytes()).await);
                drop(stream.write_all(endless.as_bytes()).await);
                tokio::time::sleep(Duration::from_secs(2)).await;
            });
        }
        clients.join_all().await;
    })
}

fn many_long_names(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let name = "é".repeat(1300);
        let parts = (0..2000 * scale()).map(|_| part(&name, b"x"));
        let answer = pour(server, parts.chain([b"--X--\r\n".to_vec()])).await;
        assert!(answer.starts_with("HTTP/1.1 415"), "{}", &answer[..answer.len().min(400)]);
        assert!(answer.len() < 16 << 20, "{} bytes", answer.len());
    })
}

fn a_million_parts(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let some = part("a", b"x").repeat(1000);
        let answer = pour(server, (0..1000).map(|_| some.clone())).await;
        assert!(answer.contains("more than 20000 parts"), "{}", &answer[answer.len().saturating_sub(400)..]);
    })
}

fn ten_gigabytes(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let mut stream = TcpStream::connect(address(server)).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\n{MULTIPART}Expect: 100-continue\r\nContent-Length: 10000000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(Duration::from_secs(20), stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        // Without a word about how much it is, and with the beginning of an image.
        let mut sent = 0_u64;
        let zeros =
            std::iter::repeat_with(|| vec![0; 1 << 20]).take(10_000).inspect(|chunk| sent += chunk.len() as u64);
        let answer = pour(server, std::iter::once(part("big.png", &picture(1))).chain(zeros)).await;
        assert!(answer.contains("\"error\""), "{answer}");
        assert!(sent < 1 << 30, "the server has read {sent} bytes");
    })
}

fn floods_of_headers(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let many: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
        let long = format!("X: {}\r\n", "y".repeat(1 << 20));
        for headers in [many, long] {
            let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
            let held = crowd(server, CROWD / 4, |_| request.clone().into_bytes()).await;
            drop(held);
        }
    })
}

fn pipelines(server: &Server) -> LocalBoxFuture<'_, ()> {
    Box::pin(async move {
        let count = 1000 * scale();
        let clients = (0..8).map(|_| async {
            let mut stream = TcpStream::connect(address(server)).await.unwrap();
            let (mut answers, mut requests) = stream.split();
            let send = async {
                let one = b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\n\r\n";
                drop(requests.write_all(&one.repeat(count - 1)).await);
                drop(
                    requests
                        .write_all(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                        .await,
                );
            };
            let mut text = String::new();
            let receive = async { drop(answers.read_to_string(&mut text).await) };
            timeout(Duration::from_secs(60), async { tokio::join!(send, receive) }).await.expect("all are answered");
            assert_eq!(text.matches("Healthy").count(), count);
        });
        futures_util::future::join_all(clients).await;
    })
}
