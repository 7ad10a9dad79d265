//! The SDK's configuration, in one place: where requests go, how long they may take, how often they are tried, and what
//! errors mean.

use std::{env, error::Error as StdError, time::Duration};

use aws_config::{
    BehaviorVersion, ConfigLoader, SdkConfig,
    retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::{TimeoutConfig, TimeoutConfigBuilder},
};
use aws_sdk_s3::{
    config::{ConfigBag, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents, SharedHttpClient},
    error::{ProvideErrorMetadata, SdkError},
};
use aws_sdk_sqs::config::{
    interceptors::InterceptorContext,
    retry::{ClassifyRetry, RetryAction},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::HttpRequest,
        result::ConnectorError,
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use rustls::pki_types::CertificateDer;

use crate::{
    backend::{Error, ErrorKind},
    config::Aws,
    tls::{self, Resolver, TlsError},
};

/// Connecting within a region takes milliseconds; three seconds survive one lost SYN.
const CONNECT: Duration = Duration::from_secs(3);

/// A body that moves less than a byte a second for so long is given up and tried again: a dead connection tells nobody.
const STALLED: Duration = Duration::from_secs(10);

/// Tries of one call. With the SDK's jittered exponential back-off they span some seconds, which rides out a throttled
/// partition or a fail-over; what lasts longer comes back through the queue.
const ATTEMPTS: u32 = 5;

/// The clients of the services, with one pool of connections.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) autoscaling: aws_sdk_autoscaling::Client,
    /// The region, for the names that a setup makes; `None` if none is configured.
    pub(crate) region: Option<String>,
}

impl Clients {
    /// Clients with region and credentials from the SDK's default chain.
    pub(crate) async fn new(config: &Aws) -> Self {
        Self::with(&loader().load().await, config)
    }

    /// Clients of an emulator that takes an access key of 12 digits as an account.
    #[cfg(test)]
    pub(crate) async fn of_emulator(config: &Aws, account: &str) -> Self {
        let credentials = aws_sdk_s3::config::Credentials::new(account, "secret", None, None, "test");
        let region = aws_sdk_s3::config::Region::from_static("eu-central-1");
        Self::with(&loader().region(region).credentials_provider(credentials).load().await, config)
    }

    fn with(shared: &SdkConfig, config: &Aws) -> Self {
        let s3_endpoint = endpoint(config, "S3");
        let custom_s3 = s3_endpoint.is_some() || env_endpoint("S3") || env::var_os("AWS_ENDPOINT_URL").is_some();
        let mut s3 = aws_sdk_s3::config::Builder::from(shared)
            // One attempt holds a whole upload, so it is bounded loosely; a stalled one ends by the protection above.
            .timeout_config(timeouts(Duration::from_secs(60), Duration::from_secs(150)))
            // Custom endpoints rarely have a DNS name for each bucket.
            .force_path_style(config.path_style || custom_s3);
        // Only where one is configured: setting none would undo what the SDK read from its own variables.
        if let Some(url) = s3_endpoint {
            s3 = s3.endpoint_url(url);
        }
        if config.checksum_when_required {
            s3 = s3
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        // Longer than the longest long poll (20 s), or every idle receive would end as a time-out.
        let mut sqs = aws_sdk_sqs::config::Builder::from(shared)
            .retry_classifier(SqsThrottling)
            .timeout_config(timeouts(Duration::from_secs(28), Duration::from_secs(60)));
        if let Some(url) = endpoint(config, "SQS") {
            sqs = sqs.endpoint_url(url);
        }
        // Single-item calls take milliseconds: an attempt of some seconds is a lost one.
        let mut dynamodb = aws_sdk_dynamodb::config::Builder::from(shared)
            .timeout_config(timeouts(Duration::from_secs(5), Duration::from_secs(30)));
        if let Some(url) = endpoint(config, "DYNAMODB") {
            dynamodb = dynamodb.endpoint_url(url);
        }
        let mut autoscaling = aws_sdk_autoscaling::config::Builder::from(shared)
            .timeout_config(timeouts(Duration::from_secs(10), Duration::from_secs(40)));
        if let Some(url) = endpoint(config, "AUTO_SCALING") {
            autoscaling = autoscaling.endpoint_url(url);
        }
        Self {
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            sqs: aws_sdk_sqs::Client::from_conf(sqs.build()),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
            autoscaling: aws_sdk_autoscaling::Client::from_conf(autoscaling.build()),
            region: shared.region().map(ToString::to_string),
        }
    }
}

/// Has throttled calls of SQS tried again: the SDK knows only codes without SQS's prefix
/// (`AWS.SimpleQueueService.ThrottlingException`), and would fail a start or a batch at the first.
#[derive(Debug)]
struct SqsThrottling;

impl ClassifyRetry for SqsThrottling {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let failed = context.output_or_error().is_some_and(|result| result.is_err());
        let throttled = context.response().filter(|_| failed).is_some_and(|response| {
            let code = response.headers().get("x-amzn-query-error").unwrap_or_default();
            let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default());
            response.status().as_u16() == 400 && (code.contains("Throttl") || body.contains("Throttl"))
        });
        if throttled { RetryAction::throttling_error() } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "SQS throttling"
    }
}

fn loader() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(Duration::from_secs(5)))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALLED).build())
}

/// The configured endpoint, unless `AWS_ENDPOINT_URL_<SERVICE>` names one for this service, which the SDK then takes by
/// itself.
fn endpoint(config: &Aws, service: &str) -> Option<String> {
    config.endpoint_url.clone().filter(|_| !env_endpoint(service))
}

