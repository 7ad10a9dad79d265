//! An image as the whole body of a request, as `curl --data-binary` sends it, or within JSON, as clients of Hugging
//! Face send it where they have parameters.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    App,
    body::BoundedBody,
    error::{Error, Result},
    multipart::{self, Files, Reading, Received},
    outgoing,
    part::{self, Name},
    spool::Writer,
};
use crate::http::Activity;

/// Largest JSON with an image in it: it is kept whole, with the image beside it.
const MAX_JSON_BYTES: usize = 16 << 20;

/// An image out of JSON goes on in pieces of this size.
const PIECE: usize = 64 << 10;

/// With padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a request brings its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In a form, between whose parts this boundary stands.
    Form(String),
    /// As the body. Its type is told by its first bytes, as that of a form's part.
    Image,
    /// In JSON, as `{"inputs": BASE64}`.
    Json,
}

impl Kind {
    /// Reads `Content-Type`.
    ///
    /// # Errors
    /// 415 for what brings no images, 400 for a form without a boundary.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "multipart/form-data" => multipart::boundary(kind).map(Self::Form),
            "application/json" => Ok(Self::Json),
            // What `curl --data-binary` says of any file, and libraries that are given bytes, if they say anything.
            "" | "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(Self::Image),
            image if image.starts_with("image/") => Ok(Self::Image),
            _ => Err(wrong_kind()),
        }
    }
}

/// 415 that tells how images are sent.
pub(crate) fn wrong_kind() -> Error {
    Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "send images as multipart/form-data, for example curl -F file=@cat.png, \
         or one as the body, for example curl --data-binary @cat.png",
    )
}

/// Reads `body` to its end as one image that its sender calls `name`, nothing if empty, and stores it. The connection
/// is known by its `activity`.
pub(crate) async fn receive(app: &Arc<App>, body: &mut BoundedBody, name: &str, activity: Activity) -> Received {
    let mut files = Files::new(activity);
    let unused = body.unused();
    let mut reading = match part::usable(name) {
        Name::Unusable { error, .. } => Reading::Refused(error),
        _ => Reading::Taken(Writer::new(&app.spool)),
    };
    loop {
        let writer = match reading {
            Reading::Taken(writer) => writer,
            Reading::Refused(error) => {
                files.refuse(name, error);
                return Received { files: files.finish().await, complete: false, many: None };
            }
            Reading::Skipped => break,
        };
        reading = match body.next().await {
            Some(Ok(chunk)) => {
                unused.clear();
                files.take(app, writer, &chunk).await
            }
            Some(Err(error)) => Reading::Refused(error.into()),
            None if writer.size() == 0 => Reading::Skipped,
            None => {
                files.keep(app, writer, name.to_owned()).await;
                break;
            }
        };
    }
    Received { files: files.finish().await, complete: true, many: None }
}

/// The JSON that brings an image.
#[derive(Deserialize)]
struct Inputs {
    inputs: String,
    parameters: Option<Parameters>,
}

/// What is asked for beside.
#[derive(Default, Deserialize)]
struct Parameters {
    top_k: Option<usize>,
    function_to_apply: Option<String>,
}

/// Returns the activity of the connection that a request came on.
pub(crate) fn activity(request: &Parts) -> Activity {
    request.extensions.get().cloned().unwrap_or_else(Activity::new)
}

/// Reads `body` to its end, with a share of the memory for it and for the image in it. While the body
/// comes, the share is its sender's, who is known by its `activity`.
async fn json(app: &App, body: Body, activity: Activity) -> Result<(Vec<u8>, OwnedSemaphorePermit)> {
    let most = body.size_hint().upper().unwrap_or(u64::MAX).min(MAX_JSON_BYTES as u64);
    let held = app.image_memory.hold(outgoing::share(app, 2 * most).await?, activity);
    let mut body = BoundedBody::new(body, MAX_JSON_BYTES as u64, Arc::clone(&app.part_heads));
    let unused = body.unused();
    let mut text = Vec::new();
    while let Some(chunk) = body.next().await {
        unused.clear();
        match chunk {
            Ok(chunk) => text.extend_from_slice(&chunk),
            Err(error) => {
                body.linger().await;
                return Err(error.into());
            }
        }
    }
    Ok((text, held.without_client()))
}

