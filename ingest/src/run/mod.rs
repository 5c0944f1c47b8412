//! Assembles the write path, starts it and stops it.

mod assemble;
mod stress;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tallyhouse_control::access::Gate;
use tallyhouse_control::privacy::feed;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::privacy::suppressions::Suppressions;
use tallyhouse_control::{Control, LiveCatalogue};
use tallyhouse_service::access::telemetry::AccessMetrics;
use tallyhouse_service::access::tokens::{TokenSetupError, Tokens};
use tallyhouse_service::admin::Admin;
use tallyhouse_service::changed_days;
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::env::ConfigError;
use tallyhouse_service::health::Status;
use tallyhouse_service::lifecycle::{self, Stop};
use tallyhouse_service::metrics::http::HttpMetrics;
use tallyhouse_service::metrics::pools::Pools;
use tallyhouse_service::metrics::{Common, disk};
use tallyhouse_service::observe::Observer;
use tallyhouse_service::rate_limit::{RateLimitMetrics, RateLimits};
use tallyhouse_service::redis::Pool;
use tallyhouse_service::server::{Limits, Server, telemetry::ServerMetrics};
use tallyhouse_service::tls::{ListenerTls, Tls};
use tallyhouse_service::trace_export::{self, TraceExport, TraceSetupError, TracedService};
use tallyhouse_sql::Shards;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admit::{Budget, Threads};
use crate::agent::Agents;
use crate::cardinality::CardinalityLimiter;
use crate::changed_days::Publisher;
use crate::clickhouse_vitals;
use crate::config::Config;
use crate::dead_letters::{DeadLetterWriter, Queue, Sink};
use crate::dependencies::{watch_clickhouse, watch_dead_letters};
use crate::direct::checkpoint::LocalStore;
use crate::direct::{Direct, StartError};
use crate::http;
use crate::kafka::config::Role;
use crate::kafka::fallback::FallbackError;
use crate::kafka::run::{Kafka, KafkaRunError};
use crate::pipeline::Pipeline;
use crate::poison::repair;
use crate::projects::LiveProjects;
use crate::shard_writers::{ShardLimits, ShardWriters};
use crate::store::Store;
use crate::suppression_acks;
use crate::telemetry::{ClickHouseMetrics, Metrics, Shown};
use crate::unclean_shutdown::ShutdownMarker;

/// What the write path depends on.
pub struct Deps {
    /// ClickHouse, as a user that may insert into `events_in` and read `events`.
    pub shards: Shards,
    /// Who may send events. Whoever makes it keeps it up to date ([`Control::run`]).
    pub control: Control,
    /// Declarations of event types. [`Ingest::run`] keeps them up to date.
    pub catalogue: LiveCatalogue,
    /// Under which people are hashed.
    pub user_hash_key: InstallationKey,
    pub admin: Admin,
    /// Versions of changed days, shared with the query cache of this process.
    pub days: DayVersions,
    /// Cancelled when the tables are as this version needs them. Events are taken before, and not stored.
    pub tables_ready: CancellationToken,
    /// A ClickHouse on this machine, which does not sync what it stores.
    pub local_store: Option<LocalStore>,
    /// Of the listeners; without it they speak plain HTTP.
    pub tls: Option<Tls>,
}

