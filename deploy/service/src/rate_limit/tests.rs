//! Without Redis; with it: `query-api/tests/it/rate_limits.rs`.

use crate::metrics::Registry;
use axum::http::Request;

use super::*;

const LIMITS: LimitsOf = LimitsOf::tier(Tier::Free);

fn limits(mode: Mode, requests: u64, registry: &Registry) -> RateLimits {
    let settings = RateLimitSettings {
        mode,
        requests: Rule::per_minute(requests),
        admin: Rule::per_minute(2),
        ..RateLimitSettings::off()
    };
    RateLimits::new("test", settings, None, RateLimitMetrics::register(registry).unwrap()).unwrap()
}

fn head(address: &str) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.extensions.insert(Peer(address.parse().unwrap()));
    head
}

fn of(subject: &str) -> Holder<'_> {
    Holder::key("p", subject)
}

fn counted(registry: &Registry, limit: &str, outcome: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == "tallyhouse_rate_limit_decisions_total").unwrap();
    let has = |metric: &&prometheus::proto::Metric| {
        let labels: Vec<&str> = metric.get_label().iter().map(prometheus::proto::LabelPair::value).collect();
        labels.contains(&limit) && labels.contains(&outcome)
    };
    family.get_metric().iter().find(has).map_or(0, |metric| metric.get_counter().get_value() as u64)
}

#[tokio::test]
async fn an_address_has_its_requests_and_others_have_theirs() {
    let registry = Registry::new();
    let limits = limits(Mode::Enforce, 3, &registry);
    for remaining in [2, 1, 0] {
        let standing = limits.admit_address(&head("192.0.2.1"), false).await.unwrap().unwrap();
        assert_eq!((standing.kind, standing.limit, standing.remaining), (Kind::Address, 3, remaining));
    }
    let refused = limits.admit_address(&head("192.0.2.1"), false).await.unwrap_err();
    assert!((1..=20).contains(&refused.retry_after_s), "{refused:?}");
    assert!(limits.admit_address(&head("192.0.2.2"), false).await.is_ok());
    let network = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"].map(head);
    let mut admitted = 0;
    for head in &network {
        admitted += usize::from(limits.admit_address(head, false).await.is_ok());
    }
    assert_eq!(admitted, 3, "a /64 network is one client");
    assert_eq!((counted(&registry, "address", "admitted"), counted(&registry, "address", "refused")), (7, 2));
}

#[tokio::test]
async fn administrative_requests_count_twice() {
    let limits = limits(Mode::Enforce, 100, &Registry::new());
    for _ in 0..2 {
        let standing = limits.admit_address(&head("192.0.2.1"), true).await.unwrap().unwrap();
        assert_eq!(standing.kind, Kind::Admin);
    }
    assert_eq!(limits.admit_address(&head("192.0.2.1"), true).await.unwrap_err().standing.kind, Kind::Admin);
    assert!(limits.admit_address(&head("192.0.2.1"), false).await.is_ok());
}

#[tokio::test]
async fn of_a_batch_as_many_are_taken_as_fit_and_what_is_given_back_fits_again() {
    let registry = Registry::new();
    let limits = limits(Mode::Enforce, 100, &registry);
    let all = limits.count_events(of("k"), &LIMITS, 9_000).await;
    assert_eq!((all.fits, all.refused), (9_000, None));
    let part = limits.count_events(of("k"), &LIMITS, 1_500).await;
    assert_eq!(part.fits, 1_000);
    let refused = part.refused.unwrap();
    assert_eq!(refused.standing.remaining, 0);
    assert!((4_310..=4_320).contains(&refused.retry_after_s), "500 take 72 minutes: {refused:?}");
    assert!(limits.admit_sender(of("k"), &LIMITS).await.is_err());
    assert!(limits.admit_sender(of("other"), &LIMITS).await.is_ok(), "each key has its own");
    limits.give_back(of("k"), &LIMITS, &all, 400);
    assert!(limits.admit_sender(of("k"), &LIMITS).await.is_ok());
    assert_eq!(limits.count_events(of("k"), &LIMITS, 500).await.fits, 400);
    assert_eq!((counted(&registry, "events", "admitted"), counted(&registry, "events", "refused")), (10_400, 601));
}

#[tokio::test]
async fn looking_takes_nothing() {
    let limits = limits(Mode::Enforce, 100, &Registry::new());
    for _ in 0..20_000 {
        assert_eq!(limits.admit_sender(of("k"), &LIMITS).await.unwrap().unwrap().remaining, 10_000);
    }
}

