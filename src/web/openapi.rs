//! The description of the API for programs.

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use headers::CacheControl;

use super::{error::Result, etag, params::NoParameters};

/// An OpenAPI 3.1 document. Tests hold it against the router and against a running server.
pub(crate) const DOCUMENT: &str = include_str!("../../assets/openapi.json");

/// `GET /api/openapi.json`
pub(crate) async fn get(_: NoParameters, headers: HeaderMap) -> Result<Response> {
    let full = || ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response();
    let cache = CacheControl::new().with_private().with_no_cache();
    Ok(etag::conditional(&headers, cache, etag::weak(DOCUMENT.as_bytes()), full))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::build;

    /// `GET /images/{name}` and its like, as the router has them.
    fn routes() -> BTreeSet<String> {
        let source = include_str!("router.rs").replace("HEALTH_CHECK,", "\"/healthcheck\",");
        let routes = source.split(".route(").skip(1).flat_map(|route| {
            let (path, handlers) = route.split_once("\", ").expect("a path and its handlers");
            let (path, handlers) = (path.trim_start_matches('"').replace("{*", "{"), handlers.to_owned());
            let has = |method: &str| {
                handlers.starts_with(&format!("{method}(")) || handlers.contains(&format!(").{method}("))
            };
            let methods = ["get", "post", "put", "delete", "patch"].into_iter().filter(|method| has(method));
            methods.map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
        });
        routes.collect()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["info"]["version"], build::VERSION);
        let mut told = BTreeSet::new();
        for (path, calls) in document["paths"].as_object().unwrap() {
            told.extend(calls.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
        }
        let routes = routes();
        assert!(routes.len() > 25, "{routes:?}");
        assert_eq!(told, routes);
    }

    /// Every part that is referred to is there, and none is there for nothing.
    #[test]
    fn references_lead_somewhere() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let referred: BTreeSet<&str> =
            DOCUMENT.split("\"#").skip(1).filter_map(|rest| rest.split_once('"')).map(|(pointer, _)| pointer).collect();
        for pointer in &referred {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        for kind in ["schemas", "responses", "parameters", "headers"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(referred.contains(format!("/components/{kind}/{name}").as_str()), "{kind} {name} is not used");
            }
        }
    }
}
