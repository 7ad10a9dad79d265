//! A multipart request, part by part: each file is spooled, and stored while the next ones come.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::http::StatusCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};

use super::{
    App, ask,
    body::{BodyError, BoundedBody, Unused},
    error::{Error, Result},
    outcome::{Fate, FileOutcome},
    part::{self, Echo},
    shares::{Held, Shares},
    spool::Writer,
};
use crate::{
    backend::Upload,
    contract::{ImageName, name::NameError},
    http::Activity,
    model::format::{self, FormatError, HEAD_BYTES},
};

/// Most parts of one request: what is kept of each until the answer is bounded by this.
const MAX_PARTS: usize = 20_000;

/// What is kept of a file's fate beside its name, in bytes.
const FATE_BYTES: usize = 400;

/// So much may be kept of the files of one request without further ado; more needs one of the [`many_files`].
const FEW_FILES_BYTES: usize = 128 << 10;

/// So many requests at a time may have many files: each may keep some 15 MB until its answer is taken.
const MANY_FILES: usize = 8;

/// Another request with many files waits for so long: by then it is known which of them are slow.
const MANY_FILES_PATIENCE: Duration = Duration::from_secs(5);

/// Permits for many files in a request.
pub(crate) fn many_files() -> Arc<Shares> {
    Shares::new(MANY_FILES, "room for many files")
}

/// A refused file is read to its end, since others may follow it, but no further than this.
const MAX_REFUSED_BYTES: u64 = 256 << 20;

/// So many files are stored at a time over all requests: enough for group commits to pay, few enough for memory.
pub(crate) const MAX_STORING: usize = 64;

/// The store must take a file within this time.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// The boundary between the parts.
///
/// # Errors
/// 400 for a form without a boundary.
pub(crate) fn boundary(content_type: &str) -> Result<String> {
    multer::parse_boundary(content_type)
        .map_err(|_| Error::bad_request("the Content-Type multipart/form-data has no boundary"))
}

/// What a request brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// One entry per file, in the request's order.
    pub(crate) files: Vec<FileOutcome>,
    /// Whether all of it came; if not, the last entry says why.
    pub(crate) complete: bool,
    /// To be held until nothing of many files is kept any more.
    pub(crate) many: Option<Held>,
}

/// Reads all parts and stores the files among them. A file that cannot be stored does not keep the others from it. The
/// connection is known by its `activity`.
pub(crate) async fn receive(app: &Arc<App>, body: &mut BoundedBody, boundary: String, activity: Activity) -> Received {
    let unused = body.unused();
    let mut multipart = multer::Multipart::new(body, boundary);
    let mut files = Files::new(activity);
    let mut complete = true;
    for parts in 0.. {
        let read = match multipart.next_field().await {
            Ok(None) => break,
            Ok(Some(_)) if parts == MAX_PARTS => Err(Cut::between_parts(too_many_parts())),
            Ok(Some(field)) => {
                unused.clear();
                match read_part(app, field, &unused, &mut files).await {
                    Ok(()) => files.admit(&app.many_files).await,
                    Err(cut) => Err(cut),
                }
            }
            Err(error) => Err(Cut::between_parts(multipart_error(&error))),
        };
        if let Err(Cut { file, error }) = read {
            files.refuse(&file, error);
            complete = false;
            break;
        }
        files.settle().await;
    }
    let many = files.many.take();
    Received { files: files.finish().await, complete, many }
}

/// What ended a request early.
struct Cut {
    /// The file in whose midst it did.
    file: String,
    error: Error,
}

impl Cut {
    fn between_parts(error: Error) -> Self {
        Self { file: String::new(), error }
    }
}

fn too_many_parts() -> Error {
    Error::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the request has more than {MAX_PARTS} parts; send the rest in another request"),
    )
}

/// One part, or a body that is an image, while it is read to its end.
pub(crate) enum Reading {
    /// A form field that is no file.
    Skipped,
    Refused(Error),
    Taken(Writer),
}

