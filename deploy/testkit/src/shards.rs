//! Several engines as the shards of a cluster: joined by `remote_servers`, as servers of several machines are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tallyhouse::engine::{Account, Engine, EngineCluster, EngineOptions};
use tallyhouse::servers::Servers;
use tallyhouse::tables::TableSettings;
use tallyhouse_loadtest::process;
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::shards::{Login, Shards};
use tallyhouse_sql::{Connection, shards};
use tokio::sync::OnceCell;

use crate::analysts;
use crate::clickhouse::options;
use crate::folder::{Janitor, new_folder};
use crate::ports::free_ports;

/// The name of every cluster of tests, as `CLICKHOUSE_CLUSTER` has it.
pub const CLUSTER: &str = "main";

/// Projects that have a user for `POST /v1/sql` on every cluster of tests.
pub const ANALYSTS: [&str; 2] = ["with-analyst-a", "with-analyst-b"];

/// Engines of one cluster. All have their tables, unless it was made without.
pub struct ShardEngines {
    /// `None`: it is away.
    engines: Vec<Option<Engine>>,
    options: Vec<EngineOptions>,
    /// Of shards that are not there yet.
    spare: Vec<u16>,
    folder: PathBuf,
    _janitor: Janitor,
}

impl ShardEngines {
    /// So many, at most four, without tables.
    pub async fn start(count: usize) -> Self {
        Self::start_for(count, &[]).await
    }

    /// The same, with accounts of people's tools.
    async fn start_for(count: usize, accounts: &[Account]) -> Self {
        let folder = new_folder();
        let janitor = Janitor::of(&folder);
        let ports: [u16; 4] = free_ports();
        let mut this =
            Self { engines: Vec::new(), options: Vec::new(), spare: ports.to_vec(), folder, _janitor: janitor };
        for _ in 0..count {
            this.list_another();
        }
        this.options.iter_mut().for_each(|options| options.accounts = accounts.to_vec());
        for number in 1..=count {
            this.bring_back(number).await;
        }
        this
    }

    /// Lists one more in `remote_servers`, at the end.
    fn list_another(&mut self) {
        let mut ports: Vec<_> = self.options.iter().filter_map(|options| options.tcp_port).collect();
        ports.push(self.spare.remove(0));
        let folder = self.folder.join(format!("shard-{}", ports.len()));
        self.options.push(EngineOptions { tcp_port: ports.last().copied(), ..options(&folder) });
        self.engines.push(None);
        let cluster = EngineCluster {
            name: CLUSTER.to_owned(),
            secret: Secret::new("between shards"),
            ports,
            profiles: analysts::profile(),
            users: analysts::users(&ANALYSTS),
        };
        self.options.iter_mut().for_each(|options| options.cluster = Some(cluster.clone()));
    }

    /// Adds one, without tables. Engines read `remote_servers` when they start, so all are started again.
    pub async fn add(&mut self) {
        self.list_another();
        for number in 1..=self.options.len() {
            if let Some(engine) = self.engines[number - 1].take() {
                engine.stop(Duration::from_secs(5)).await;
            }
            self.bring_back(number).await;
        }
    }

    /// So many, with their tables.
    pub async fn with_tables(count: usize) -> Self {
        Self::with_accounts(count, &[]).await
    }

    /// The same, with accounts of people's tools.
    pub async fn with_accounts(count: usize, accounts: &[Account]) -> Self {
        let this = Self::start_for(count, accounts).await;
        let away = this.servers().prepare(TableSettings::default()).await.unwrap();
        assert!(away.is_empty(), "{away:?}");
        this
    }

    /// What `migrate up` works on.
    pub fn servers(&self) -> Servers {
        let env = std::collections::BTreeMap::from([("CLICKHOUSE_CLUSTER".to_owned(), CLUSTER.to_owned())]);
        Servers::given(self.writers(), &env).unwrap()
    }

    /// `CLICKHOUSE_URL` of all of them.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.options.iter().map(|options| options.writer().url).collect();
        urls.join(",")
    }

    /// The user that writes.
    pub fn writers(&self) -> Shards {
        self.login("writer", self.options[0].credentials.writer.expose())
    }

    /// The user that reads.
    pub fn readers(&self) -> Shards {
        self.login("reader", self.options[0].credentials.reader.expose())
    }

    fn login(&self, user: &str, password: &str) -> Shards {
        Shards::of(&self.url(), &Login { user: user.to_owned(), password: password.to_owned(), tls: None })
    }

    /// Analysts, as `CLICKHOUSE_ANALYST_USER` names them.
    pub fn analyst(&self) -> Connection {
        self.login("analyst_{project}", analysts::PASSWORD).anywhere()
    }

    /// The user that writes, on one shard; from 1.
    pub fn writer(&self, number: usize) -> Connection {
        self.options[number - 1].writer()
    }

    /// Where one listens for ClickHouse's own protocol.
    pub fn tcp_port(&self, number: usize) -> u16 {
        self.options[number - 1].tcp_port.unwrap()
    }

    /// The user that writes, asking all shards through one.
    pub fn all(&self, number: usize) -> tallyhouse_sql::clickhouse::Client {
        self.writer(number).server().with_database("tallyhouse_all")
    }

    /// Where one has its tables.
    pub fn data(&self, number: usize) -> &Path {
        &self.options[number - 1].data
    }

    /// Whoever comes to one.
    pub fn as_user(&self, number: usize, user: &str, password: &str) -> Connection {
        Connection { user: user.to_owned(), password: password.to_owned(), ..self.writer(number) }
    }

    /// Host and port of ClickHouse's own protocol, as shards reach each other.
    pub fn native(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.tcp_port(number))
    }

    /// Kills one.
    pub async fn kill(&mut self, number: usize) {
        let engine = self.engines[number - 1].take().unwrap();
        engine.stop(Duration::ZERO).await;
    }

    /// Lets one hang, or go on: it accepts connections, and says nothing.
    pub fn signal(&self, number: usize, signal: Signal) {
        let pid = self.engines[number - 1].as_ref().and_then(Engine::pid).unwrap();
        process::signal(pid.try_into().unwrap(), signal).unwrap();
    }

    /// Starts one that is away.
    pub async fn bring_back(&mut self, number: usize) {
        let engine = Engine::start(self.options[number - 1].clone()).await.unwrap_or_else(|error| panic!("{error}"));
        self.engines[number - 1] = Some(engine);
    }
}

/// Two shards that all tests of this process share; none is ever away.
pub async fn two_shards() -> &'static ShardEngines {
    static SHARED: OnceCell<ShardEngines> = OnceCell::const_new();
    SHARED.get_or_init(|| ShardEngines::with_tables(2)).await
}

/// The number that a server has by its own record.
pub async fn recorded_number(writer: &Connection) -> Option<u32> {
    shards::number_of(&writer.client()).await.unwrap()
}
