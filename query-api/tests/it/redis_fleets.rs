//! Redis that fails over: by Sentinel, and as a cluster. Answers stay right, and the cache works again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tallyhouse_service::changed_days::{WRITERS, invalidate};
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::rate_limit::{Holder, LimitsOf, Mode, RateLimitMetrics, RateLimitSettings, RateLimits};
use tallyhouse_service::redis::{Pool, Subscriber};

use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{
    self as support, RedisCluster, RedisSentinels, a_day, eventually, insert_events, new_project, ten_days_ago,
};

/// Two instances on one Redis, and what they are asked for.
struct Pair {
    one: Arc<Service>,
    other: Arc<Service>,
    project: String,
    from: i64,
    pool: Pool,
}

impl Pair {
    async fn start(url: &str) -> Self {
        let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
        insert_events(&engine.writer(), &project, from, 5).await;
        let one = Arc::new(Service::start(engine.reader(), &[&project], Some(url)).await);
        let other = Arc::new(Service::start(engine.reader(), &[&project], Some(url)).await);
        let pool = Pool::new(&url.parse().unwrap(), 1).unwrap();
        Self { one, other, project, from, pool }
    }

    fn queries(&self) -> u64 {
        self.one.queries() + self.other.queries()
    }

    /// An answer of one instance is given by the other, and a change is seen by both.
    async fn share(&self, path: &str, sum: i64) {
        let Self { one, other, project, .. } = self;
        let seen = async || {
            one.get(project, path).await;
            let before = self.queries();
            let reply = other.get(project, path).await;
            assert_eq!(reply.values(), [json!(sum)], "{reply:?}");
            reply.header("x-cache") == "HIT" && self.queries() == before
        };
        eventually("the other instance has the answer", seen).await;
    }

    /// More events come, and their days are published. Gives the sum of their values.
    async fn change(&self, sum: i64) -> i64 {
        insert_events(&support::engine().await.writer(), &self.project, self.from, 5).await;
        let days = BTreeSet::from([DayChange::day(&self.project, (self.from / 86_400) as i32)]);
        eventually("the change is published", async || {
            let published = invalidate(&self.pool, &days).await;
            if let Err(error) = &published {
                eprintln!("not published yet: {error}");
            }
            published.is_ok()
        })
        .await;
        let (path, sum) = (a_day(self.from), sum + 15);
        for service in [&self.one, &self.other] {
            let sees = async || service.get(&self.project, &path).await.values() == [json!(sum)];
            eventually("the change is seen", sees).await;
        }
        sum
    }

    /// Asks both for as long as `breaking` takes: no answer is wrong.
    async fn ask_while(&self, sum: i64, breaking: impl Future<Output = ()>) {
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = [&self.one, &self.other, &self.one, &self.other]
            .map(|service| {
                let (service, project, path) = (Arc::clone(service), self.project.clone(), a_day(self.from));
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut answers = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let reply = service.get(&project, &path).await;
                        assert_eq!(reply.values(), [json!(sum)], "{reply:?}");
                        answers += 1;
                    }
                    answers
                })
            })
            .into();
        breaking.await;
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
    }
}

/// Three instances admit together what one bucket has.
async fn limits_are_shared(url: &str, key: &str) {
    let instances = [(); 3].map(|()| {
        let settings = RateLimitSettings { mode: Mode::Enforce, ..RateLimitSettings::off() };
        let metrics = RateLimitMetrics::register(&Registry::new()).unwrap();
        RateLimits::new("query", settings, Some(&url.parse().unwrap()), metrics).unwrap()
    });
    let (limits, mut taken) = (LimitsOf::NONE.with_events(Some(1), Some(1_000)), 0);
    for _ in 0..5 {
        for instance in &instances {
            taken += instance.count_events(Holder::key("p", key), &limits, 100).await.fits;
        }
    }
    assert_eq!(taken, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_sentinel_promotes_takes_over() {
    let mut redis = RedisSentinels::start().await;
    let pair = Pair::start(&redis.url).await;
    pair.share(&a_day(pair.from), 15).await;
    let sum = pair.change(15).await;
    limits_are_shared(&redis.url, "before").await;
    pair.ask_while(sum, async {
        redis.kill_master().await;
        redis.failed_over().await;
    })
    .await;
    pair.share(&a_day(pair.from), sum).await;
    pair.change(sum).await;
    limits_are_shared(&redis.url, "after").await;
    // One that takes connections and says nothing is waited for, and then another is believed.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = redis.url.replace("://", &format!("://{},", silent.local_addr().unwrap()));
    assert!(Subscriber::new(&url.parse().unwrap(), WRITERS).unwrap().connect().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_shares_answers_parts_versions_and_limits_and_survives_a_master() {
    let mut redis = RedisCluster::start().await;
    let pair = Pair::start(&redis.url).await;
    pair.share(&a_day(pair.from), 15).await;
    // Parts of an answer lie on several nodes.
    let days = |days: i64| {
        let [start, end] = [pair.from, pair.from + days * 86_400].map(|at| at * 1_000);
        format!("/v1/metrics/value_sum?startTime={start}&endTime={end}&granularity=day")
    };
    let reply = pair.one.get(&pair.project, &days(9)).await;
    eventually("parts are in Redis", async || redis.keys("tallyhouse:part:").await > 1).await;
    let before = pair.queries();
    assert_eq!(pair.other.get(&pair.project, &days(9)).await.values(), reply.values());
    assert_eq!(pair.queries(), before, "the other instance read the parts");
    let sum = pair.change(15).await;
    limits_are_shared(&redis.url, "before").await;
    assert!(redis.keys("tallyhouse:limit:").await > 0);

    pair.ask_while(sum, async {
        redis.kill_master_of(WRITERS).await;
        redis.failed_over(WRITERS).await;
    })
    .await;
    pair.share(&a_day(pair.from), sum).await;
    pair.change(sum).await;
    limits_are_shared(&redis.url, "after").await;
}
