//! Requests: heads and forms, odd by design and damaged by chance, to the running server.

use std::time::Duration;

use imgcls::contract::ImageName;
use proptest::{prelude::*, sample::Index};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

use crate::support::{DEADLINE, Server, picture};

/// Memory that a server may take beyond that at its start.
const MORE_MEMORY_KIB: u64 = 96 << 10;

/// A server without workers, which is well after all that was sent to it.
struct Target {
    runtime: Runtime,
    server: Server,
    memory: u64,
}

impl Target {
    fn start() -> Self {
        let server = Server::start(&["--no-workers", "--set", "web.classify_timeout=1s"]);
        let memory = resident(server.pid());
        Self { runtime: Runtime::new().unwrap(), server, memory }
    }

    fn host(&self) -> &str {
        self.server.url.strip_prefix("http://").unwrap()
    }

    /// Sends these bytes, and then no more if nothing comes back for `patience`; what comes back until the connection
    /// is closed.
    fn exchange(&self, request: &[u8], patience: Duration) -> Result<Vec<u8>, TestCaseError> {
        let talk = async {
            let mut stream = TcpStream::connect(self.host()).await?;
            // The server may have had enough of it.
            stream.write_all(request).await.ok();
            let (mut answer, mut is_over) = (Vec::new(), false);
            loop {
                match tokio::time::timeout(patience, stream.read_buf(&mut answer)).await {
                    Ok(Ok(1..)) => {}
                    // One that is reset may have been answered before.
                    Ok(_) => return Ok::<_, std::io::Error>(answer),
                    Err(_) if is_over => {}
                    Err(_) => {
                        stream.shutdown().await.ok();
                        is_over = true;
                    }
                }
            }
        };
        let timed = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, talk).await });
        let answer = timed.map_err(|_| TestCaseError::fail("no answer and no end of the connection"))?;
        answer.map_err(|e| TestCaseError::fail(format!("the server is not there: {e}")))
    }

    /// The server still answers, in no more memory, and nothing in it panicked.
    fn check(&self) {
        let healthy = self.exchange(
            format!("GET /healthcheck HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.host()).as_bytes(),
            DEADLINE,
        );
        assert!(String::from_utf8_lossy(&healthy.unwrap()).ends_with("Healthy"));
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
        let memory = resident(self.server.pid());
        assert!(memory < self.memory + MORE_MEMORY_KIB, "{memory} KiB, {} at its start", self.memory);
    }
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

/// Status and body of the first answer, if there is one.
fn first(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let rest = text.strip_prefix("HTTP/1.1 ")?;
    let (head, body) = rest.split_once("\r\n\r\n")?;
    Some((head.get(..3)?.parse().ok()?, body.to_owned()))
}

/// Bytes that may be changed, here and there.
fn damage() -> impl Strategy<Value = Vec<(Index, u8)>> {
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..4)]
}

