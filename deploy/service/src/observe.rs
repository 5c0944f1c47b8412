//! The outermost layer of a public router: what is seen of every request, whatever it asks for and however it ends.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::metrics::http::ListenerRequests;

/// What sees them.
#[derive(Debug, Clone)]
pub struct Observer {
    pub requests: ListenerRequests,
}

impl Observer {
    /// Watches every request to a router.
    pub fn watch(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::new(self), pass))
    }
}

async fn pass(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let measured = observer.requests.began(matched.as_ref().map(MatchedPath::as_str), &method);
    let response = next.run(request).await;
    measured.answered(response.status());
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::not_found;
    use crate::metrics::Registry;
    use crate::metrics::http::HttpMetrics;

    #[tokio::test]
    async fn routes_are_patterns_and_what_no_route_matches_is_counted_too() {
        let registry = Registry::new();
        let requests = HttpMetrics::register(&registry).unwrap().of("test");
        let router = Router::new().route("/a/{name}", get(|| async { "a" })).fallback(not_found);
        let router = Observer { requests }.watch(router);
        for (method, path) in [("GET", "/a/1"), ("GET", "/a/2"), ("PUT", "/a/1"), ("GET", "/b"), ("BREW", "/c")] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
        let left = Request::builder().uri("/a/1").body(Body::empty()).unwrap();
        drop(router.oneshot(left));
        let families = registry.gather();
        let family = families.iter().find(|one| one.name() == "tallyhouse_http_requests_total").unwrap();
        let mut found: Vec<(String, f64)> = family
            .get_metric()
            .iter()
            .map(|one| {
                let labels: Vec<&str> = one.get_label().iter().map(|label| label.value()).collect();
                (labels.join(" "), one.get_counter().get_value())
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected =
            [("test GET /a/{name} 200", 2.0), ("test other /a/{name} 405", 1.0), ("test other unmatched 404", 2.0)];
        assert_eq!(found, expected.map(|(labels, count)| (labels.to_owned(), count)));
        assert_eq!(StatusCode::METHOD_NOT_ALLOWED.as_u16(), 405);
    }
}