fn env_endpoint(service: &str) -> bool {
    env::var_os(format!("AWS_ENDPOINT_URL_{service}")).is_some()
}

fn timeouts(attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfigBuilder::default()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}

/// One client for all services. Where there is nobody to trust, it refuses every call and says why.
pub(crate) fn http_client() -> SharedHttpClient {
    match tls::roots() {
        Ok(roots) => Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(trusting(&roots))
            .build_with_resolver(Resolver::of_machine()),
        Err(error) => SharedHttpClient::new(Refusing(error)),
    }
}

/// A client that refuses every call.
#[derive(Debug, Clone)]
struct Refusing(TlsError);

impl HttpClient for Refusing {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }

    /// Refuses before credentials are looked for: their search would hide the reason behind one of its own.
    fn validate_final_config(&self, _: &RuntimeComponents, _: &ConfigBag) -> Result<(), BoxError> {
        Err(self.0.clone().into())
    }
}

impl HttpConnector for Refusing {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(Err(ConnectorError::user(self.0.clone().into())))
    }
}

/// Certificates as the SDK takes them.
fn trusting(roots: &[CertificateDer<'_>]) -> TlsContext {
    let mut store = TrustStore::empty();
    for root in roots {
        store.add_pem_certificate(pem(root));
    }
    // Without a certificate of the client, there is nothing in it that could be refused.
    TlsContext::builder().with_trust_store(store).build().expect("a context of roots alone is valid")
}

/// The PEM text of a certificate.
fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// A call for error messages: what it was to do, and the IAM permission that it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Ends "cannot …".
    pub(crate) what: &'static str,
    /// Such as `s3:GetObject`.
    pub(crate) permission: &'static str,
}

impl Call {
    pub(crate) const fn new(what: &'static str, permission: &'static str) -> Self {
        Self { what, permission }
    }

    /// The store's error for `error`, about `subject`.
    pub(crate) fn error<E>(&self, subject: &str, error: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let code = error.code().unwrap_or_default();
        let status = error.raw_response().map(|r| r.status().as_u16());
        let kind = kind(error, code, status);
        let mut message = format!("cannot {} {subject}: ", self.what);
        match (error.code(), error.message(), status) {
            (Some(code), Some(text), _) => message.push_str(&format!("{code}: {text}")),
            (Some(code), None, _) => message.push_str(code),
            (None, _, Some(status)) => message.push_str(&format!("HTTP status {status}")),
            (None, _, None) => message.push_str(&chain(error)),
        }
        if is_denied(code, status) {
            message.push_str(&format!(" (does the identity have the IAM permission {}?)", self.permission));
        } else if is_missing_resource(code) {
            message.push_str("; `imgcls setup` creates what is missing");
        }
        Error::new(kind, message)
    }
}

fn kind<E>(error: &SdkError<E>, code: &str, status: Option<u16>) -> ErrorKind {
    match error {
        SdkError::ConstructionFailure(_) => return ErrorKind::Refused,
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => return ErrorKind::Transient,
        _ => {}
    }
    // Codes first: services answer throttling with 400 and 503, and a missing table with 400.
    match code {
        "NoSuchKey" | "NotFound" | "NoSuchVersion" => ErrorKind::NotFound,
        "EntityTooLarge" => ErrorKind::TooLarge,
        "QuotaExceeded" | "XMinioStorageFull" | "OverLimit" => ErrorKind::Full,
        "RequestTimeout"
        | "RequestTimeTooSkewed"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "LimitExceededException"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "TransactionConflictException"
        | "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "InternalServerError"
        | "InternalError" => ErrorKind::Transient,
        _ if code.contains("Throttl") => ErrorKind::Transient,
        _ if is_missing_resource(code) => ErrorKind::Refused,
        _ => match status {
            Some(404) => ErrorKind::NotFound,
            Some(507) => ErrorKind::Full,
            Some(408 | 409 | 429 | 500..) => ErrorKind::Transient,
            Some(400..) => ErrorKind::Refused,
            // A success whose body cannot be read: cut off, or garbled on the way.
            _ => ErrorKind::Transient,
        },
    }
}

/// The error with all that caused it.
fn chain(error: &dyn StdError) -> String {
    let causes = std::iter::successors(Some(error), |&e| std::error::Error::source(e));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn is_denied(code: &str, status: Option<u16>) -> bool {
    code.contains("AccessDenied") || code == "UnauthorizedOperation" || (status == Some(403) && code.is_empty())
}

fn is_missing_resource(code: &str) -> bool {
    code == "NoSuchBucket"
        || code == "ResourceNotFoundException"
        || code == "QueueDoesNotExist"
        || code.ends_with("NonExistentQueue")
}

/// The error about a request that cannot be built.
pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, "cannot build the request").because(cause)
}

/// Whether the service answered with this HTTP status.
pub(crate) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|r| r.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before credentials, of which there are none here, and without a second try.
    #[tokio::test]
    async fn a_call_without_anybody_to_trust_says_why() {
        let why = TlsError::NoCertificate { variable: "SSL_CERT_FILE", value: "/x".into(), why: "none".to_owned() };
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(aws_sdk_s3::config::Region::from_static("eu-central-1"))
            .http_client(Refusing(why))
            .build();
        let error = aws_sdk_s3::Client::from_conf(config).head_bucket().bucket("b").send().await.unwrap_err();
        let error = Call::new("reach", "s3:ListBucket").error("bucket b", &error);
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("SSL_CERT_FILE is \"/x\""), "{error}");
    }
}
