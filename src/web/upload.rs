//! Uploads: a multipart request of any number of files, streamed to the spool and stored many at a time.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::HttpBody as _,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};
use unicode_normalization::UnicodeNormalization as _;

use super::{
    App,
    accept::Accept,
    body::{BodyError, BoundedBody},
    error::{Error, Result},
    pages,
    spool::Writer,
};
use crate::{
    backend::Upload,
    contract::ImageName,
    model::format::{self, FormatError, HEAD_BYTES},
};

/// Most parts of one request: what is kept of each until the answer is bounded by this.
const MAX_PARTS: usize = 20_000;

/// A longer file name is not echoed whole.
const MAX_ECHO_BYTES: usize = 1024;

/// So many files are stored at a time over all requests: enough for group commits to pay, few enough for memory.
pub(crate) const MAX_STORING: usize = 64;

/// The store must take a file within this time.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of one file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FileOutcome {
    /// The name that its sender gave it.
    pub(crate) file: String,
    /// The name under which it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageName>,
    /// The stored name is another than the sender's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) renamed: bool,
    /// The very same image was stored before; its result stands.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unchanged: bool,
    /// Why it is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The error's status.
    #[serde(skip)]
    pub(crate) failure: Option<Error>,
}

impl FileOutcome {
    fn failed(file: String, error: Error) -> Self {
        let failure = error.about(&file);
        Self {
            image: None,
            renamed: false,
            unchanged: false,
            error: Some(failure.message().to_owned()),
            failure: Some(failure),
            file,
        }
    }
}

/// What became of a request's files, in the request's order.
#[derive(Debug, Serialize)]
pub(crate) struct Outcomes {
    /// One entry per file.
    pub(crate) files: Vec<FileOutcome>,
}

impl Outcomes {
    /// Whether any file is stored.
    pub(crate) fn any_stored(&self) -> bool {
        self.files.iter().any(|f| f.image.is_some())
    }

    /// The status of the first error.
    fn first_error(&self) -> Option<StatusCode> {
        self.files.iter().find_map(|f| f.failure.as_ref()).map(Error::status)
    }
}

/// `POST /`: stores every file of the request.
pub(crate) async fn post(State(app): State<Arc<App>>, accept: Accept, request: Request) -> Result<Response> {
    let outcomes = store(&app, request).await?;
    let status = match outcomes.first_error() {
        Some(error) if !outcomes.any_stored() => error,
        _ => StatusCode::OK,
    };
    if !accept.html {
        return Ok((status, Json(outcomes)).into_response());
    }
    if outcomes.files.iter().all(|f| f.error.is_none() && !f.renamed) {
        return Ok(Redirect::to("/results").into_response());
    }
    Ok((status, pages::outcomes(&app, outcomes)).into_response())
}

/// A file's place in the answer.
enum Slot {
    Done(FileOutcome),
    Storing(String, JoinHandle<FileOutcome>),
}

/// Stores every file of a multipart request. A file that cannot be stored does not keep the others from it, and neither does an
/// end of the request in its midst: it is an entry of its own.
///
/// # Errors
/// If the request is no multipart at all, is too large by its own account, or has no file.
pub(crate) async fn store(app: &Arc<App>, request: Request) -> Result<Outcomes> {
    let (parts, body) = request.into_parts();
    let limit = app.config.web.max_request_bytes;
    let empty = body.is_end_stream();
    let mut body = BoundedBody::new(body, limit);
    let boundary = match boundary(&parts.headers)
        .and_then(|boundary| announced(&parts.headers, limit, empty).map(|()| boundary))
    {
        Ok(boundary) => boundary,
        Err(error) => {
            // Who asks before sending gets the answer at once.
            if !parts.headers.contains_key(header::EXPECT) {
                body.linger().await;
            }
            return Err(error);
        }
    };
    let (mut slots, stopped) = read(app, &mut body, boundary).await;
    let incomplete = stopped.is_some();
    slots.extend(stopped.map(Slot::Done));

    let mut files = Vec::with_capacity(slots.len());
    for slot in slots {
        files.push(match slot {
            Slot::Done(outcome) => outcome,
            Slot::Storing(file, task) => task.await.unwrap_or_else(|error| {
                tracing::error!(%error, file, "storing an upload ended abruptly");
                FileOutcome::failed(file, Error::unavailable("the file could not be stored; send it again"))
            }),
        });
    }
    for file in &files {
        app.metrics.uploaded(file);
    }
    if incomplete {
        body.linger().await;
    }
    if files.is_empty() {
        return Err(Error::bad_request(
            "the request has no file; send multipart/form-data with at least one part that has a filename, for example curl -F file=@cat.png",
        ));
    }
    Ok(Outcomes { files })
}

