//! A proxy before an emulator: counts calls by operation, and fails or holds those that a test names.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use tokio::sync::watch;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes through.
    Pass,
    /// It is answered with 500, as long as the rule stands.
    Fail,
    /// It waits until the rules change.
    Hold,
    /// It is answered with this, by the proxy itself.
    Answer(StatusCode, &'static str),
}

/// One call: `S3.GetObject`, `SQS.ReceiveMessage`, `DynamoDB.UpdateItem`, `AutoScaling.SetDesiredCapacity`…, and the path it names.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) operation: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

type Rule = Arc<dyn Fn(&Call) -> Verdict + Send + Sync>;

/// A running proxy; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    counts: Mutex<BTreeMap<String, u64>>,
    rule: watch::Sender<Rule>,
}

impl Proxy {
    /// Starts a proxy before `upstream` that lets everything through.
    pub(crate) async fn start(upstream: &str) -> Self {
        let rule: Rule = Arc::new(|_| Verdict::Pass);
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            client: reqwest::Client::new(),
            counts: Mutex::default(),
            rule: watch::Sender::new(rule),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// Judges calls by `rule` from now on, those that are held included.
    pub(crate) fn judge(&self, rule: impl Fn(&Call) -> Verdict + Send + Sync + 'static) {
        self.shared.rule.send_replace(Arc::new(rule));
    }

    /// Calls so far, by operation.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.counts.lock().unwrap().clone()
    }

    /// Forgets the calls so far.
    pub(crate) fn reset_counts(&self) {
        self.shared.counts.lock().unwrap().clear();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match pass(&shared, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

async fn pass(shared: &Shared, request: Request) -> anyhow::Result<Response> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 256 << 20).await?.to_vec();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let target = parts.headers.get("x-amz-target").and_then(|v| v.to_str().ok());
    let call = Call { operation: operation(target, &parts.method, &path, &body), path, body };
    *shared.counts.lock().unwrap().entry(call.operation.clone()).or_default() += 1;

    let mut rules = shared.rule.subscribe();
    loop {
        let rule = Arc::clone(&rules.borrow_and_update());
        match rule(&call) {
            Verdict::Pass => break,
            Verdict::Fail => return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
            Verdict::Hold => rules.changed().await?,
            Verdict::Answer(status, body) => return Ok((status, body).into_response()),
        }
    }
    let mut headers = parts.headers;
    headers.remove("transfer-encoding");
    headers.remove("content-length");
    let url = format!("{}{}", shared.upstream, call.path);
    let answer = shared.client.request(parts.method, url).headers(headers).body(call.body).send().await?;
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    let is_head = headers.contains_key("content-length") && answer.content_length() == Some(0);
    let body = answer.bytes().await?;
    headers.remove("transfer-encoding");
    if !is_head {
        headers.remove("content-length");
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The operation's name, as the services' documentation has it.
fn operation(target: Option<&str>, method: &Method, path: &str, body: &[u8]) -> String {
    // The query protocol, which only Auto Scaling still has.
    if let Some(form) = body.strip_prefix(b"Action=") {
        let name: String = form.iter().map(|b| char::from(*b)).take_while(char::is_ascii_alphabetic).collect();
        return format!("AutoScaling.{name}");
    }
    if let Some((service, operation)) = target.and_then(|t| t.split_once('.')) {
        let service = if service.starts_with("DynamoDB") { "DynamoDB" } else { "SQS" };
        return format!("{service}.{operation}");
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let has_key = path.trim_start_matches('/').contains('/');
    let tagging = query.split('&').any(|q| q == "tagging" || q.starts_with("tagging="));
    let operation = match (method.as_str(), has_key, tagging) {
        ("GET", true, true) => "GetObjectTagging",
        ("PUT", true, true) => "PutObjectTagging",
        ("GET", true, _) => "GetObject",
        ("PUT", true, _) => "PutObject",
        ("HEAD", true, _) => "HeadObject",
        ("DELETE", true, _) => "DeleteObject",
        ("GET", false, _) => "ListOrGetBucket",
        _ => "OtherBucket",
    };
    format!("S3.{operation}")
}
