//! Batches of calls to SQS: how messages are cut into them, and which of their entries failed for good.

use aws_sdk_sqs::types::BatchResultErrorEntry;

/// SQS's limit of entries in one batch and of messages in one receive.
pub(crate) const MAX_BATCH: usize = 10;

/// SQS's limit of the bodies of one batch, in bytes. Newer queues take 1 MiB; emulators and old accounts do not.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Cuts messages into batches by count and bytes.
pub(super) fn batches(bodies: &[String]) -> Vec<&[String]> {
    let (mut out, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, body) in bodies.iter().enumerate() {
        if i > start && (i - start == MAX_BATCH || bytes + body.len() > MAX_BATCH_BYTES) {
            out.push(&bodies[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += body.len();
    }
    if start < bodies.len() {
        out.push(&bodies[start..]);
    }
    out
}

/// The failed entries of a batch.
pub(super) struct Failures<T> {
    /// The service's fault: try again.
    pub(super) again: Vec<T>,
    /// Ours: a receipt that is stale, or an entry that will always be refused.
    pub(super) hopeless: Vec<T>,
    /// One of the reasons.
    pub(super) why: Option<String>,
}

/// Sorts the failed entries of `sent`, which are identified by their index.
pub(super) fn split_failures<T: Clone>(sent: &[T], failed: &[BatchResultErrorEntry]) -> Failures<T> {
    let mut out = Failures { again: Vec::new(), hopeless: Vec::new(), why: None };
    for entry in failed {
        let Some(item) = entry.id.parse::<usize>().ok().and_then(|i| sent.get(i)) else { continue };
        out.why = Some(format!("{}: {}", entry.code, entry.message.as_deref().unwrap_or_default()));
        // Throttling is told as the sender's fault.
        let hopeless = entry.sender_fault && !entry.code.contains("Throttl");
        if hopeless { &mut out.hopeless } else { &mut out.again }.push(item.clone());
    }
    out
}
