//! Rate limits that instances share through a real Redis. Each value is an instance: they share nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::http::request::Parts;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::rate_limit::{
    Holder, LimitsOf, Mode, Peer, RateLimitMetrics, RateLimitSettings, RateLimits, Rule,
};
use tokio_util::sync::CancellationToken;

use tallyhouse_testkit::{Redis, eventually};

/// An instance, and what keeps it up to date.
struct Instance {
    limits: RateLimits,
    registry: Registry,
    health: Health,
    stop: CancellationToken,
    tending: tokio::task::JoinHandle<()>,
}

impl Instance {
    fn start(redis_url: &str, requests: u64) -> Self {
        let settings =
            RateLimitSettings { mode: Mode::Enforce, requests: Rule::per_minute(requests), ..RateLimitSettings::off() };
        let registry = Registry::new();
        let metrics = RateLimitMetrics::register(&registry).unwrap();
        let limits = RateLimits::new("query", settings, Some(&redis_url.parse().unwrap()), metrics).unwrap();
        let (health, stop) = (Health::default(), CancellationToken::new());
        let (tended, told, stopped) = (limits.clone(), health.clone(), stop.clone());
        let tending = tokio::spawn(async move { tended.tend(&told, stopped).await });
        Self { limits, registry, health, stop, tending }
    }

    fn three(redis_url: &str, requests: u64) -> [Self; 3] {
        [(); 3].map(|()| Self::start(redis_url, requests))
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tending.await.unwrap();
    }

    /// Whether Redis was always quick enough: else local buckets admitted more.
    fn was_always_shared(&self) -> bool {
        let families = self.registry.gather();
        let leases = families.iter().find(|family| family.name() == "tallyhouse_rate_limit_leases_total").unwrap();
        let missed = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| ["failed", "avoided"].contains(&label.value()))
        };
        leases.get_metric().iter().filter(missed).all(|metric| metric.get_counter().get_value() == 0.0)
    }

    fn is(&self, status: Status) -> bool {
        self.health.report().components.get("rate_limits").is_some_and(|component| component.status == status)
    }
}

fn head(address: &str) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.extensions.insert(Peer(address.parse().unwrap()));
    head
}

fn of(key: &str) -> Holder<'_> {
    Holder::key("p", key)
}

/// Fills so slowly that nothing comes during a test.
fn events(burst: u64) -> LimitsOf {
    LimitsOf::NONE.with_events(Some(1), Some(burst))
}