fn damaged(mut bytes: Vec<u8>, damage: &[(Index, u8)]) -> Vec<u8> {
    for (at, byte) in damage {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

/// Request lines and headers with oddities; `@` stands for the server's own host.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec![
        "GET", "GET", "GET", "POST", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "get", "G\u{e9}T",
    ]);
    let path = prop::sample::select(vec![
        "/",
        "/results",
        "/api/results",
        "/api/results?limit=-1",
        "/api/results?limit=99999999999999999999&after=%00",
        "/api/results?after=a&before=b",
        "/api/results?q=%ff%fe",
        "/api/results?after=..%2f",
        "/api/results/..",
        "/api/results/%2e%2e%2f",
        "/api/results/lookup",
        "/api/results.csv",
        "/images/a.png",
        "/images/%00",
        "/images/%ff",
        "/images/",
        "/images/a%2fb",
        "/images/..%5c",
        "/status",
        "/api/status",
        "/queue/dead",
        "/queue/redrive",
        "/queue/drop",
        "/requeue",
        "/requeue?which=all",
        "/reset",
        "/login",
        "/logout",
        "/readyz",
        "/metrics",
        "/healthcheck",
        "/assets/../../etc/passwd",
        "/assets/%2e%2e",
        "/classify",
        "//",
        "/%",
        "*",
        "http://evil/",
        "",
        "/?",
    ]);
    let path = prop_oneof![6 => path.prop_map(str::to_owned), 1 => "/\\PC{0,40}", 1 => "/[a-z]{1,9}\\?[a-z%=&+]{0,60}"];
    let version = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]);
    let header = prop::sample::select(vec![
        "Host: evil.example",
        "Host: @",
        "Host:",
        "Accept: text/html",
        "Accept: application/json",
        "Accept: ;;q=9,,*/*;q=nan",
        "Content-Length: 5",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Expect: 100-continue",
        "Expect: x",
        "Content-Type: application/json",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: multipart/form-data",
        "Content-Type: multipart/form-data; boundary=",
        "Authorization: Bearer",
        "Authorization: Basic \u{e9}",
        "Cookie: session=; session=a=b;;",
        "Origin: null",
        "Origin: http://evil.example",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: x",
        "X-Forwarded-For: 1.2.3.4, , evil",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "Forwarded: for=\"[::1]\"",
        "If-None-Match: *",
        "Range: bytes=-1",
        "Upgrade: h2c",
        "Connection: upgrade",
        "Connection: close",
        ": x",
        "A b: c",
        "X: \u{0}",
        " folded: x",
    ]);
    let header = prop_oneof![
        8 => header.prop_map(str::to_owned),
        1 => "[A-Za-z-]{1,20}: \\PC{0,60}",
        1 => (0..3_usize).prop_map(|n| format!("X-Long: {}", "x".repeat([1000, 60_000, 200_000][n]))),
    ];
    let body = prop::sample::select(vec![
        "",
        "hello",
        "5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "[]",
        "[\"a\", 1]",
        "{\"",
        "token=x",
        "which=all",
        "which=%ff&which=",
        "yes=1",
    ]);
    (method, path, version, prop::collection::vec(header, 0..6), body, damage(), any::<bool>()).prop_map(
        |(method, path, version, headers, body, damage, has_host)| {
            let host = if has_host { "Host: @\r\n" } else { "" };
            let headers: String = headers.into_iter().map(|header| header + "\r\n").collect();
            damaged(format!("{method} {path} {version}\r\n{host}{headers}\r\n{body}").into_bytes(), &damage)
        },
    )
}

#[test]
fn every_head_is_answered_or_refused() {
    let target = Target::start();
    let mut runner = super::runner(400, "proptest-regressions/tests/heads.txt");
    let outcome = runner.run(&head(), |request| {
        let request = replaced(&request, target.host().as_bytes());
        let answer = target.exchange(&request, Duration::from_millis(50))?;
        if let Some((status, body)) = first(&answer) {
            prop_assert!(!(500..=502).contains(&status), "{status} {body}");
            if let Ok(json) = serde_json::from_str::<serde_json::Value>(&body)
                && status >= 400
            {
                prop_assert!(json["error"].as_str().is_some_and(|error| error.len() > 5), "{status} {body}");
            }
        }
        Ok(())
    });
    outcome.unwrap();
    target.check();
}

/// The request with the server's own host in place of every `@`.
fn replaced(request: &[u8], host: &[u8]) -> Vec<u8> {
    request.iter().flat_map(|byte| if *byte == b'@' { host.to_vec() } else { vec![*byte] }).collect()
}

