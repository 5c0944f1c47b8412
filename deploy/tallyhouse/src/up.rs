//! `tallyhouse up`: everything, in the order of starting, and backwards.
//!
//! ```text
//! listen -+-> ClickHouse's process -> it answers -> migrations -> events are stored, questions are answered
//!         +-> ingest reads its log -> events are taken …
//! signal -> not ready -> drain both -> stop ClickHouse
//! ```
//!
//! A ClickHouse that somebody froze (SIGSTOP) is let go on when the drain begins: it takes the last batch, and ends as told. What it may take to end is what
//! the drain left, and a moment.
//!
//! Events are accepted again as soon as the log is read, whatever ClickHouse does; only the first start of a data folder waits for it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::schemas::Seeds;
use tallyhouse_control::{Control, LiveCatalogue};
use tallyhouse_ingest::direct::checkpoint::LocalStore;
use tallyhouse_ingest::{Deps as IngestDeps, Ingest};
use tallyhouse_query_api as query_api;
use tallyhouse_service::admin::Admin;
use tallyhouse_service::config::{open_tls, own_listener};
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::lifecycle::{self, BindError, Stop};
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::server::telemetry::ListenerMetrics;
use tallyhouse_service::server::{Limits, Server};
use tallyhouse_service::tls::Tls;
use tallyhouse_sql::{Connection, Shards};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accounts::keeper::Keeper;
use crate::config::{self, Config, EngineConfig};
use crate::credentials::{Credentials, CredentialsError};
use crate::data_folder::{DataFolder, DataFolderError, Part};
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::first_start::first_start;
use crate::servers::Servers;
use crate::tables::{self, TablesError};
use crate::telemetry::Metrics;

/// How long ClickHouse may take to start: it loads every part of every table.
const START_WITHIN: Duration = Duration::from_secs(120);

/// How long ClickHouse may answer nobody. Many times what it ever took under load: a restart costs seconds, and loads all parts again.
const HUNG_AFTER: Duration = Duration::from_secs(60);