/// The same request with the image of its JSON as its body, and how many labels are asked for.
///
/// # Errors
/// For what is no such JSON, what is larger than 16 MiB, and what asks for something else.
pub(crate) async fn out_of_json(app: &App, request: Request) -> Result<(Request, Option<usize>)> {
    let (mut parts, body) = request.into_parts();
    let (text, share) = json(app, body, activity(&parts)).await?;
    let expected =
        "send {\"inputs\": \"the image in base64\", \"parameters\": {\"top_k\": 5}}, or the image itself as the body";
    let Inputs { inputs, parameters } = serde_json::from_slice(&text)
        .map_err(|_| Error::bad_request(format!("this JSON is not understood; {expected}")))?;
    drop(text);
    let parameters = parameters.unwrap_or_default();
    if parameters.function_to_apply.is_some_and(|function| function != "softmax") {
        return Err(Error::bad_request("function_to_apply must be softmax; results hold nothing else"));
    }
    if parameters.top_k == Some(0) {
        return Err(Error::bad_request("top_k must be a whole number of 1 or more"));
    }
    let image =
        decoded(inputs).ok_or_else(|| Error::bad_request(format!("inputs is no image in base64; {expected}")))?;
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(image.len()));
    parts.headers.remove(header::CONTENT_TYPE);
    // The request holds the memory as long as it holds the image.
    parts.extensions.insert(Arc::new(share));
    Ok((Request::from_parts(parts, in_pieces(image.into())), parameters.top_k))
}

/// The bytes that base64 stands for, as the tools of many languages write it: in lines, of either alphabet, padded or
/// not, or as a data URL.
fn decoded(text: String) -> Option<Vec<u8>> {
    let start = text.find(";base64,").map_or(0, |at| at + ";base64,".len());
    let mut base64 = text.into_bytes();
    base64.drain(..start);
    base64.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    for byte in &mut base64 {
        match byte {
            b'-' => *byte = b'+',
            b'_' => *byte = b'/',
            _ => {}
        }
    }
    BASE64.decode(base64.trim_ascii()).ok()
}

/// A body that is handed out as it would come over a connection.
fn in_pieces(bytes: Bytes) -> Body {
    Body::from_stream(stream::unfold(bytes, |mut rest| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), rest))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_it_is_written() {
        let bytes = [0xfb, 0xff, 0xfe, 0x3e];
        for text in ["+//+Pg==", "+//+Pg", "-__-Pg==", "-__-Pg", "+//+\r\nPg==\n", " data:image/png;base64,+//+Pg== "] {
            assert_eq!(decoded(text.to_owned()).as_deref(), Some(&bytes[..]), "{text:?}");
        }
        for text in ["+//+P", "+//+ Pg==", "é", "+//+Pg==="] {
            assert_eq!(decoded(text.to_owned()), None, "{text:?}");
        }
        let read = |json: &str| serde_json::from_str::<Inputs>(json).map(|inputs| inputs.parameters.is_some());
        assert_eq!(read(r#"{"inputs": "", "parameters": null}"#).ok(), Some(false));
        assert_eq!(read(r#"{"inputs": "", "parameters": {}}"#).ok(), Some(true));
        assert_eq!(read(r#"{"inputs": ""}"#).ok(), Some(false));
    }

    #[test]
    fn images_come_in_forms_and_alone() {
        let kind = |kind: &str| Kind::of(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]));
        assert_eq!(Kind::of(&HeaderMap::new()).unwrap(), Kind::Image);
        for image in ["image/jpeg", "Image/PNG; q=1", "application/octet-stream", "application/x-www-form-urlencoded"] {
            assert_eq!(kind(image).unwrap(), Kind::Image, "{image}");
        }
        assert_eq!(kind("application/json; charset=utf-8").unwrap(), Kind::Json);
        assert_eq!(kind("multipart/form-data; boundary=X").unwrap(), Kind::Form("X".into()));
        for (other, status) in [("multipart/form-data", 400), ("text/plain", 415), ("multipart/mixed; boundary=X", 415)]
        {
            assert_eq!(kind(other).unwrap_err().status().as_u16(), status, "{other}");
        }
    }
}
