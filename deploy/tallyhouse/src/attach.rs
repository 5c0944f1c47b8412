//! Connects a command to ClickHouse: the given one, else the embedded one, which may be running already.

use std::time::Duration;

use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::{Connection, Shards};
use tokio::time::Instant;

use crate::accounts::keeper::Keeper;
use crate::config::Config;
use crate::data_folder::{DataFolder, DataFolderError, Part};
use crate::engine::{self, Engine, EngineOptions};
use crate::telemetry::Metrics;
use crate::up::{self, UpError};

/// How long a running one may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long the process that has the folder is waited for: it may be starting its ClickHouse, or starting it again with other accounts.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// How long one that was started for a command may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A ClickHouse to work on.
#[derive(Debug)]
pub struct Attached {
    /// The user that writes; of a cluster, on its first shard.
    pub writer: Connection,
    /// The user that reads; of a cluster, on its first shard.
    pub reader: Connection,
    /// The user that writes, on every shard.
    pub shards: Shards,
    /// The embedded one, when it had to be started.
    pub engine: Option<Engine>,
    /// Of the engine; it goes after it.
    data: Option<DataFolder>,
}

/// Finds it: `CLICKHOUSE_URL`; else the embedded one of a running `tallyhouse up`; else that is started, where there is one.
pub async fn attach(config: &Config, env: &dyn Env) -> Result<Attached, UpError> {
    if config.engine.is_some() && !config.data.exists() {
        let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
        return Err(UpError::NothingThere(data));
    }
    attach_or_make(config, env).await
}

/// The same; what is not there is made.
pub async fn attach_or_make(config: &Config, env: &dyn Env) -> Result<Attached, UpError> {
    let Some(embedded) = &config.engine else {
        // `CLICKHOUSE_PASSWORD` is that of one user, who reads as well.
        let shards = tallyhouse_ingest::config::shards(env)?;
        let writer = shards.home().clone();
        return Ok(Attached { reader: writer.clone(), writer, shards, engine: None, data: None });
    };
    let mut options = up::engine_options(config, embedded, Metrics::register(&Registry::new())?)?;
    let user = |port: u16, name: &str, password: &str| Connection {
        url: format!("http://127.0.0.1:{port}"),
        user: name.to_owned(),
        password: password.to_owned(),
        tls: None,
    };
    let writer_on = |port| user(port, "writer", options.credentials.writer.expose());
    let deadline = Instant::now() + UP_WITHIN;
    let data = loop {
        // `up` may have been told another port than this command.
        for port in [Some(options.http_port), engine::last_http_port(&config.data)].into_iter().flatten() {
            let writer = writer_on(port);
            if answers(&writer).await {
                let reader = user(port, "reader", options.credentials.reader.expose());
                return Ok(Attached { shards: writer.clone().into(), writer, reader, engine: None, data: None });
            }
        }
        match DataFolder::open(&config.data, &[Part::Engine]).await {
            Err(DataFolderError::InUse { .. }) if Instant::now() < deadline => {}
            opened => break opened?,
        }
    };
    let writer = writer_on(options.http_port);
    options.accounts = Keeper::open(&config.data, &writer).accounts();
    run(options, data).await
}

/// Starts the embedded one on a data folder that is held already: it holds it until [`Attached::detach`].
pub async fn start(config: &Config, data: DataFolder) -> Result<Attached, UpError> {
    let Some(embedded) = &config.engine else {
        return Err(ConfigError::new("CLICKHOUSE_URL", "must not be set: this is about the embedded ClickHouse").into());
    };
    let options = up::engine_options(config, embedded, Metrics::register(&Registry::new())?)?;
    run(options, data).await
}

async fn run(options: EngineOptions, data: DataFolder) -> Result<Attached, UpError> {
    let engine = Engine::start(options).await?;
    let (writer, reader) = (engine.writer(), engine.reader());
    Ok(Attached { shards: writer.clone().into(), writer, reader, engine: Some(engine), data: Some(data) })
}

impl Attached {
    /// Stops what was started.
    pub async fn detach(self) {
        if let Some(engine) = self.engine {
            engine.stop(STOP_WITHIN).await;
        }
        drop(self.data);
    }
}

/// Whether our own ClickHouse is there: another one on that port does not know the password.
async fn answers(writer: &Connection) -> bool {
    let client = writer.client();
    let answer = client.query("SELECT toUInt8(1)").fetch_one::<u8>();
    matches!(tokio::time::timeout(ANSWER_WITHIN, answer).await, Ok(Ok(1)))
}