/// Refuses a request that is too large by its own account.
fn announced(headers: &HeaderMap, limit: u64, empty: bool) -> Result<()> {
    let bytes = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if bytes.is_some_and(|bytes| bytes > limit) {
        return Err(BodyError::TooLarge(limit).into());
    }
    if empty && bytes.is_none() {
        return Err(Error::new(
            StatusCode::LENGTH_REQUIRED,
            "the request has no body; send its length as Content-Length, or chunked",
        ));
    }
    Ok(())
}

fn boundary(headers: &HeaderMap) -> Result<String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    multer::parse_boundary(kind).map_err(|_| {
        let multipart = kind.to_ascii_lowercase().starts_with("multipart/form-data");
        if multipart {
            Error::bad_request("the Content-Type multipart/form-data has no boundary")
        } else {
            Error::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send images as multipart/form-data, for example curl -F file=@cat.png",
            )
        }
    })
}

/// Reads all parts and starts to store the files. What ended it early, if anything did, comes as an entry.
async fn read(app: &Arc<App>, body: &mut BoundedBody, boundary: String) -> (Vec<Slot>, Option<FileOutcome>) {
    let unused = body.unused();
    let mut multipart = multer::Multipart::new(body, boundary);
    let mut slots = Vec::new();
    for parts in 0.. {
        let mut field = match multipart.next_field().await {
            Ok(Some(field)) => field,
            Ok(None) => break,
            Err(error) => return (slots, Some(FileOutcome::failed(String::new(), multipart_error(&error)))),
        };
        unused.clear();
        if parts == MAX_PARTS {
            let error = Error::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request has more than {MAX_PARTS} parts; send the rest in another request"),
            );
            return (slots, Some(FileOutcome::failed(String::new(), error)));
        }
        let (file, mut state) = match file_name(&field) {
            None => (String::new(), Reading::Skipped),
            Some(Ok(raw)) => (raw, Reading::Taken(Writer::new(&app.spool))),
            Some(Err(lossy)) => {
                let error = Error::bad_request("the file's name is not valid UTF-8; rename the file");
                (lossy, Reading::Refused(error))
            }
        };
        loop {
            match field.chunk().await {
                Ok(Some(chunk)) => {
                    unused.clear();
                    if let Reading::Taken(writer) = state {
                        state = take(app, writer, &chunk).await;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    return (slots, Some(FileOutcome::failed(echo(&file), multipart_error(&error))));
                }
            }
        }
        drop(field);
        match state {
            Reading::Skipped => {}
            Reading::Refused(error) => slots.push(Slot::Done(FileOutcome::failed(echo(&file), error))),
            // What browsers send for a form without a chosen file.
            Reading::Taken(writer) if file.is_empty() && writer.size() == 0 => {}
            Reading::Taken(writer) => {
                let permit = acquire(&app.storing).await;
                let task = app.tasks.spawn(keep(Arc::clone(app), writer, file.clone(), permit));
                slots.push(Slot::Storing(file, task));
            }
        }
    }
    (slots, None)
}

/// Waits for a place among the files that are stored at a time.
async fn acquire(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed, so this is always a permit.
    Arc::clone(semaphore).acquire_owned().await.ok()
}

/// One part while it is read to its end.
enum Reading {
    /// A form field that is no file.
    Skipped,
    Refused(Error),
    Taken(Writer),
}

async fn take(app: &App, mut writer: Writer, chunk: &axum::body::Bytes) -> Reading {
    let known = writer.head().len() == HEAD_BYTES;
    let full = writer.push(chunk);
    let limit = app.config.limits.max_bytes;
    if writer.size() > limit {
        return Reading::Refused(Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the file is larger than {limit} bytes ({}), the limit for one image", readable(limit)),
        ));
    }
    // Bytes that are no image are not worth a file.
    if !known
        && writer.head().len() == HEAD_BYTES
        && let Err(error) = format::sniff(writer.head())
    {
        return Reading::Refused(not_an_image(error));
    }
    if !full {
        return Reading::Taken(writer);
    }
    match writer.flush().await {
        Ok(writer) => Reading::Taken(writer),
        Err(error) => Reading::Refused(error.into()),
    }
}

fn not_an_image(error: FormatError) -> Error {
    Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.to_string())
}

/// `32 MiB`, `0.5 KiB`: for people.
pub(crate) fn readable(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1 << 20 { (1 << 20, "MiB") } else { (1 << 10, "KiB") };
    let tenths = bytes * 10 / unit;
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        rest => format!("{}.{rest} {name}", tenths / 10),
    }
}