#[tokio::test]
async fn a_person_who_is_named_as_a_key_is_shares_nothing_with_it() {
    let limits = limits(Mode::Enforce, 1_000, &Registry::new());
    for holder in [Holder::key("p", "x"), Holder::user("p", "x")] {
        assert_eq!(limits.count_events(holder, &LIMITS, 10_000).await.fits, 10_000);
    }
}

#[tokio::test]
async fn what_does_not_fit_of_a_batch_fits_after_retry_after() {
    let limits = limits(Mode::Enforce, 1_000, &Registry::new());
    for (events, fits, wait_s) in [(9_000, 9_000, 0), (6_000, 1_000, 43_200), (1, 0, 9), (20_000, 0, 86_400)] {
        let counted = limits.count_events(of("k"), &LIMITS, events).await;
        let refused_s = counted.refused.map_or(0, |refused| refused.retry_after_s);
        assert_eq!(counted.fits, fits);
        assert!(refused_s.abs_diff(wait_s) <= 1, "{refused_s} of {wait_s}");
    }
}

#[tokio::test]
async fn in_report_mode_everything_is_admitted_and_counted() {
    let registry = Registry::new();
    let limits = limits(Mode::Report, 1, &registry);
    for _ in 0..3 {
        assert!(limits.admit_address(&head("192.0.2.1"), false).await.is_ok());
    }
    let counted_events = limits.count_events(of("k"), &LIMITS, 10_005).await;
    assert_eq!((counted_events.fits, counted_events.refused), (10_005, None));
    assert_eq!(counted_events.standing.unwrap().remaining, 0);
    assert_eq!((counted(&registry, "address", "reported"), counted(&registry, "events", "reported")), (2, 5));
    assert_eq!(counted(&registry, "events", "refused"), 0);
    limits.give_back(of("k"), &LIMITS, &counted_events, 10_005);
    assert_eq!(limits.count_events(of("k"), &LIMITS, 1).await.standing.unwrap().remaining, 9_999);
    let more = limits.count_events(of("k"), &LIMITS, 10_004).await;
    limits.give_back(of("k"), &LIMITS, &more, 10_004);
    assert_eq!(
        limits.count_events(of("k"), &LIMITS, 1).await.standing.unwrap().remaining,
        9_998,
        "no more than it took"
    );
}

#[tokio::test]
async fn without_limits_nothing_is_said() {
    let off = RateLimits::off().unwrap();
    assert_eq!(off.admit_address(&head("192.0.2.1"), true).await, Ok(None));
    let limits = limits(Mode::Enforce, 100, &Registry::new());
    assert_eq!(limits.admit_query(of("k"), &LimitsOf::NONE).await, Ok(None));
    let counted = limits.count_events(of("k"), &LimitsOf::NONE, 1 << 40).await;
    assert_eq!((counted.fits, counted.standing), (1 << 40, None));
}

#[tokio::test]
async fn under_stress_limits_tighten_by_priority() {
    let limits = limits(Mode::Enforce, 100, &Registry::new());
    let fits = async |key: &str, priority: Priority, events: u64| {
        limits.count_events(of(key), &LIMITS.with_priority(priority), events).await.fits
    };
    limits.set_stress(Stress::High);
    assert_eq!(fits("low", Priority::Low, 10_000).await, 2_500);
    assert_eq!(fits("normal", Priority::Normal, 4_000).await, 4_000);
    limits.set_stress(Stress::Severe);
    assert_eq!(fits("normal", Priority::Normal, 10_000).await, 1_500);
    assert_eq!(fits("high", Priority::High, 10_000).await, 10_000);
    let low = LimitsOf::NONE.with_priority(Priority::Low);
    assert!(limits.admit_sender(of("unlimited"), &low).await.is_err_and(|refused| refused.is_stress));
    let counted = limits.count_events(of("unlimited"), &low, 5).await;
    assert!(counted.fits == 0 && counted.refused.is_some_and(|refused| refused.is_stress));
    limits.set_stress(Stress::Calm);
    assert!(limits.admit_sender(of("unlimited"), &low).await.is_ok());
}

#[tokio::test]
async fn instances_share_what_there_is() {
    let settings = RateLimitSettings { mode: Mode::Enforce, instances: Some(4), ..RateLimitSettings::off() };
    let metrics = RateLimitMetrics::register(&Registry::new()).unwrap();
    let limits = RateLimits::new("test", settings, None, metrics).unwrap();
    assert_eq!(limits.count_events(of("k"), &LIMITS, 10_000).await.fits, 2_500);
}
