//! Starts the service from its configuration, and stops it.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_control::access::Gate;
use tallyhouse_service::access::telemetry::AccessMetrics;
use tallyhouse_service::access::tokens::{TokenSetupError, Tokens};
use tallyhouse_service::admin::Admin;
use tallyhouse_service::breaker::BreakerState;
use tallyhouse_service::config::open_tls;
use tallyhouse_service::env::ConfigError;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::http_client::HttpError;
use tallyhouse_service::lifecycle::Stop;
use tallyhouse_service::metrics::Common;
use tallyhouse_service::metrics::http::HttpMetrics;
use tallyhouse_service::metrics::pools::Pools;
use tallyhouse_service::observe::Observer;
use tallyhouse_service::rate_limit::{RateLimitMetrics, RateLimits};
use tallyhouse_service::redis::OpenError;
use tallyhouse_service::server::telemetry::{ListenerMetrics, ServerMetrics};
use tallyhouse_service::server::{Limits as ConnectionLimits, Server};
use tallyhouse_service::tls::Tls;
use tallyhouse_service::trace_export::{TraceExport, TraceSetupError, TracedService};
use tallyhouse_sql::rollups::verify::PAUSE;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::adhoc::refused_statements::RefusedStatements;
use crate::adhoc::stream::Limits;
use crate::adhoc::{Adhoc, Analyst};
use crate::admission::SendPermits;
use crate::cache::Cache;
use crate::cache::answers::Layers;
use crate::cache::fresh::Limiter;
use crate::cache::parts::PartsDeps;
use crate::cache::ttl::Policy;
use crate::cache::{Answers, Memory, Parts, SharedCache, Versions};
use crate::canary::Canary;
use crate::config::Config;
use crate::coverage::Coverage;
use crate::deps::Deps;
use crate::drift::{DriftSettings, DriftWatch};
use crate::erasures;
use crate::event_types::EventTypes;
use crate::execute::Sources;
use crate::http::router;
use crate::live::{Hub, Live};
use crate::registry::MetricRegistry;
use crate::serve::App;
use crate::store::Store;
use crate::telemetry::{CanaryMetrics, DriftMetrics, Metrics};
use crate::warm_start::WarmStart;