/// Between two attempts to prepare the tables of a ClickHouse that does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long it may take to stop; SIGTERM ends it in less than a second.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why it is not up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataFolderError),
    /// A command in the wrong folder, which would make an installation of its own there.
    #[error("there is no Tallyhouse in {}: `tallyhouse up` makes one; for another folder set TALLYHOUSE_DATA, for a running service TALLYHOUSE_URL", .0.display())]
    NothingThere(PathBuf),
    /// A port of the services.
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error("ingest: {0}")]
    Ingest(#[from] tallyhouse_ingest::RunError),
    #[error("query-api: {0}")]
    Query(#[from] query_api::RunError),
    /// A fault of ours.
    #[error("a task ended by itself: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// Two metrics of one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The addresses of both services, by their variables.
pub fn addresses(env: &dyn Env) -> Result<[(&'static str, String); 4], ConfigError> {
    let (ingest, query) = (tallyhouse_ingest::config::Config::from_env(env)?, query_api::Config::from_env(env)?);
    Ok([
        ("INGEST_ADDR", ingest.address.to_string()),
        ("INGEST_ADMIN_ADDR", ingest.admin_address.to_string()),
        ("QUERY_ADDR", query.address.to_string()),
        ("QUERY_ADMIN_ADDR", query.admin_address.to_string()),
    ])
}

/// How long all of a stop may take: both services at once, then ClickHouse.
pub fn stop_budget(env: &dyn Env) -> Result<Duration, ConfigError> {
    Ok(drain(env)? + STOP_WITHIN)
}

/// How long both services may take.
fn drain(env: &dyn Env) -> Result<Duration, ConfigError> {
    let ingest = tallyhouse_ingest::config::Config::from_env(env)?.drain;
    Ok(ingest.max(query_api::Config::from_env(env)?.drain))
}

/// The ClickHouse that everything works with.
struct Store {
    engine: Option<Engine>,
    /// Of the engine.
    accounts: Option<Keeper>,
    /// Whose tables are prepared.
    servers: Servers,
    writer: Shards,
    reader: Shards,
    analyst: Option<Connection>,
    user_hash_key: [u8; 16],
    /// Of the embedded one.
    local: Option<LocalStore>,
}

/// How far the tables are.
#[derive(Debug, Clone, Default)]
struct Prepared {
    /// They are ready.
    is_done: CancellationToken,
    /// They are, or cannot be yet.
    is_tried: CancellationToken,
}

/// Starts everything, runs until `stop`, and stops everything.
pub async fn up(config: Config, env: &dyn Env, stop: Stop) -> Result<(), UpError> {
    let parts: &[Part] = if config.engine.is_some() { &[Part::Engine, Part::Services] } else { &[Part::Services] };
    // Until everything has ended.
    let _data = DataFolder::open(&config.data, parts).await?;
    let drain = drain(env)?;
    let services = Services::configure(&config, env).await?;
    let store = tokio::select! {
        store = Store::open(&config, env, &services.registry) => store?,
        () = stop.stopped() => return Ok(()),
    };
    let tables = Prepared::default();
    let health = services.health.clone();
    if let Some(engine) = &store.engine {
        health.set("cage", engine.cage().status(), engine.cage().to_string());
    }
    let canary = match &services.query.canary {
        Some(canary) => Some(canary.key.clone()),
        // A query API of its own may send one.
        None => tallyhouse_control::config::canary_key(env)?,
    };
    let writer = (Some(store.writer.home()), canary.as_ref());
    let control = tallyhouse_control::config::open_with(env, "up", store.reader.home(), writer)?;
    let mut running = Box::pin(services.run(&store, control.clone(), tables.clone(), stop.clone()));
    let serve = async {
        tokio::select! {
            served = &mut running => {
                stop.stop();
                served
            }
            error = keep_ready(&store, &config, &control, &health, &tables) => {
                // Events may have been taken: they are in the log, and whoever waits is answered.
                stop.stop();
                running.as_mut().await.and(Err(error))
            }
        }
    };
    let begin_drain = async {
        stop.stopped().await;
        if let Some(engine) = &store.engine {
            engine.thaw();
        }
        Instant::now()
    };
    let (served, drain_began) = tokio::join!(serve, begin_drain);
    drop(running);
    if let Some(engine) = store.engine {
        engine.stop(lifecycle::left(drain_began + drain).min(STOP_WITHIN)).await;
    }
    served
}

/// Waits for ClickHouse, prepares the tables, and keeps them open for inserts. Returns only what cannot be mended by waiting.
async fn keep_ready(store: &Store, config: &Config, control: &Control, health: &Health, tables: &Prepared) -> UpError {
    if let Some(engine) = &store.engine
        && let Err(error) = engine.ready().await
    {
        return error.into();
    }
    loop {
        let error = match store.servers.prepare(config.tables).await {
            Ok(away) => match away.into_iter().find(|away| away.is_home) {
                Some(home) => home.error,
                None => break,
            },
            Err(error) if error.is_passing() => error,
            Err(error) => return error.into(),
        };
        tracing::warn!(%error, "the tables cannot be prepared yet; trying again");
        tables.is_tried.cancel();
        health.set(
            "tables",
            Status::Degraded,
            "cannot be prepared yet, see the log: events wait in the log, and nothing is answered",
        );
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    health.set("tables", Status::Up, "");
    tables.is_done.cancel();
    tables.is_tried.cancel();
    let kept = async {
        match (&store.accounts, &store.engine) {
            (Some(accounts), Some(engine)) => accounts.keep(engine).await,
            _ => std::future::pending().await,
        }
    };
    let first_start = async {
        first_start(control, config).await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        never = tables::keep_open_everywhere(&store.writer) => match never {},
        never = kept => match never {},
        never = first_start => match never {},
    }
}

impl Store {
    async fn open(config: &Config, env: &dyn Env, registry: &Registry) -> Result<Self, UpError> {
        let Some(embedded) = &config.engine else {
            let writer = tallyhouse_ingest::config::shards(env)?;
            return Ok(Self {
                servers: Servers::given(writer.clone(), env)?,
                engine: None,
                accounts: None,
                writer,
                reader: query_api::config::shards(env)?,
                analyst: query_api::config::analyst(env)?,
                user_hash_key: tallyhouse_ingest::config::user_hash_key(env)?,
                local: None,
            });
        };
        let mut options = engine_options(config, embedded, Metrics::register(registry)?)?;
        let user_hash_key = tallyhouse_ingest::config::parse_key(options.credentials.user_hash_key.expose())
            .ok_or_else(|| ConfigError::new("USER_HASH_KEY", "in `credentials` is not 32 hexadecimal digits"))?;
        // Also where inserts are synced as they come: they were not always.
        let folders = ["clickhouse", "clickhouse-warm", "clickhouse-cold"].map(|name| config.data.join(name));
        let local = LocalStore::of(folders.to_vec());
        let accounts = Keeper::open(&config.data, &options.writer());
        options.accounts = accounts.accounts();
        let engine = Engine::spawn(options).await?;
        Ok(Self {
            servers: Servers::embedded(engine.writer()),
            writer: engine.writer().into(),
            reader: engine.reader().into(),
            analyst: Some(engine.analyst()),
            engine: Some(engine),
            accounts: Some(accounts),
            user_hash_key,
            local: Some(local),
        })
    }
}

/// What the embedded ClickHouse is started with.
pub fn engine_options(config: &Config, engine: &EngineConfig, metrics: Metrics) -> Result<EngineOptions, UpError> {
    let credentials = if config.is_development {
        Credentials::for_development(&config.data)?
    } else {
        Credentials::load_or_create(&config.data)?
    };
    Ok(EngineOptions {
        data: config.data.clone(),
        backups: config::backup_dir(config),
        listen: engine.listen,
        client_networks: engine.client_networks.clone(),
        http_port: engine.http_port,
        tcp_port: engine.tcp_port,
        program: engine.program().map_err(EngineError::from)?,
        cage: engine.cage,
        credentials,
        grafana_projects: engine.grafana_projects.clone(),
        accounts: Vec::new(),
        cluster: None,
        analyst_statements: engine.analyst_statements,
        executable: std::env::current_exe().map_err(EngineError::Spawn)?,
        start_within: START_WITHIN,
        hung_after: HUNG_AFTER,
        metrics,
    })
}

/// Where this process takes events, for itself.
fn own_url(ingest: &tallyhouse_ingest::config::Config) -> String {
    let mut address = ingest.address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    let scheme = if ingest.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// Both services, configured and listening, so that a taken port is told before ClickHouse is started.
struct Services {
    ingest: tallyhouse_ingest::config::Config,
    query: query_api::Config,
    ingest_listeners: [TcpListener; 2],
    query_listeners: query_api::Listeners,
    seeds: Seeds,
    registry: Registry,
    /// Of the ingester; the query API has its own.
    health: Health,
    /// Of the ingester's listeners; the query API opens its own, of the same files.
    tls: Option<Tls>,
}

impl Services {
    async fn configure(config: &Config, env: &dyn Env) -> Result<Self, UpError> {
        let ingest = tallyhouse_ingest::config::Config::from_env(env)?;
        let mut query = query_api::Config::from_env(env)?;
        if query.canary.is_none() {
            query.canary = query_api::config::own_canary(env, own_url(&ingest), own_listener(env)?)?;
        }
        config::ports_apart(config, &ingest, &query)?;
        let (registry, health) = (Registry::new(), Health::default());
        Ok(Self {
            tls: open_tls(ingest.tls.as_ref(), &registry, &health)?,
            ingest_listeners: [
                lifecycle::bind("INGEST_ADDR", ingest.address).await?,
                lifecycle::bind("INGEST_ADMIN_ADDR", ingest.admin_address).await?,
            ],
            query_listeners: query_api::Listeners {
                public: lifecycle::bind("QUERY_ADDR", query.address).await?,
                admin: lifecycle::bind("QUERY_ADMIN_ADDR", query.admin_address).await?,
            },
            seeds: Seeds::from_env(env)?,
            ingest,
            query,
            registry,
            health,
        })
    }

    /// Runs both until `stop`; when one of them fails, the other is stopped too.
    async fn run(self, store: &Store, control: Control, tables: Prepared, stop: Stop) -> Result<(), UpError> {
        let Self { ingest, query, ingest_listeners: [public, admin], query_listeners, seeds, registry, health, tls } =
            self;
        let days = DayVersions::default();
        let catalogue = LiveCatalogue::new(control.clone(), seeds);
        let query_deps = query_api::Deps {
            days: Some(days.clone()),
            writer: Some(store.writer.home().clone()),
            analyst: store.analyst.clone(),
            user_hash_key: Some(InstallationKey::new(store.user_hash_key)),
            ..query_api::Deps::new(store.reader.clone(), control.clone(), catalogue.clone())
        };
        let admin_pages = Admin { registry, health };
        let ingest_deps = IngestDeps {
            shards: store.writer.clone(),
            control: control.clone(),
            catalogue,
            user_hash_key: InstallationKey::new(store.user_hash_key),
            admin: admin_pages.clone(),
            days,
            tables_ready: tables.is_done.clone(),
            local_store: store.local.clone(),
            tls: tls.clone(),
        };
        let drain = ingest.drain;

        // Before the admin port answers, which is ready where nothing is said.
        admin_pages.health.starting("ingest", Status::Down, "starting");
        let admin_stop = Stop::default();
        let health = admin_pages.health.clone();
        // The admin port outlives the public one: a drain can be watched.
        let admin = Server {
            what: "ingest admin",
            listener: admin,
            router: ingest.admin_guard.clone().protect(admin_pages.router()),
            limits: Limits::ADMIN,
            metrics: ListenerMetrics::NONE,
            tls: tls.as_ref().map(Tls::admin),
        };
        let admin = admin.serve(admin_stop.clone(), drain);
        let ingest = async {
            // It reads the log: ClickHouse starts meanwhile.
            let opened = tokio::task::spawn_blocking(move || Ingest::new(ingest, ingest_deps)).await;
            let ended = match opened {
                Ok(Ok(ingest)) => ingest.run(Some(public), stop.clone()).await.map_err(UpError::from),
                Ok(Err(error)) => Err(error.into()),
                Err(error) => Err(error.into()),
            };
            stop.stop();
            admin_stop.stop();
            ended
        };
        let query = async {
            // Before they are migrated, tables may be missing or of another version. While ClickHouse is away, keys and stale answers are still good.
            if stop.token().run_until_cancelled(tables.is_tried.cancelled()).await.is_none() {
                return Ok(());
            }
            let ended = Box::pin(query_api::run(query, query_deps, query_listeners, stop.clone())).await;
            stop.stop();
            ended
        };
        let unready = async {
            stop.announced().await;
            health.begin_drain();
        };
        let served = CancellationToken::new();
        let services = async {
            let ended = tokio::join!(ingest, query, admin, unready);
            served.cancel();
            ended
        };
        let ((ingest, query, (), ()), ()) = tokio::join!(services, control.run(served.clone()));
        ingest?;
        Ok(query?)
    }
}
