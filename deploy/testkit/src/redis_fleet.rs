//! Redis on several servers: a master that Sentinels watch, and a cluster. All on loopback, as Debian has them.

use std::process::Command;

use tallyhouse_loadtest::redis::Redis as Server;

use crate::folder::Folder;
use crate::ports::free_ports;
use crate::wait::eventually;

/// The name of the master.
const MASTER: &str = "main";

/// A master, its replica, and three Sentinels.
pub struct RedisSentinels {
    pub url: String,
    servers: [Server; 2],
    sentinels: Vec<Server>,
    _folders: Vec<Folder>,
}

impl RedisSentinels {
    pub async fn start() -> Self {
        let [master, replica, sentinels @ ..] = free_ports::<5>();
        let folders: Vec<Folder> = (0..5).map(|_| Folder::create()).collect();
        let first = Server::start_with(master, folders[0].path(), &["--repl-diskless-sync-delay", "0"]).await.unwrap();
        let of = ["--replicaof", &format!("127.0.0.1 {master}"), "--repl-diskless-sync-delay", "0"];
        let second = Server::start_with(replica, folders[1].path(), &of).await.unwrap();
        eventually("the replica has a copy", async || {
            let copied =
                "EVAL \"return string.find(redis.call('INFO', 'replication'), 'master_link_status:up') and 1 or 0\" 0";
            second.ask(copied).await.ok().as_deref() == Some(":1")
        })
        .await;
        let mut watching = Vec::new();
        for (port, folder) in sentinels.into_iter().zip(folders.iter().skip(2)) {
            watching.push(sentinel(port, folder, master).await);
        }
        let hosts: Vec<&str> = watching.iter().map(Server::address).collect();
        let url = format!("redis+sentinel://{}/{MASTER}", hosts.join(","));
        let fleet = Self { url, servers: [first, second], sentinels: watching, _folders: folders };
        eventually("the Sentinels know each other and the replica", async || fleet.is_complete().await).await;
        fleet.servers[0].command("HSETNX tallyhouse:{versions}:writers since 1").await.unwrap();
        fleet
    }

    async fn is_complete(&self) -> bool {
        let mut complete = 0;
        for sentinel in &self.sentinels {
            complete += usize::from(
                sentinel.ask(&format!("SENTINEL CKQUORUM {MASTER}")).await.is_ok_and(|answer| answer.contains("OK 3")),
            );
        }
        // A Sentinel asks its master for replicas every ten seconds, and at first.
        let replicas = self.sentinels[0].ask(&format!("SENTINEL REPLICAS {MASTER}")).await;
        complete == self.sentinels.len() && replicas.is_ok_and(|answer| answer == "*1")
    }

    /// Kills the master. The replica takes over.
    pub async fn kill_master(&mut self) {
        self.servers[0].kill();
    }

    /// Waits until the replica is the master.
    pub async fn failed_over(&self) {
        let is_master = async || self.servers[1].command("SET tallyhouse:probe 1").await.is_ok();
        eventually("the replica takes over", is_master).await;
    }
}

async fn sentinel(port: u16, folder: &Folder, master: u16) -> Server {
    let file = folder.path().join("sentinel.conf");
    let settings = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER} 500\nsentinel failover-timeout {MASTER} 3000\n",
        folder.path().display()
    );
    std::fs::write(&file, settings).unwrap();
    Server::start_sentinel(port, folder.path(), &file).await.unwrap()
}

/// Three masters with a replica each.
pub struct RedisCluster {
    pub url: String,
    nodes: Vec<Server>,
    _folders: Vec<Folder>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let ports = free_ports::<12>();
        let folders: Vec<Folder> = (0..6).map(|_| Folder::create()).collect();
        let mut nodes = Vec::new();
        for (ports, folder) in ports.chunks_exact(2).zip(&folders) {
            let (port, bus) = (ports[0], ports[1]);
            let options = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus.to_string(),
                "--cluster-node-timeout",
                "1000",
                "--repl-diskless-sync-delay",
                "0",
            ];
            nodes.push(Server::start_with(port, folder.path(), &options).await.unwrap());
        }
        let create = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(Server::address))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(create.status.success(), "{}", String::from_utf8_lossy(&create.stdout));
        let hosts: Vec<&str> = nodes.iter().map(Server::address).collect();
        let fleet = Self { url: format!("redis+cluster://{}", hosts.join(",")), nodes, _folders: folders };
        eventually("the cluster is whole", async || fleet.is_whole().await).await;
        let begun = fleet.command("HSETNX tallyhouse:{versions}:writers since 1").await;
        assert_eq!(begun.as_deref(), Some(":1"));
        fleet
    }

    async fn is_whole(&self) -> bool {
        let mut whole = 0;
        for node in &self.nodes {
            let state = "EVAL \"local i = redis.call('CLUSTER', 'INFO') return string.find(i, 'cluster_state:ok') and string.find(i, 'cluster_slots_ok:16384') and 1 or 0\" 0";
            whole += usize::from(node.ask(state).await.ok().as_deref() == Some(":1"));
        }
        whole == self.nodes.len()
    }

    /// One inline command, to whichever node takes it.
    pub async fn command(&self, command: &str) -> Option<String> {
        for node in &self.nodes {
            match node.ask(command).await {
                Ok(answer) if !answer.starts_with("-MOVED") && !answer.starts_with("-READONLY") => return Some(answer),
                Ok(_) | Err(_) => {}
            }
        }
        None
    }

    /// How many keys begin so, on all masters.
    pub async fn keys(&self, beginning: &str) -> u64 {
        let count = format!("EVAL \"return #redis.call('KEYS', '{beginning}*')\" 0");
        let mut keys = 0;
        for node in &self.nodes {
            if node.ask("ROLE").await.is_ok_and(|role| role == "*3") {
                let answer = node.ask(&count).await.unwrap_or_default();
                keys += answer.trim_start_matches(':').parse::<u64>().unwrap_or(0);
            }
        }
        keys
    }

    /// Kills the master that has a key.
    pub async fn kill_master_of(&mut self, key: &str) {
        for node in &mut self.nodes {
            // A replica redirects, too.
            if node.ask(&format!("EXISTS {key}")).await.is_ok_and(|answer| answer.starts_with(':')) {
                node.kill();
                return;
            }
        }
        panic!("no node has {key}");
    }

    /// Waits until the replica of the killed master took over.
    pub async fn failed_over(&self, key: &str) {
        let command = format!("EXISTS {key}");
        let has = async || self.command(&command).await.is_some_and(|answer| answer.starts_with(':'));
        eventually("a replica takes over", has).await;
    }
}
