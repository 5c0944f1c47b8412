//! The golden signals of a listener: how many requests, how they ended, how long they took, how many are being answered. Of every request that
//! has a head, also of one for a path or with a method that does not exist, one that was not let in, and one whose client went away.
//!
//! ```text
//! request -> began (in flight) -> … -> answered (status) | dropped: the client left (499)
//! ```

use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::registry::Registry;
use crate::trace::CLIENT_LEFT;

/// Seconds, with the service levels between neighbours: 5, 50, 100 and 200 ms, 2, 3, 10 and 30 s.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0];

/// The route of a request that no route matches.
const UNMATCHED: &str = "unmatched";

/// Of all listeners of a registry.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    lines_left_out: IntCounterVec,
}

impl HttpMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            requests: registry.counters(
                "tallyhouse_http_requests_total",
                "Requests by route (a pattern; `unmatched`: there is none), method (`other`: the route does not have it) and status (499: the client left)",
                &["listener", "route", "method", "status"],
            )?,
            seconds: registry.histograms(
                "tallyhouse_http_request_seconds",
                "Time from the head of a request to the head of its answer",
                SECONDS.to_vec(),
                &["listener", "route", "method"],
            )?,
            in_flight: registry.gauges(
                "tallyhouse_http_requests_in_flight",
                "Requests being answered; a stream counts until it is open",
                &["listener"],
            )?,
            lines_left_out: registry.counters(
                "tallyhouse_http_request_lines_dropped_total",
                "Requests that failed, were slow or sampled and have no log line, because there were too many in a second",
                &["listener"],
            )?,
        })
    }

    /// Those of a listener.
    pub fn of(&self, listener: &'static str) -> ListenerRequests {
        ListenerRequests {
            requests: self.requests.clone(),
            seconds: self.seconds.clone(),
            in_flight: self.in_flight.with_label_values(&[listener]),
            lines_left_out: self.lines_left_out.with_label_values(&[listener]),
            listener,
        }
    }
}

/// Requests of one listener.
#[derive(Debug, Clone)]
pub struct ListenerRequests {
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    lines_left_out: IntCounter,
    listener: &'static str,
}

impl ListenerRequests {
    pub fn listener(&self) -> &'static str {
        self.listener
    }

    /// A request has no line though it should have one.
    pub fn line_left_out(&self) {
        self.lines_left_out.inc();
    }

    /// A request began.
    pub fn began<'a>(&'a self, route: Option<&'a str>, method: &'a Method) -> Measured<'a> {
        self.in_flight.inc();
        Measured {
            requests: self,
            route: route.unwrap_or(UNMATCHED),
            method,
            began: Instant::now(),
            is_answered: false,
        }
    }
}

/// A request that is being answered. Dropped without an answer, its client went away.
#[derive(Debug)]
pub struct Measured<'a> {
    requests: &'a ListenerRequests,
    route: &'a str,
    method: &'a Method,
    began: Instant,
    is_answered: bool,
}

impl Measured<'_> {
    /// Since it began.
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// It was answered.
    pub fn answered(mut self, status: StatusCode, took: Duration) {
        self.is_answered = true;
        let method = match status {
            // Else whoever tries all methods on all routes would make a series of each.
            StatusCode::METHOD_NOT_ALLOWED => "other",
            _ => known(self.method),
        };
        self.count(method, status.as_str(), took);
    }

    pub fn route(&self) -> &str {
        self.route
    }

    /// One of those that are known.
    pub fn method(&self) -> &str {
        known(self.method)
    }

    fn count(&self, method: &str, status: &str, took: Duration) {
        let Self { requests: ListenerRequests { requests, seconds, listener, .. }, route, .. } = self;
        let method = if *route == UNMATCHED { "other" } else { method };
        requests.with_label_values(&[listener, *route, method, status]).inc();
        seconds.with_label_values(&[listener, *route, method]).observe(took.as_secs_f64());
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.requests.in_flight.dec();
        if !self.is_answered {
            self.count(known(self.method), &CLIENT_LEFT.to_string(), self.began.elapsed());
        }
    }
}

/// Anybody may invent methods.
fn known(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            method.as_str()
        }
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(registry: &Registry) -> Vec<String> {
        let families = registry.gather();
        let family = families.iter().find(|one| one.name() == "tallyhouse_http_requests_total").unwrap();
        let one = |metric: &prometheus::proto::Metric| {
            let labels: Vec<&str> = metric.get_label().iter().map(|label| label.value()).collect();
            format!("{} {}", labels.join(" "), metric.get_counter().get_value())
        };
        family.get_metric().iter().map(one).collect()
    }

    #[test]
    fn every_end_of_a_request_is_counted_under_a_bounded_name() {
        let registry = Registry::new();
        let requests = HttpMetrics::register(&registry).unwrap().of("query");
        let (get, invented) = (Method::GET, Method::from_bytes(b"CLEAR").unwrap());
        requests.began(Some("/v1/metrics/{name}"), &get).answered(StatusCode::OK, Duration::ZERO);
        requests
            .began(Some("/v1/metrics/{name}"), &Method::DELETE)
            .answered(StatusCode::METHOD_NOT_ALLOWED, Duration::ZERO);
        requests.began(None, &invented).answered(StatusCode::NOT_FOUND, Duration::ZERO);
        requests.began(None, &Method::PUT).answered(StatusCode::NOT_FOUND, Duration::ZERO);
        let left = requests.began(Some("/v1/sql"), &Method::POST);
        assert_eq!(requests.in_flight.get(), 1);
        drop(left);
        assert_eq!(requests.in_flight.get(), 0);
        // Labels come in the order of their names: listener, method, route, status.
        let expected = [
            "query GET /v1/metrics/{name} 200 1",
            "query POST /v1/sql 499 1",
            "query other /v1/metrics/{name} 405 1",
            "query other unmatched 404 2",
        ];
        let mut found = counted(&registry);
        found.sort();
        assert_eq!(found, expected);
    }
}