/// Reads one part to its end and begins to store it.
async fn read_part(
    app: &Arc<App>,
    mut field: multer::Field<'_>,
    unused: &Unused,
    files: &mut Files,
) -> Result<(), Cut> {
    let (file, mut reading) = match part::file_name(&field) {
        part::Name::None => (String::new(), Reading::Skipped),
        part::Name::Usable(name) => (name, Reading::Taken(Writer::new(&app.spool))),
        part::Name::Unusable { beginning, error } => (beginning, Reading::Refused(error)),
    };
    let mut refused = 0;
    loop {
        match field.chunk().await {
            Ok(Some(chunk)) => {
                unused.clear();
                match reading {
                    Reading::Taken(writer) => reading = files.take(app, writer, &chunk).await,
                    Reading::Refused(error) if refused > MAX_REFUSED_BYTES => return Err(Cut { file, error }),
                    Reading::Refused(_) | Reading::Skipped => refused += chunk.len() as u64,
                }
            }
            Ok(None) => break,
            Err(error) => return Err(Cut { file, error: multipart_error(&error) }),
        }
    }
    match reading {
        Reading::Skipped => {}
        Reading::Refused(error) => files.refuse(&file, error),
        // What browsers send for a form without a chosen file.
        Reading::Taken(writer) if file.is_empty() && writer.size() == 0 => {}
        Reading::Taken(_) if file.is_empty() => files.refuse("", NameError::Empty.into()),
        Reading::Taken(writer) => files.keep(app, writer, file).await,
    }
    Ok(())
}

/// Waits for a place among the files that are stored at a time.
async fn acquire(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed, so this is always a permit.
    Arc::clone(semaphore).acquire_owned().await.ok()
}

/// A file's place in the answer.
#[derive(Debug)]
enum Slot {
    Done(FileOutcome),
    Storing(String, JoinHandle<Fate>),
}

impl Slot {
    fn is_finished(&self) -> bool {
        match self {
            Self::Done(_) => true,
            Self::Storing(_, task) => task.is_finished(),
        }
    }

    async fn outcome(self) -> FileOutcome {
        let (file, task) = match self {
            Self::Done(outcome) => return outcome,
            Self::Storing(file, task) => (file, task),
        };
        let fate = task.await.unwrap_or_else(|error| {
            tracing::error!(%error, file, "storing an upload ended abruptly");
            Fate::Refused(Error::unavailable("the file could not be stored; send it again"))
        });
        FileOutcome { file, fate }
    }
}

/// The files of a request in their order: those whose fate is known, and those after the first whose fate is not. While
/// they wait for us, their sender owes nothing.
#[derive(Debug)]
pub(crate) struct Files {
    activity: Activity,
    known: Vec<FileOutcome>,
    storing: VecDeque<Slot>,
    echo: Echo,
    /// What all of them take.
    bytes: usize,
    many: Option<Held>,
}

impl Files {
    /// None so far; their sender is known by its `activity`.
    pub(crate) fn new(activity: Activity) -> Self {
        let (known, storing) = (Vec::new(), VecDeque::new());
        Self { activity, known, storing, echo: Echo::default(), bytes: 0, many: None }
    }

    /// Takes more of a file.
    pub(crate) async fn take(&self, app: &App, writer: Writer, chunk: &axum::body::Bytes) -> Reading {
        self.activity.excuse(take(app, writer, chunk)).await
    }

    /// Begins to store a file, once there is a place for it.
    pub(crate) async fn keep(&mut self, app: &Arc<App>, writer: Writer, file: String) {
        let permit = self.activity.excuse(acquire(&app.storing)).await;
        let shown = self.echo.of(&file);
        self.bytes += shown.len() + FATE_BYTES;
        let task = app.tasks.spawn(keep(Arc::clone(app), writer, file, permit));
        self.storing.push_back(Slot::Storing(shown, task));
    }