/// How often dependencies are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long ClickHouse may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Ports that are already listened on, so that a failure to do so is the caller's to explain.
pub struct Listeners {
    /// For questions.
    pub public: TcpListener,
    /// For metrics and health.
    pub admin: TcpListener,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `REDIS_URL` is not one.
    #[error("REDIS_URL: {0}")]
    Redis(#[from] OpenError),
    /// The certificate of the listeners.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry has these metrics already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The collector of traces cannot be spoken to.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Traces(#[from] TraceSetupError),
    /// No canary can be sent.
    #[error("CANARY_INGEST_URL: {0}")]
    Canary(#[from] HttpError),
    /// Tokens cannot be verified.
    #[error("JWKS_URL: {0}")]
    Tokens(#[from] TokenSetupError),
}

/// Runs until `stop`: readiness goes off first, then open requests are answered within the configured time.
pub async fn run(config: Config, deps: Deps, listeners: Listeners, stop: impl Into<Stop>) -> Result<(), RunError> {
    let stop: Stop = stop.into();
    let metrics = Metrics::register(&deps.registry)?;
    Common { service: "query", version: env!("CARGO_PKG_VERSION"), health: &deps.health }.register(&deps.registry)?;
    let (pools, requests) = (Pools::register(&deps.registry)?, HttpMetrics::register(&deps.registry)?.of("query"));
    let server_metrics = ServerMetrics::register(&deps.registry)?;
    let tls = open_tls(config.tls.as_ref(), &deps.registry, &deps.health)?;
    let redis = match &config.redis_url {
        Some(url) => Some(Arc::new(SharedCache::new(url, metrics.clone(), Arc::clone(&deps.clock))?)),
        None => None,
    };
    if let Some(pool) = redis.as_ref().map(|redis| redis.pool()) {
        pools.watch("redis_cache", move || pool.status());
    }
    let service = TracedService { name: "tallyhouse-query-api", version: env!("CARGO_PKG_VERSION") };
    let traces =
        config.traces.as_ref().map(|settings| TraceExport::new(settings, service, &deps.registry)).transpose()?;
    let (tracer, trace_export) = traces.unzip();
    let (runner, privacy) = (erasures::runner(&deps), erasures::routes(&deps));
    let adhoc = adhoc(&config, &deps, &metrics);
    let fresh = Limiter::new(redis.clone());
    let store = Store::new(deps.shards.reader(), config.admission, metrics.clone());
    store.show(&pools);
    let store = if deps.shards.is_cluster() { store.of_cluster(config.partial) } else { store };
    let watches = Watches::new(&config, &deps, &store)?;
    let parts = Parts::new(PartsDeps {
        bytes: config.cache_bytes / 2,
        shared: redis.clone(),
        policy: Policy { open: config.cache_ttl },
        metrics: metrics.clone(),
        clock: Arc::clone(&deps.clock),
        random: Arc::clone(&deps.random),
    });
    let answers = Answers::new(Layers {
        memory: Memory::new(config.cache_bytes / 2),
        versions: Versions::new(redis.clone(), deps.days, Arc::clone(&deps.clock), metrics.clone()),
        shared: redis,
        policy: Policy { open: config.cache_ttl },
        metrics: metrics.clone(),
        clock: Arc::clone(&deps.clock),
        random: deps.random,
    });
    let sources = Sources {
        store: store.clone(),
        parts: parts.clone(),
        versions: answers.versions.clone(),
        look_up: config.look_up,
    };
    let cache = Cache { answers: answers.clone(), parts: parts.clone() };
    let runner = runner.map(|runner| runner(cache.clone()));
    let watch = Watch { health: deps.health.clone(), store: store.clone(), cache: cache.clone() };
    let registry = MetricRegistry::new(deps.control.clone());
    let catalogue = deps.catalogue.clone();
    let coverage = Coverage::new(store.clone(), config.look_up);
    let event_types = EventTypes::new(store.clone(), config.look_up, Arc::clone(&deps.clock));
    deps.control.report_to(&deps.health);
    let access = AccessMetrics::register(&deps.registry)?;
    let tokens = config.tokens.map(|settings| Tokens::new(settings, access.clone())).transpose()?;
    let limit_metrics = RateLimitMetrics::register(&deps.registry)?;
    let limits = RateLimits::new("query", config.rate_limits, config.redis_url.as_ref(), limit_metrics)?;
    if let Some(pool) = limits.redis() {
        pools.watch("redis_rate_limits", move || pool.status());
    }
    let warm_control = deps.control.clone();
    let gate = Gate { listener: "query", control: deps.control, tokens, metrics: access, limits: limits.clone() };
    let app = Arc::new(App {
        catalogue: deps.catalogue,
        answers,
        sources: Arc::new(sources),
        event_types,
        coverage,
        fresh,
        registry: registry.clone(),
        clock: deps.clock,
    });
    let warm_start = WarmStart { app: Arc::clone(&app), control: warm_control, health: deps.health.clone() };
    let live = Live { hub: Hub::new(config.streams, metrics.clone()), shutdown: stop.token() };
    deps.health.starting(CLICKHOUSE, Status::Down, "not asked yet");
    let admin = Admin { registry: deps.registry, health: deps.health.clone() }.router();
    let admin = config.admin_guard.protect(admin.merge(crate::http::admin::router(cache.clone())));
    let stopped = CancellationToken::new();
    let public = async {
        let server = Server {
            what: "query",
            listener: listeners.public,
            router: router(
                crate::http::HttpState { app, adhoc, live, metrics },
                privacy,
                config.origins,
                gate,
                Observer::new(requests).traced_by(tracer),
            ),
            limits: config.connections,
            metrics: server_metrics.of("query"),
            tls: tls.as_ref().map(Tls::public),
        };
        server.serve(stop.clone(), config.drain).await;
        stopped.cancel();
    };
    let drain = async {
        stop.announced().await;
        deps.health.begin_drain();
    };
    // The admin port outlives the public one: a drain can be watched.
    let admin = Server {
        what: "query admin",
        listener: listeners.admin,
        router: admin,
        limits: ConnectionLimits::ADMIN,
        metrics: ListenerMetrics::NONE,
        tls: tls.as_ref().map(Tls::admin),
    };
    let admin = admin.serve(stopped.clone().into(), Duration::from_secs(1));
    let traced = async {
        if let Some(export) = trace_export {
            export.run(stopped.clone()).await;
        }
    };
    tokio::join!(
        public,
        admin,
        traced,
        watches.run(stopped.clone()),
        drain,
        watch.until(stopped.clone()),
        cache.keep(config.cache_warm, stopped.clone()),
        async {
            if config.cache_warm {
                warm_start.keep(stopped.clone()).await;
            }
        },
        registry.keep(stopped.clone()),
        catalogue.keep(stopped.clone()),
        limits.tend(&deps.health, stopped.clone()),
        erasures::work(runner, stopped.clone())
    );
    Ok(())
}

fn adhoc(config: &Config, deps: &Deps, metrics: &Metrics) -> Adhoc {
    Adhoc {
        refused: RefusedStatements::default(),
        analyst: deps.analyst.as_ref().map(|analyst| Analyst::new(analyst, deps.shards.is_cluster())),
        reader: deps.shards.reader(),
        exports: SendPermits::of_exports(config.export_concurrency),
        answers: SendPermits::of_statements(config.admission.ad_hoc.concurrency),
        export_limits: Limits { max_bytes: config.export_max_bytes, stall: config.export_stall },
        metrics: metrics.clone(),
    }
}

/// What looks at the whole from time to time, where it is switched on.
struct Watches {
    canary: Option<Canary>,
    drift: Option<DriftWatch>,
}

impl Watches {
    fn new(config: &Config, deps: &Deps, store: &Store) -> Result<Self, RunError> {
        let canary = match &config.canary {
            Some(settings) => Some(Canary::new(settings, store.clone(), CanaryMetrics::register(&deps.registry)?)?),
            None => None,
        };
        let drift = match config.drift_check {
            Some(every) => {
                let metrics = DriftMetrics::register(&deps.registry)?;
                let settings = DriftSettings { every, pause: PAUSE };
                let (shards, control) = (deps.shards.clone(), deps.control.clone());
                Some(DriftWatch::new(store.clone(), shards, control, settings, metrics))
            }
            None => None,
        };
        Ok(Self { canary, drift })
    }

    async fn run(self, stopped: CancellationToken) {
        let canary = async {
            if let Some(canary) = self.canary {
                canary.run(stopped.clone()).await;
            }
        };
        let drift = async {
            if let Some(drift) = self.drift {
                drift.run(stopped.clone()).await;
            }
        };
        tokio::join!(canary, drift);
    }
}

const CLICKHOUSE: &str = "clickhouse";
const BREAKER: &str = "clickhouse_breaker";
const REDIS: &str = "redis";

/// Looks at the dependencies from time to time.
struct Watch {
    health: Health,
    store: Store,
    cache: Cache,
}

impl Watch {
    async fn until(self, stopped: CancellationToken) {
        let mut was_up = false;
        loop {
            was_up |= self.look(was_up).await;
            tokio::select! {
                () = stopped.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Whether ClickHouse is there. Once it was, its absence does not make the service unready: remembered answers are
    /// still given, and every instance would be taken out at once.
    async fn look(&self, was_up: bool) -> bool {
        let Cache { answers, parts } = &self.cache;
        answers.metrics.cache_holds(answers.memory.bytes());
        answers.metrics.cache.parts_hold(parts.bytes());
        if let Some(locks) = &answers.locks {
            let is_there = locks.shared.ping().await;
            let (status, detail) =
                if is_there { (Status::Up, "") } else { (Status::Degraded, "does not answer; going without") };
            self.health.set(REDIS, status, detail);
            let memory = if is_there { locks.shared.memory().await } else { None };
            answers.metrics.cache.redis_memory(memory);
        }
        let (status, detail) = match self.store.breaker() {
            BreakerState::Closed => (Status::Up, "closed"),
            BreakerState::HalfOpen => (Status::Degraded, "half-open: one query at a time is tried"),
            BreakerState::Open => (Status::Degraded, "open: too many queries failed, so none is sent for a while"),
        };
        self.health.set(BREAKER, status, detail);
        match self.store.ping(PING_TIMEOUT).await {
            Ok(()) => {
                self.health.set(CLICKHOUSE, Status::Up, "");
                true
            }
            Err(error) => {
                let status = if was_up { Status::Degraded } else { Status::Down };
                self.health.set(CLICKHOUSE, status, format!("does not answer: {error}"));
                false
            }
        }
    }
}