/// A form's type and body.
fn multipart() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop::sample::select(vec![
        "filename=\"a.png\"",
        "filename=\"b.png\"",
        "filename=a.png",
        "filename=\"\"",
        "filename=\"a\\\"b.png\"",
        "filename=\"%22.png\"",
        "filename=\"../../x.png\"",
        "filename=\"/etc/passwd\"",
        "filename=\"C:\\\\x\\\\y.png\"",
        "filename=\"a/b/c.png\"",
        "filename=\"..\"",
        "filename=\"e\u{301}\u{202e}.png\"",
        "filename=\"\u{1f980}.png\"",
        "filename*=UTF-8''%e2%82%ac.png",
        "filename*=UTF-8''%ff.png",
        "filename*=latin1''%e9.png",
        "filename*=",
        "filename*=''",
        "filename=\"a.png\"; filename*=UTF-8''b.png",
        "name=\"x\"",
        "filename=\"",
        "filename",
        "FILENAME=\"A.PNG\"",
        "filename=\"=1+1.png\"",
        "filename=\"<b>.png\"",
        "filename=\"a;b.png\"",
        "filename=\"a\tb.png\"",
    ]);
    let name = prop_oneof![
        6 => name.prop_map(str::to_owned),
        1 => "filename=\"\\PC{0,60}\"",
        1 => (0..2_usize).prop_map(|n| format!("filename=\"{}.png\"", "n".repeat([300, 20_000][n]))),
    ];
    let extra = prop::sample::select(vec![
        "",
        "",
        "Content-Type: image/png\r\n",
        "Content-Type: x\r\n",
        "Content-Transfer-Encoding: base64\r\n",
        "X: y\r\nX: z\r\n",
        ":\r\n",
        "x\r\n",
    ]);
    let body = prop_oneof![
        4 => (0..30_u32).prop_map(picture),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (0..30_u32, 1..60_usize).prop_map(|(n, len)| picture(n)[..len].to_vec()),
        1 => Just(b"\r\n--frontier".to_vec()),
    ];
    let part = ("form-data; name=\"f\"; |attachment; |form-data; |", name, extra, body);
    let kind = prop::sample::select(vec![
        "multipart/form-data; boundary=frontier",
        "multipart/form-data; boundary=frontier",
        "multipart/form-data; boundary=frontier",
        "multipart/form-data; boundary=\"frontier\"",
        "multipart/form-data; boundary=other",
        "multipart/form-data",
        "multipart/mixed; boundary=frontier",
        "image/png",
        "multipart/form-data; boundary=\u{e9}",
    ]);
    let end = prop::sample::select(vec![
        "--frontier--\r\n",
        "--frontier--\r\n",
        "--frontier--\r\n",
        "--frontier--",
        "--frontier",
        "",
        "--frontier--junk",
    ]);
    (kind, prop::collection::vec(part, 0..6), end, damage()).prop_map(|(kind, parts, end, damage)| {
        let mut body = b"\r\n".to_vec();
        for (disposition, name, extra, bytes) in parts {
            let head = format!("--frontier\r\nContent-Disposition: {disposition}{name}\r\n{extra}\r\n");
            body.extend([head.as_bytes(), &bytes, b"\r\n"].concat());
        }
        body.extend(end.as_bytes());
        (kind.as_bytes().to_vec(), damaged(body, &damage))
    })
}

#[test]
fn every_form_is_stored_or_refused() {
    let target = Target::start();
    let mut runner = super::runner(300, "proptest-regressions/tests/forms.txt");
    let outcome = runner.run(&multipart(), |(kind, body)| {
        let host = target.host();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\nContent-Length: \
             {}\r\n",
            body.len()
        );
        let request = [head.as_bytes(), b"Content-Type: ", &kind, b"\r\n\r\n", &body].concat();
        let answer = target.exchange(&request, DEADLINE)?;
        let (status, answer) = first(&answer).ok_or_else(|| TestCaseError::fail("no answer"))?;
        prop_assert!(status == 200 || (400..500).contains(&status), "{status} {answer}");
        let answer: serde_json::Value =
            serde_json::from_str(&answer).map_err(|e| TestCaseError::fail(format!("{e}: {answer}")))?;
        let Some(files) = answer["files"].as_array() else {
            prop_assert!(answer["error"].as_str().is_some_and(|error| error.len() > 10), "{status} {answer}");
            return Ok(());
        };
        for file in files {
            let error = file["error"].as_str().filter(|error| error.len() > 10);
            prop_assert!(file["file"].is_string() && error.is_some() != file["image"].is_string(), "{file}");
        }
        // What is stored is there under the name that the answer gives.
        if let Some(name) = files.iter().find_map(|file| file["image"].as_str()) {
            prop_assert!(name.parse::<ImageName>().is_ok(), "{name:?}");
            let escaped = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
            let request = format!("GET /images/{escaped} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let stored = target.exchange(request.as_bytes(), DEADLINE)?;
            prop_assert_eq!(first(&stored).map(|(status, _)| status), Some(200), "{}", name);
        }
        Ok(())
    });
    outcome.unwrap();
    target.check();
}
