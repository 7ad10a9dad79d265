//! A proxy before an emulator: counts calls by operation, and fails, denies, holds or changes those that a test names.

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

use crate::support::client;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes through.
    Pass,
    /// It is answered with 500, as long as the rule stands.
    Fail,
    /// It is answered as if the identity lacked the permission.
    Deny,
    /// It is answered as SQS answers to too many calls.
    Throttle,
    /// It goes through without this header.
    Without(&'static str),
    /// It waits until the rules change.
    Hold,
    /// It is answered with this, by the proxy itself.
    Answer(StatusCode, &'static str),
}

/// One call: `S3.GetObject`, `SQS.ReceiveMessage`, `DynamoDB.UpdateItem`, `AutoScaling.SetDesiredCapacity`…, and the
/// path it names.
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
            client: client(),
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

    /// Calls so far, by operation; under `DynamoDB.Query.ScannedCount` the items that queries looked at.
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

    let mut headers = parts.headers;
    let mut rules = shared.rule.subscribe();
    loop {
        let rule = Arc::clone(&rules.borrow_and_update());
        match rule(&call) {
            Verdict::Pass => break,
            Verdict::Fail => return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
            Verdict::Deny => return Ok(denied(&call)),
            Verdict::Throttle => return Ok(throttled()),
            Verdict::Without(header) => {
                headers.remove(header);
                break;
            }
            Verdict::Hold => rules.changed().await?,
            Verdict::Answer(status, body) => return Ok((status, body).into_response()),
        }
    }
    headers.remove("transfer-encoding");
    headers.remove("content-length");
    let url = format!("{}{}", shared.upstream, call.path);
    let answer = shared.client.request(parts.method, url).headers(headers).body(call.body).send().await?;
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    let is_head = headers.contains_key("content-length") && answer.content_length() == Some(0);
    let body = answer.bytes().await?;
    if call.operation == "DynamoDB.Query" {
        let scanned = serde_json::from_slice::<serde_json::Value>(&body)?["ScannedCount"].as_u64().unwrap_or_default();
        *shared.counts.lock().unwrap().entry(format!("{}.ScannedCount", call.operation)).or_default() += scanned;
    }
    headers.remove("transfer-encoding");
    if !is_head {
        headers.remove("content-length");
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// What the services answer to an identity without the permission.
fn denied(call: &Call) -> Response {
    if call.operation.starts_with("S3.") {
        let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        return (StatusCode::FORBIDDEN, [("content-type", "application/xml")], body).into_response();
    }
    let kind = "com.amazon.coral.service#AccessDeniedException";
    let body = serde_json::json!({"__type": kind, "message": "not authorized"}).to_string();
    (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.0")], body).into_response()
}

/// What SQS answers to too many calls.
fn throttled() -> Response {
    let code = [("x-amzn-query-error", "AWS.SimpleQueueService.ThrottlingException;Sender")];
    let body =
        serde_json::json!({"__type": "com.amazonaws.sqs#ThrottlingException", "message": "slow down"}).to_string();
    (StatusCode::BAD_REQUEST, code, [("content-type", "application/x-amz-json-1.0")], body).into_response()
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
    let has_key = path.trim_matches('/').contains('/');
    let of = |what: &str| query.split('&').any(|q| q.split('=').next() == Some(what));
    let operation = match (method.as_str(), has_key) {
        ("GET", true) if of("tagging") => "GetObjectTagging",
        ("PUT", true) if of("tagging") => "PutObjectTagging",
        ("GET", true) => "GetObject",
        ("PUT", true) => "PutObject",
        ("HEAD", true) => "HeadObject",
        ("DELETE", true) => "DeleteObject",
        ("GET", false) if of("notification") => "GetBucketNotification",
        ("PUT", false) if of("notification") => "PutBucketNotification",
        ("GET", false) => "ListOrGetBucket",
        ("PUT", false) => "CreateBucket",
        ("HEAD", false) => "HeadBucket",
        _ => "OtherBucket",
    };
    format!("S3.{operation}")
}