/// Stores one file. Runs on its own, so that a client that goes away does not stop it half-way.
async fn keep(app: Arc<App>, writer: Writer, file: String, permit: Option<OwnedSemaphorePermit>) -> FileOutcome {
    let outcome = match keep_inner(&app, writer, &file).await {
        Ok(outcome) => outcome,
        Err(error) => FileOutcome::failed(echo(&file), error),
    };
    drop(permit);
    outcome
}

async fn keep_inner(app: &App, writer: Writer, file: &str) -> Result<FileOutcome> {
    let media_type = format::sniff(writer.head()).map_err(not_an_image)?.media_type();
    let spooled = writer.finish().await?;
    let name = ImageName::from_upload(file, &spooled.digest)?;
    let upload =
        Upload { name, path: spooled.path().to_owned(), size: spooled.size, digest: spooled.digest, media_type };
    let put = timeout(STORE_TIMEOUT, app.backend.images.put(&upload))
        .await
        .map_err(|_| Error::unavailable("the store did not take the file in time; send it again"))??;
    Ok(FileOutcome {
        file: echo(file),
        renamed: is_renamed(file, &put.image),
        image: Some(put.image),
        unchanged: !put.created,
        error: None,
        failure: None,
    })
}

/// Whether the stored name is another than the base name of the sender's, composed characters aside.
fn is_renamed(file: &str, image: &ImageName) -> bool {
    let base = file.rsplit(['/', '\\']).next().unwrap_or_default();
    !base.nfc().eq(image.as_str().chars())
}

/// `file` as it is told back: cut where it is absurdly long.
fn echo(file: &str) -> String {
    if file.len() <= MAX_ECHO_BYTES {
        return file.to_owned();
    }
    let mut end = MAX_ECHO_BYTES;
    while !file.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &file[..end])
}

/// The part's file name: `filename*` (RFC 5987, which some libraries send for names beyond ASCII), else `filename`. `None` if it has
/// neither; `Err` with a readable form if it is not UTF-8.
fn file_name(field: &multer::Field<'_>) -> Option<Result<String, String>> {
    let header = field.headers().get(header::CONTENT_DISPOSITION)?.as_bytes();
    let text = String::from_utf8_lossy(header);
    if let Some(start) = text.to_ascii_lowercase().find("filename*=") {
        let value = text[start + "filename*=".len()..].split("; ").next().unwrap_or_default().trim().trim_matches('"');
        if let Some((_, encoded)) = value.split_once("''").filter(|(charset, _)| charset.eq_ignore_ascii_case("utf-8"))
        {
            return Some(match percent_encoding::percent_decode_str(encoded).decode_utf8() {
                Ok(name) => Ok(name.into_owned()),
                Err(_) => Err(encoded.to_owned()),
            });
        }
    }
    match field.file_name() {
        Some(name) => Some(Ok(name.to_owned())),
        None if text.contains("filename=") => Some(Err(text.split("filename=").nth(1).unwrap_or_default().to_owned())),
        None => None,
    }
}

/// What the parser says, in the words of the one who sent it.
fn multipart_error(error: &multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast_ref::<BodyError>() {
            Some(error) => error.clone().into(),
            None => Error::bad_request(format!("the request cannot be read: {cause}")),
        },
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            Error::bad_request("the request ended before its last part was complete; files before it are not affected")
        }
        error => Error::bad_request(format!("the request is no valid multipart/form-data: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_body_is_told_so() {
        let status = |headers: &HeaderMap, empty| announced(headers, 10, empty).map_err(|error| error.status());
        let none = HeaderMap::new();
        assert_eq!(status(&none, true), Err(StatusCode::LENGTH_REQUIRED));
        assert_eq!(status(&none, false), Ok(()));
        let length = |bytes| HeaderMap::from_iter([(header::CONTENT_LENGTH, bytes)]);
        assert_eq!(status(&length(0.into()), true), Ok(()));
        assert_eq!(status(&length(11.into()), false), Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn tells_a_renamed_file() {
        let renamed = |file, image: &str| is_renamed(file, &image.parse().unwrap());
        assert!(!renamed("a.png", "a.png"));
        assert!(!renamed("dir/a.png", "a.png"));
        assert!(!renamed(r"C:\x.png", "x.png"));
        assert!(!renamed("e\u{301}.png", "\u{e9}.png"));
        assert!(renamed("a.png", "a.12345678.png"));
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([readable(32 << 20), readable(1536), readable(512)], ["32 MiB", "1.5 KiB", "0.5 KiB"]);
    }

    #[test]
    fn absurd_names_are_cut() {
        assert_eq!(echo("a.png"), "a.png");
        assert!(echo(&"é".repeat(2000)).len() <= MAX_ECHO_BYTES + 3);
    }
}