/// Why the write path could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A variable is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The gateway's log cannot be used.
    #[error("{0}")]
    Fallback(#[from] FallbackError),
    /// It could not take up what an earlier process left.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The Kafka client cannot be set up or cannot go on.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Tokens cannot be verified.
    #[error("JWKS_URL: {0}")]
    Tokens(#[from] TokenSetupError),
    /// The collector of traces cannot be spoken to.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Traces(#[from] TraceSetupError),
    /// Two metrics have one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl From<KafkaRunError> for RunError {
    fn from(error: KafkaRunError) -> Self {
        match error {
            KafkaRunError::Fallback(error) => Self::Fallback(error),
            KafkaRunError::Consumer(error) => Self::Kafka(error),
        }
    }
}

/// The write path, ready to run.
pub struct Ingest {
    /// `None` in a process that only consumes.
    pipeline: Option<Arc<Pipeline>>,
    back: Back,
    dead_letters: Arc<Queue>,
    store: Store,
    shards: ShardWriters,
    redis: Option<Pool>,
    /// Below the data folder.
    folder: PathBuf,
    gate: Gate,
    connections: Limits,
    server_metrics: ServerMetrics,
    tls: Option<ListenerTls>,
    drain: Duration,
    log_limits: crate::log::local::Limits,
    tables_ready: CancellationToken,
    suppressions: Suppressions,
    control: Control,
    user_hash_key: InstallationKey,
    observer: Observer,
    trace_export: Option<TraceExport>,
    /// Of a process that inserts.
    clickhouse: Option<(Shards, ClickHouseMetrics)>,
}

/// What stores the events.
enum Back {
    Direct(Box<Direct>),
    Kafka(Box<Kafka>),
}

impl Ingest {
    /// Puts it together. Reads the local log, but neither listens nor speaks to ClickHouse or Kafka yet.
    pub fn new(config: Config, deps: Deps) -> Result<Self, RunError> {
        let registry = &deps.admin.registry;
        let role = config.kafka.as_ref().map(|kafka| kafka.role);
        let shown = shown(role);
        let metrics = Arc::new(Metrics::register_those(registry, shown)?);
        Common { service: "ingest", version: env!("CARGO_PKG_VERSION"), health: &deps.admin.health }
            .register(registry)?;
        disk::register(registry, config.data.clone())?;
        let (pools, requests) = (Pools::register(registry)?, HttpMetrics::register(registry)?.of("ingest"));
        let clickhouse = shown.inserts.then(|| ClickHouseMetrics::register(registry));
        let clickhouse = clickhouse.transpose()?;
        let server_metrics = ServerMetrics::register(&deps.admin.registry)?;
        let access = AccessMetrics::register(&deps.admin.registry)?;
        let tokens = config.tokens.clone().map(|settings| Tokens::new(settings, access.clone())).transpose()?;
        let limit_metrics = RateLimitMetrics::register(&deps.admin.registry)?;
        let rate_limits = RateLimits::new("ingest", config.rate_limits.clone(), config.redis.as_ref(), limit_metrics);
        let rate_limits = rate_limits.map_err(|error| ConfigError::new("REDIS_URL", error.to_string()))?;
        let limits = rate_limits.clone();
        if let Some(pool) = limits.redis() {
            pools.watch("redis_rate_limits", move || pool.status());
        }
        let gate = Gate { listener: "ingest", control: deps.control.clone(), tokens, metrics: access, limits };
        let health = deps.admin.health.clone();
        health.starting("ingest", Status::Down, "starting");
        // A gateway by itself inserts nothing and changes no day; that it was killed must not invalidate a cache.
        let redis = config.redis.as_ref().filter(|_| shown.inserts);
        let service = TracedService { name: "tallyhouse-ingest", version: env!("CARGO_PKG_VERSION") };
        let traces =
            config.traces.as_ref().map(|settings| TraceExport::new(settings, service, registry)).transpose()?;
        let (tracer, trace_export) = traces.unzip();
        let store = Store {
            client: deps.shards.home().client(),
            shard: 1,
            everything: deps.shards.reader(),
            timeout: config.batch.insert_timeout,
            metrics: Arc::clone(&metrics),
            health: health.clone(),
            changed_days: Publisher::new(deps.days, redis.is_some(), Arc::clone(&metrics)),
            tracer: tracer.clone(),
        };
        let limits = ShardLimits { refused_grace: config.batch.refused_grace, inserts: config.batch.inserts };
        let shards = ShardWriters::new(&deps.shards, &store, limits);
        let redis = redis.map(|url| Pool::new(url, changed_days::CONNECTIONS)).transpose();
        let redis = redis.map_err(|error| ConfigError::new("REDIS_URL", error.to_string()))?;
        if let Some(pool) = redis.clone() {
            pools.watch("redis_changed_days", move || pool.status());
        }
        if shown.inserts {
            let shards = shards.clone();
            pools.watch("clickhouse_inserts", move || shards.permits());
        }
        let suppressions = Suppressions::awaited();
        if deps.control.is_read() {
            suppressions.replace(feed::set(&deps.control.snapshot(), &deps.user_hash_key));
        }
        let cardinality = Arc::new(CardinalityLimiter::default());
        let dead_letters = Arc::new(Queue::new(metrics.dead_letters_dropped.clone()));
        let (delivery, back) = match &config.kafka {
            None => assemble::local(
                &config,
                (store.clone(), shards.clone()),
                Arc::clone(&cardinality),
                deps.tables_ready.clone(),
                deps.local_store,
                suppressions.clone(),
            )?,
            Some(given) => {
                let tables_ready = deps.tables_ready.clone();
                let (cardinality, suppressions) = (Arc::clone(&cardinality), suppressions.clone());
                assemble::kafka(
                    &config,
                    given,
                    (store.clone(), shards.clone()),
                    cardinality,
                    tables_ready,
                    suppressions,
                )?
            }
        };
        let (connections, drain, folder) = (config.connections, config.drain, config.data.join("ingest"));
        let pipeline = delivery.map(|delivery| {
            gate.control.report_to(&health);
            Arc::new(Pipeline {
                catalogue: deps.catalogue,
                agents: Agents::default(),
                budget: Budget::new(&config.request),
                threads: Threads::of_machine(),
                delivery,
                cardinality,
                dead_letters: Arc::clone(&dead_letters) as Arc<dyn Sink>,
                metrics,
                health,
                limits: config.request,
                projects: LiveProjects::new(config.projects, deps.control.clone(), deps.user_hash_key.clone()),
                rate_limits,
            })
        });
        let tables_ready = deps.tables_ready;
        Ok(Self {
            pipeline,
            back,
            dead_letters,
            store,
            shards,
            redis,
            folder,
            gate,
            connections,
            server_metrics,
            tls: deps.tls.as_ref().map(Tls::public),
            drain,
            log_limits: config.log,
            tables_ready,
            suppressions,
            control: deps.control,
            user_hash_key: deps.user_hash_key,
            observer: Observer::new(requests).traced_by(tracer),
            trace_export,
            clickhouse: clickhouse.map(|metrics| (deps.shards, metrics)),
        })
    }

    /// Whose events it does not store.
    pub fn suppressions(&self) -> Suppressions {
        self.suppressions.clone()
    }

    /// Whether this process takes events, so that [`Ingest::run`] wants a listener.
    pub fn takes_events(&self) -> bool {
        self.pipeline.is_some()
    }

    /// Serves until `stop`, then drains: what was taken is stored and answered, within the budget of the configuration.
    ///
    /// Requests that come before it is ready are answered 503. Without a listener it only consumes.
    pub async fn run(self, listener: Option<TcpListener>, stop: impl Into<Stop>) -> Result<(), RunError> {
        let Self {
            pipeline,
            back,
            dead_letters,
            store,
            shards,
            redis,
            folder,
            gate,
            connections: limits,
            server_metrics,
            tls,
            drain,
            log_limits,
            tables_ready,
            suppressions,
            control,
            user_hash_key,
            observer,
            trace_export,
            clickhouse,
        } = self;
        let stopping: Stop = stop.into();
        let stop = stopping.token();
        let (mut publishing, all_stored) = (JoinSet::new(), CancellationToken::new());
        if let Some(pool) = redis {
            // Before the first insert.
            let marker = ShutdownMarker::place(&folder);
            let health = store.health.clone();
            publishing.spawn(store.changed_days.clone().send(pool, marker, health, all_stored.clone()));
        }
        let mut dead_letter_writer = JoinSet::new();
        let carry = DeadLetterWriter { queue: Arc::clone(&dead_letters), client: store.client.clone() }.run();
        let ready = tables_ready.clone();
        let ending = stop.clone();
        dead_letter_writer.spawn(async move {
            // At the end it is tried, whoever is ready.
            ending.run_until_cancelled(ready.cancelled()).await;
            carry.await;
        });
        let inserts = match &back {
            Back::Direct(_) => true,
            Back::Kafka(kafka) => kafka.consumer.is_some(),
        };
        let (mut telling, mut beside) = (JoinSet::new(), JoinSet::new());
        if inserts {
            beside.spawn(feed::follow(control, user_hash_key, suppressions.clone(), CancellationToken::new()));
            let (client, ready, ended) = (store.client.clone(), tables_ready.clone(), all_stored.clone());
            let folder = folder.clone();
            telling.spawn(async move {
                if ended.run_until_cancelled(ready.cancelled()).await.is_some() {
                    suppression_acks::tell(client, folder, suppressions, ended).await;
                }
            });
        }
        if let Some((shards, metrics)) = clickhouse {
            let ready = tables_ready.clone();
            beside.spawn(async move {
                ready.cancelled().await;
                clickhouse_vitals::watch(shards, metrics).await;
            });
        }
        beside.spawn(watch_dead_letters(Arc::clone(&store.metrics), store.health.clone()));
        if inserts {
            for shard in shards.iter() {
                let store = shard.writer.store.clone();
                beside.spawn(watch_clickhouse(store.client.clone(), store.health.clone(), store.shard));
                let ready = tables_ready.clone();
                beside.spawn(async move {
                    ready.cancelled().await;
                    repair::run(store).await;
                });
            }
        }
        let traced = trace_export.map(|export| {
            let ended = CancellationToken::new();
            (ended.clone(), tokio::spawn(export.run(ended)))
        });
        let back = async {
            let ended = match back {
                Back::Direct(direct) => direct.run(stop.clone()).await.map_err(RunError::from),
                Back::Kafka(kafka) => kafka.run(stop.clone()).await.map_err(RunError::from),
            };
            stop.cancel();
            ended
        };
        let serve = async {
            let (Some(pipeline), Some(listener)) = (pipeline, listener) else { return };
            let gauges = tokio::spawn(report_gauges(Arc::clone(&pipeline)));
            let tight = tokio::spawn(stress::watch(Arc::clone(&pipeline), folder, log_limits));
            let (limits_of, told) = (pipeline.rate_limits.clone(), pipeline.health.clone());
            let ended = all_stored.clone();
            telling.spawn(async move { limits_of.tend(&told, ended).await });
            let catalogue = pipeline.catalogue.clone();
            let following = tokio::spawn(async move { catalogue.keep(CancellationToken::new()).await });
            let followed = Arc::clone(&pipeline);
            let settings = tokio::spawn(async move { followed.projects.follow().await });
            let router = http::router(Arc::clone(&pipeline), gate, observer);
            let metrics = server_metrics.of("ingest");
            let server = Server { what: "ingest", listener, router, limits, metrics, tls };
            server.serve(stopping, drain).await;
            gauges.abort();
            tight.abort();
            following.abort();
            settings.abort();
        };
        let deadline = async {
            stop.cancelled().await;
            Instant::now() + drain
        };
        let ((), ended, deadline) = tokio::join!(serve, back, deadline);
        // A rebuild that is dropped is taken up again: its days are still in the table.
        beside.shutdown().await;
        // Only now: days change until the last batch is stored. This ends by itself: pending days are bounded, each chunk has a deadline, and
        // the first that Redis does not take is the last.
        all_stored.cancel();
        while publishing.join_next().await.is_some() {}
        dead_letters.close();
        let left = lifecycle::left(deadline);
        let told = async { while telling.join_next().await.is_some() {} };
        let last = async { while dead_letter_writer.join_next().await.is_some() {} };
        tokio::join!(
            lifecycle::drain("rate limits and suppressions", left, told),
            lifecycle::drain("dead letters", left, last)
        );
        if let Some((ended, exporting)) = traced {
            ended.cancel();
            lifecycle::drain("traces", trace_export::STOP_WITHIN, async { drop(exporting.await) }).await;
        }
        ended
    }
}

/// Which metrics tell something of a process with this role; `None`: without Kafka.
fn shown(role: Option<Role>) -> Shown {
    let (gateway, consumer) = (role.is_some_and(Role::has_gateway), role.is_some_and(Role::has_consumer));
    let direct = role.is_none();
    Shown { log: direct || gateway, inserts: direct || consumer, direct, gateway, consumer }
}

async fn report_gauges(pipeline: Arc<Pipeline>) {
    loop {
        pipeline.metrics.dimension_values(pipeline.cardinality.entries());
        pipeline.metrics.open_bytes(pipeline.budget.reserved());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