    /// Notes a file that is not stored.
    pub(crate) fn refuse(&mut self, file: &str, error: Error) {
        let file = self.echo.of(file);
        self.bytes += file.len() + FATE_BYTES;
        self.storing.push_back(Slot::Done(FileOutcome { file, fate: Fate::Refused(error) }));
    }

    /// Sees to it that there may be another file.
    async fn admit(&mut self, many: &Arc<Shares>) -> Result<(), Cut> {
        if self.bytes > FEW_FILES_BYTES && self.many.is_none() {
            let share = self.activity.excuse(many.take(1, MANY_FILES_PATIENCE)).await;
            let share = share.ok_or_else(|| {
                let why = "too many requests have many files; send the rest in another request, fewer at a time";
                Cut::between_parts(Error::unavailable(why))
            })?;
            self.many = Some(many.hold(share, self.activity.clone()));
        }
        Ok(())
    }

    /// Lets go of the tasks that have ended.
    async fn settle(&mut self) {
        while self.storing.front().is_some_and(Slot::is_finished) {
            if let Some(slot) = self.storing.pop_front() {
                self.known.push(slot.outcome().await);
            }
        }
    }

    /// The fates of all, once they are known.
    pub(crate) async fn finish(self) -> Vec<FileOutcome> {
        let Self { activity, mut known, storing, .. } = self;
        let rest = async {
            for slot in storing {
                known.push(slot.outcome().await);
            }
        };
        activity.excuse(rest).await;
        known
    }
}

async fn take(app: &App, mut writer: Writer, chunk: &axum::body::Bytes) -> Reading {
    let known = writer.head().len() == HEAD_BYTES;
    let full = writer.push(chunk);
    let limit = app.config.limits.max_bytes;
    if writer.size() > limit {
        return Reading::Refused(Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the file is larger than {} ({limit} bytes), the limit for one image", readable(limit)),
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
    // What many leave here before it is stored fills a disk, too.
    if let Err(error) = ask(app.backend.images.check_room()).await {
        return Reading::Refused(error);
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
async fn keep(app: Arc<App>, writer: Writer, file: String, permit: Option<OwnedSemaphorePermit>) -> Fate {
    let fate = store(&app, writer, &file).await.unwrap_or_else(Fate::Refused);
    drop(permit);
    fate
}

async fn store(app: &App, writer: Writer, file: &str) -> Result<Fate> {
    let format = format::sniff(writer.head()).map_err(not_an_image)?;
    let media_type = format.media_type();
    let spooled = writer.finish().await?;
    // What has no name is named by its content, so that the same image again is the same one.
    let unnamed = file.is_empty().then(|| format!("{}.{}", &spooled.digest.to_hex()[..16], format.extension()));
    let file = unnamed.as_deref().unwrap_or(file);
    let name = ImageName::from_upload(file, &spooled.digest)?;
    let upload = Upload { name, bytes: spooled.bytes(), size: spooled.size, digest: spooled.digest, media_type };
    let put = timeout(STORE_TIMEOUT, app.backend.images.put(&upload))
        .await
        .map_err(|_| Error::unavailable("the store did not take the file in time; send it again"))??;
    Ok(Fate::Stored { renamed: part::is_renamed(file, &put.image), image: put.image, unchanged: !put.created })
}

/// What the parser says, in the words of the one who sent it.
fn multipart_error(error: &multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast_ref::<BodyError>() {
            Some(error) => error.clone().into(),
            None => Error::bad_request("the request cannot be read; send it again"),
        },
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            Error::bad_request("the request ended before its last part was complete; files before it are not affected")
        }
        multer::Error::IncompleteHeaders
        | multer::Error::ReadHeaderFailed(_)
        | multer::Error::DecodeHeaderName { .. }
        | multer::Error::DecodeHeaderValue { .. } => {
            Error::bad_request("the head of a part cannot be read; send a name and a value a line")
        }
        _ => Error::bad_request("the request is no valid multipart/form-data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!([readable(32 << 20), readable(1536), readable(512)], ["32 MiB", "1.5 KiB", "0.5 KiB"]);
    }
}
