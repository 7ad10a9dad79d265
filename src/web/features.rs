//! The features of stored images: what the network's last layer gets. Workers keep none, so the web tier computes them
//! for who asks.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::{
    sync::{Mutex, OnceCell, Semaphore},
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use super::{
    App,
    error::{Error, Result},
    outgoing::{self, PATIENCE},
    see_through,
};
use crate::{
    contract::{Classification, ImageName},
    model::{Bundle, Classifier, DecodeError, Detail, Engine, Limits, Parallel, Prediction},
};

/// Images that take more memory than this have none.
const MOST_MEMORY: u64 = 256 << 20;

/// The network, which is loaded when somebody asks for the first time.
#[derive(Debug)]
pub(crate) struct Features {
    classifier: OnceCell<Arc<Classifier>>,
    /// Room for one image at a time: the labels' network runs in workers, and this is no second fleet.
    pub(super) room: Arc<Semaphore>,
}

impl Default for Features {
    fn default() -> Self {
        Self { classifier: OnceCell::new(), room: Arc::new(Semaphore::new(1)) }
    }
}

/// The turn of a request's images, one after another: those of one request do not all wait before those of the next.
#[derive(Debug)]
pub(crate) struct Turn {
    one: Mutex<()>,
    until: Instant,
}

impl Turn {
    /// Of a request that waits until then.
    pub(crate) fn until(until: Instant) -> Self {
        Self { one: Mutex::new(()), until }
    }
}

/// The features of a stored image beside its `result`, once it is its `turn`.
///
/// # Errors
/// 503 where too many ask, 422 for an image that has none, 409 where another model gave the result.
pub(crate) async fn of(app: &Arc<App>, result: &Classification, turn: &Turn) -> Result<Vec<f32>> {
    let image = &result.image;
    let Ok(_turn) = timeout_at(turn.until, turn.one.lock()).await else { return Err(busy().of_image(image)) };
    // A client that does not take the answer stops this request, and must not stop those of others.
    let computed = see_through(app, compute(Arc::clone(app), image.clone(), result.model.clone())).await;
    computed.map_err(|error| error.of_image(image))
}

fn busy() -> Error {
    Error::unavailable("too many ask for features; ask again, or compute them with `imgcls classify`")
}

async fn compute(app: Arc<App>, image: ImageName, model: String) -> Result<Vec<f32>> {
    let room = timeout(PATIENCE, Arc::clone(&app.features.room).acquire_owned()).await;
    let room = room.ok().and_then(std::result::Result::ok).ok_or_else(busy)?;
    let classifier = Arc::clone(app.features.classifier.get_or_try_init(|| load(&app)).await?);
    let ours = classifier.id();
    if model != ours {
        let message = format!(
            "the image was classified by {model}, and features are those of {ours} here; have it classified again, and \
             ask then"
        );
        return Err(Error::new(StatusCode::CONFLICT, message));
    }
    let (stored, share) = outgoing::fetch(&app, &image).await?;
    let limits = app.config.limits;
    let computed = spawn_blocking(move || {
        let features = features(&classifier, &stored.bytes, &limits);
        drop((stored, share, room));
        features
    });
    computed.await.map_err(|_| Error::unavailable("the features were not computed"))?
}

async fn load(app: &App) -> Result<Arc<Classifier>> {
    let model = app.config.model.clone();
    let load = move || {
        let bundle = Bundle::open(model.as_deref()).map_err(anyhow::Error::from)?;
        Ok::<_, anyhow::Error>(Arc::new(Classifier::new(bundle, Engine::default(), Parallel::one(1))?))
    };
    let failed = |why: String| Error::unavailable(format!("the model cannot be loaded: {why}"));
    spawn_blocking(load).await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(format!("{e:#}")))
}

fn features(classifier: &Classifier, bytes: &[u8], limits: &Limits) -> Result<Vec<f32>> {
    let first = look(classifier, bytes, limits, Detail::Enough)?;
    // As workers do, so that the features are those that the label was given for.
    let again = first.wants_detail.then(|| look(classifier, bytes, limits, Detail::Full));
    Ok(again.and_then(Result::ok).unwrap_or(first).features)
}

/// What the network says of an image by so much of its detail.
fn look(classifier: &Classifier, bytes: &[u8], limits: &Limits, detail: Detail) -> Result<Prediction> {
    let refused = |error: DecodeError| Error::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    let header = classifier.preprocessor().measure(bytes, limits, detail).map_err(refused)?;
    if header.memory > MOST_MEMORY {
        let message = format!(
            "the features of this {} take {} MiB to make; the limit is {} MiB; send a smaller one, or use \
             `imgcls classify --features`",
            header.format,
            header.memory >> 20,
            MOST_MEMORY >> 20
        );
        return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let input = classifier.preprocessor().prepare(bytes, limits, detail).map_err(refused)?;
    let failed = |why: String| Error::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    let mut predictions = classifier.classify(&[input], 1).map_err(|error| failed(error.to_string()))?;
    predictions.pop().ok_or_else(|| failed("the network gave no features".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::undecided;

    /// As workers do it.
    #[test]
    fn close_calls_are_seen_in_full_detail() {
        let classifier = Classifier::new(Bundle::embedded().unwrap(), Engine::default(), Parallel::one(1)).unwrap();
        let limits = Limits::default();
        for (bytes, _) in undecided() {
            let input = classifier.preprocessor().prepare(bytes, &limits, Detail::Full).unwrap();
            let full = classifier.outputs(&[input]).unwrap().features;
            assert_eq!(features(&classifier, bytes, &limits).unwrap(), full);
        }
    }
}
