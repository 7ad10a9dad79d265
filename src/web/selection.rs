//! What a person does with the images that they ticked: remove them, or have them classified again.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Form,
    extract::{State, rejection::FormRejection},
    response::{IntoResponse, Redirect, Response},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    App, ask,
    auth::Admin,
    error::{Error, Result},
    frame::{Frame, render},
    guard::Client,
    login::local,
    params::MAX_LIMIT,
};
use crate::{backend, contract::ImageName};

/// So many are removed at a time.
const AT_ONCE: usize = 8;

/// Names that the question shows.
const SHOWN: usize = 20;

#[derive(Template)]
#[template(path = "delete.html")]
struct ConfirmPage<'a> {
    frame: Frame<'a>,
    images: &'a [ImageName],
    first: &'a [ImageName],
    more: usize,
    back: &'a str,
    beyond: &'a str,
}

/// A form as browsers send it.
#[derive(Debug, Default)]
struct Selection {
    action: String,
    images: Vec<ImageName>,
    confirmed: bool,
    /// The page to go back to.
    back: String,
    /// The one to go to when the images are removed, where that is another.
    beyond: String,
}

impl Selection {
    fn read(form: Vec<(String, String)>) -> Result<Self> {
        let mut read = Self::default();
        for (name, value) in form {
            match name.as_str() {
                "action" => read.action = value,
                "back" => read.back = value,
                "beyond" => read.beyond = value,
                "confirmed" => read.confirmed = value == "yes",
                "image" => {
                    let image = value.parse().map_err(|error| Error::bad_request(format!("image: {error}")))?;
                    read.images.push(image);
                }
                _ => return Err(Error::bad_request(format!("unknown field {name:?}"))),
            }
        }
        match read.images.len() {
            0 => Err(Error::bad_request("no image is chosen; go back and tick some")),
            1..=MAX_LIMIT => Ok(read),
            many => Err(Error::bad_request(format!("{many} images; choose at most {MAX_LIMIT} at a time"))),
        }
    }
}

/// `POST /results`: `action` is `delete` or `again`. To delete is asked about, unless that was done.
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    _: Admin,
    Extension(client): Extension<Client>,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Result<Response> {
    let Form(form) = form.map_err(|error| Error::new(error.status(), "the form cannot be read"))?;
    let Selection { action, images, confirmed, back, beyond } = Selection::read(form)?;
    let back = if action == "delete" && confirmed && !beyond.is_empty() { beyond.clone() } else { back };
    let back = if back.starts_with("/results") { local(&back) } else { "/results" };
    let (what, count) = match action.as_str() {
        "delete" if !confirmed => {
            let (first, rest) = images.split_at(images.len().min(SHOWN));
            let frame = app.frame("results");
            return Ok(render(&ConfirmPage { frame, images: &images, first, more: rest.len(), back, beyond: &beyond }));
        }
        "delete" => ("deleted", delete(&app, images).await?),
        "again" => match ask(backend::requeue_images(&app.backend, images)).await? {
            0 => {
                return Err(Error::not_found(
                    "none of these images is stored any more; go back and load the page anew",
                ));
            }
            count => ("again", count),
        },
        _ => return Err(Error::bad_request(format!("action is {action:?}; it must be delete or again"))),
    };
    app.status.forget();
    tracing::info!(count, action, client = %client.address, "images of the page of results");
    let separator = if back.contains('?') { '&' } else { '?' };
    Ok(Redirect::to(&format!("{back}{separator}{what}={count}")).into_response())
}

/// Removes images, and answers how many were there.
async fn delete(app: &Arc<App>, images: Vec<ImageName>) -> Result<u64> {
    let removed = stream::iter(images).map(|image| async move {
        let was_there = ask(backend::remove(&app.backend, &image)).await?;
        app.thumbnails.forget(Some(&image));
        Ok::<_, Error>(u64::from(was_there))
    });
    removed.buffer_unordered(AT_ONCE).try_fold(0, |sum, one| async move { Ok(sum + one) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_images() {
        let read = |pairs: &[(&str, &str)]| {
            Selection::read(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let form = read(&[("action", "delete"), ("image", "a.png"), ("image", "b.png"), ("back", "/results")]).unwrap();
        assert_eq!((form.action.as_str(), form.images.len(), form.confirmed), ("delete", 2, false));
        for wrong in [&[("action", "delete")][..], &[("image", "..")], &[("image", "a.png"), ("color", "red")]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