/// 50 clients ask all instances until `until`; gives how many requests were admitted.
async fn crowd(instances: &[Instance; 3], address: &'static str, until: Instant) -> u64 {
    let clients: Vec<_> = (0..50)
        .map(|client: usize| {
            let limits = instances[client % 3].limits.clone();
            tokio::spawn(async move {
                let (head, mut admitted) = (head(address), 0);
                while Instant::now() < until {
                    match limits.admit_address(&head, false).await {
                        Ok(_) => admitted += 1,
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
                admitted
            })
        })
        .collect();
    let mut admitted = 0;
    for client in clients {
        admitted += client.await.unwrap();
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_of_three_instances_get_what_there_is_and_no_more() {
    let redis = Redis::start().await;
    let instances = Instance::three(&redis.url, 1_000);
    let began = Instant::now();
    let admitted = crowd(&instances, "192.0.2.1", began + Duration::from_secs(3)).await;
    let most = 1_000.0 + began.elapsed().as_secs_f64() * 1_000.0 / 60.0;
    let is_exact = instances.iter().all(Instance::was_always_shared);
    assert!(admitted as f64 <= most || !is_exact, "{admitted} of {most}");
    // At the end leases are small: hardly anything lies with an instance that does not need it.
    assert!(admitted as f64 >= most - 25.0, "{admitted} of {most}");
    // Later as well: what had been lent is no second burst.
    let again = Instant::now();
    let more = crowd(&instances, "192.0.2.1", again + Duration::from_secs(1)).await;
    let all = 1_000.0 + began.elapsed().as_secs_f64() * 1_000.0 / 60.0;
    let is_exact = instances.iter().all(Instance::was_always_shared);
    assert!((admitted + more) as f64 <= all || !is_exact, "{admitted} and {more} of {all}");
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_three_instances_are_taken_to_the_last_event() {
    let redis = Redis::start().await;
    let instances = Instance::three(&redis.url, 1_000);
    let limits = events(10_000);
    let senders: Vec<_> = (0..50)
        .map(|sender: usize| {
            let instance = instances[sender % 3].limits.clone();
            tokio::spawn(async move {
                let mut taken = 0;
                for batch in 0..10 {
                    let counted = instance.count_events(of("k"), &limits, 37 + batch).await;
                    assert_eq!(counted.refused.is_some(), counted.fits < 37 + batch);
                    taken += counted.fits;
                }
                taken
            })
        })
        .collect();
    let mut taken = 0;
    for sender in senders {
        taken += sender.await.unwrap();
    }
    let is_exact = instances.iter().all(Instance::was_always_shared);
    assert!(taken >= 9_900 && (taken <= 10_000 || !is_exact), "{taken}");
    // What is not taken after all is there again, for every instance.
    let counted = instances[0].limits.count_events(of("other"), &limits, 10_000).await;
    assert_eq!(counted.fits, 10_000);
    assert!(instances[1].limits.admit_sender(of("other"), &limits).await.is_err());
    instances[0].limits.give_back(of("other"), &limits, &counted, 4_000);
    assert_eq!(instances[0].limits.count_events(of("other"), &limits, 4_001).await.fits, 4_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_used_goes_back_at_the_end() {
    let redis = Redis::start().await;
    let (one, limits) = (Instance::start(&redis.url, 1_000), events(1_000));
    for _ in 0..20 {
        assert_eq!(one.limits.count_events(of("k"), &limits, 1).await.fits, 1);
    }
    one.stop().await;
    let other = Instance::start(&redis.url, 1_000);
    assert_eq!(other.limits.count_events(of("k"), &limits, 1_000).await.fits, 980);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_goes_and_comes_back_doubles_nothing() {
    let mut redis = Redis::start().await;
    let instances = Instance::three(&redis.url, 1_000);
    let limits = events(900);
    eventually("the instances know each other", async || {
        redis.command("ZCARD tallyhouse:limit:{query:instances}").await.as_deref() == Some(":3")
    })
    .await;
    // Each has counted all three.
    for instance in &instances {
        assert_eq!(instance.limits.count_events(of("k"), &limits, 100).await.fits, 100);
        eventually("three are counted", async || instance.limits.instances() == 3).await;
    }
    redis.hang().await;
    let mut taken = 300;
    for _ in 0..3 {
        for instance in &instances {
            taken += instance.limits.count_events(of("k"), &limits, 1_000).await.fits;
        }
    }
    // Each goes on with a third of what was left when it asked, about 800, 700 and 600, or when it looked since, and with the few tokens of
    // its lease. Thirds are rounded down.
    let most = 300 + 266 + 233 + 200 + 3 * 16;
    assert!((300 + 590..=most).contains(&taken), "{taken}");
    eventually("health says so", async || instances.iter().all(|instance| instance.is(Status::Degraded))).await;
    // A flapping Redis fills no bucket.
    for _ in 0..3 {
        redis.thaw().await;
        redis.hang().await;
        for instance in &instances {
            taken += instance.limits.count_events(of("k"), &limits, 1_000).await.fits;
        }
    }
    assert!(taken <= most, "{taken}");
    redis.thaw().await;
    eventually("Redis is asked again", async || instances.iter().all(|instance| instance.is(Status::Up))).await;
    // Of a Redis of which every third was taken, what rounding left is there.
    let left = "EVAL \"return math.floor(redis.call('HGET', redis.call('KEYS', 'tallyhouse:limit:{query:events:*')[1], 'tokens'))\" 0";
    eventually("what was taken is owed", async || {
        let left = redis.command(left).await.and_then(|left| left.trim_start_matches(':').parse::<u64>().ok());
        left.is_some_and(|left| left <= 10)
    })
    .await;
    for instance in &instances {
        assert!(instance.limits.count_events(of("k"), &limits, 1_000).await.fits <= 10);
    }
    redis.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_expire_and_tell_nobody_an_address() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis.url, 1_000);
    for host in 0..=255 {
        assert!(one.limits.admit_address(&head(&format!("198.51.100.{host}")), false).await.is_ok());
    }
    assert_eq!(one.limits.count_events(of("somebody@example.com"), &events(9), 1).await.fits, 1);
    assert!(redis.keys("tallyhouse:limit:").await >= 257);
    let forever = "EVAL \"local n = 0 for _, k in ipairs(redis.call('KEYS', 'tallyhouse:limit:*')) do if redis.call('PTTL', k) < 0 then n = n + 1 end end return n\" 0";
    assert_eq!(redis.command(forever).await.as_deref(), Some(":0"));
    assert_eq!(redis.keys("*198.51*").await + redis.keys("*somebody*").await, 0);
    // Of a request in a thousand a minute the bucket is full again at once.
    let longest = "EVAL \"local n = 0 for _, k in ipairs(redis.call('KEYS', 'tallyhouse:limit:{query:address:*')) do n = math.max(n, redis.call('PTTL', k)) end return n\" 0";
    let longest: u64 = redis.command(longest).await.unwrap().trim_start_matches(':').parse().unwrap();
    assert!(longest <= 21_000, "{longest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_many_days_is_remembered_for_as_many() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis.url, 1_000);
    assert_eq!(one.limits.count_events(of("k"), &events(100), 100).await.fits, 100);
    let left = "EVAL \"return redis.call('PTTL', redis.call('KEYS', 'tallyhouse:limit:{query:events:*')[1])\" 0";
    let left: u64 = redis.command(left).await.unwrap().trim_start_matches(':').parse().unwrap();
    assert!(left > 99 * 86_400_000, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_asks_redis_seldom() {
    let redis = Redis::start().await;
    let instances = Instance::three(&redis.url, 1_000_000);
    redis.command("CONFIG RESETSTAT").await.unwrap();
    let admitted = crowd(&instances, "192.0.2.1", Instant::now() + Duration::from_secs(1)).await;
    let calls = redis.command("EVAL \"local i = redis.call('INFO', 'commandstats') return tonumber(string.match(i, 'cmdstat_eval:calls=(%d+)'))\" 0").await;
    let calls: u64 = calls.unwrap().trim_start_matches(':').parse().unwrap();
    eprintln!("{admitted} requests cost {calls} scripts");
    assert!(admitted > 10_000 && calls < admitted / 50, "{admitted} requests cost {calls} scripts");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_addresses_are_counted_one_by_one() {
    let redis = Redis::start().await;
    let one = Arc::new(Instance::start(&redis.url, 1_000));
    let mut seen = Vec::new();
    for client in 0..50_u8 {
        let one = Arc::clone(&one);
        seen.push(tokio::spawn(async move {
            for host in 0..200_u8 {
                let address = head(&format!("10.{client}.{host}.1"));
                let standing = one.limits.admit_address(&address, false).await.unwrap().unwrap();
                assert_eq!(standing.remaining, 999, "each has its own bucket");
            }
        }));
    }
    for client in seen {
        client.await.unwrap();
    }
}
