//! Writes config.xml and users.xml at every start, so that they match this version, and users.xml again when accounts change.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tallyhouse_sql::hex;
use tallyhouse_sql::migrations::MAX_PARTITIONS_PER_INSERT;

use super::accounts;
use super::error::EngineError;
use super::network;
use super::pinned;
use super::program::Program;
use super::{EngineCluster, EngineOptions};
use tallyhouse_service::private_file;

const CONFIG: &str = include_str!("templates/config.xml");
const USERS: &str = include_str!("templates/users.xml");

/// Tables that analysts may read, and the views that dashboards read. Each gets a row policy.
const SHARED_TABLES: [&str; 4] = ["events", "rollup_1m", "rollup_1h", "rollup_1d"];

/// The library runs its endless query as `default` without a password, and that user's name is not ours to choose. The
/// endless query is its one session, so nobody else ever gets in as `default`.
const ENGINE_PROFILE: &str = "
        <engine>
            <max_sessions_for_user>1</max_sessions_for_user>
        </engine>";
const ENGINE_USER: &str = "        <default>
            <no_password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>engine</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SYSTEM LISTEN, CREATE TEMPORARY TABLE ON *.*</query>
            </grants>
        </default>
";

/// What an analyst sees: the project that the query API names in a header of its request. SQL can change settings (a
/// subquery's `SETTINGS` clause even those that are read-only), and no header. Without the header there are no rows.
///
/// In this form it reaches the primary key; `project_id = … AND project_id != ''` is folded so that it does not, and each statement
/// reads the rows of all projects.
const ANALYST_FILTER: &str = "project_id = nullIf(getClientHTTPHeader('X-Tallyhouse-Project'), '')";

/// A hash that no password is known to have.
const NO_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) tables: PathBuf,
    /// What ClickHouse locks.
    pub(super) lock: PathBuf,
    /// Rows of `system.query_log` and its like.
    pub(super) system_logs: PathBuf,
    /// Raw events of more than a week.
    pub(super) warm: PathBuf,
    /// Those of more than a month.
    pub(super) cold: PathBuf,
    /// Copies of tables that `BACKUP` makes and `RESTORE` reads.
    pub(super) backups: PathBuf,
    /// config.xml
    pub(super) config: PathBuf,
    /// users.xml
    pub(super) users: PathBuf,
    /// Functions in the place of others; beside the settings, where SQL cannot make a file.
    pub(super) functions: PathBuf,
    /// Where it logs; apart from the settings, which it may not write.
    pub(super) logs: PathBuf,
    /// ClickHouse's own log; it rotates it by size.
    pub(super) log: PathBuf,
    /// What the process prints: little, and the reason when it does not start.
    pub(super) output: PathBuf,
    /// The process id, for operators and tests.
    pub(super) pid: PathBuf,
}

/// What ClickHouse locks, below a data folder.
pub(super) fn lock(data: &Path) -> PathBuf {
    data.join("clickhouse").join("status")
}

/// The HTTP port of whoever started one on this data folder last; its settings may have been others than ours.
pub fn last_http_port(data: &Path) -> Option<u16> {
    let written = std::fs::read_to_string(data.join("engine").join("config.xml")).ok()?;
    let (_, rest) = written.split_once("<http_port>")?;
    rest.split_once('<')?.0.parse().ok()
}

impl Files {
    /// The places below a data folder and a folder of backups, which are created, readable by their owner only.
    pub(super) fn below(data: &Path, backups: &Path) -> Result<Self, EngineError> {
        let data = std::path::absolute(data).map_err(|source| file_error(data, source))?;
        let backups = std::path::absolute(backups).map_err(|source| file_error(backups, source))?;
        let tables = data.join("clickhouse");
        let engine = data.join("engine");
        let logs = data.join("clickhouse-log");
        let files = Self {
            lock: lock(&data),
            system_logs: tables.join("data").join("system"),
            warm: data.join("clickhouse-warm"),
            cold: data.join("clickhouse-cold"),
            backups: backups.join("clickhouse"),
            config: engine.join("config.xml"),
            users: engine.join("users.xml"),
            functions: engine.join("functions"),
            log: logs.join("clickhouse.log"),
            logs,
            output: engine.join("output.log"),
            pid: data.join("clickhouse.pid"),
            tables,
        };
        for folder in [&files.tables, &files.warm, &files.cold, &files.backups, &files.logs, &engine, &files.functions]
        {
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(0o700)))
                .map_err(|source| file_error(folder, source))?;
        }
        Ok(files)
    }
}

/// Writes both files, and puts a definition of ours in the place of the functions that read files of the server: see [`pinned::SHUT`].
pub(super) fn write(files: &Files, options: &EngineOptions) -> Result<(), EngineError> {
    write_private(&files.config, &config(files, options))?;
    write_users(files, options)?;
    for function in pinned::SHUT {
        write_private(&files.functions.join(format!("function_{function}.sql")), &pinned::shut(function))?;
    }
    Ok(())
}

/// Who may come in from now on.
pub(super) fn write_users(files: &Files, options: &EngineOptions) -> Result<(), EngineError> {
    write_private(&files.users, &users(options))
}

fn config(files: &Files, options: &EngineOptions) -> String {
    let path = |path: &Path| escape(&path.display().to_string());
    CONFIG
        .replace("{{data}}", &path(&files.tables))
        .replace("{{warm}}", &path(&files.warm))
        .replace("{{cold}}", &path(&files.cold))
        .replace("{{backups}}", &path(&files.backups))
        .replace("{{users}}", &path(&files.users))
        .replace("{{functions}}", &path(&files.functions))
        .replace("{{log}}", &path(&files.log))
        .replace("{{listen}}", &listen(options))
        .replace("{{http_port}}", &options.http_port.to_string())
        .replace("{{cluster}}", &options.cluster.as_ref().map(remote_servers).unwrap_or_default())
        .replace(
            "{{native}}",
            &options.tcp_port.map_or_else(String::new, |port| format!("<tcp_port>{port}</tcp_port>")),
        )
}

/// As `deploy/clickhouse/remote_servers.xml` has it for servers.
fn remote_servers(cluster: &EngineCluster) -> String {
    let shard = |port: &u16| {
        format!(
            "<shard><internal_replication>true</internal_replication><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>"
        )
    };
    let (name, secret) = (&cluster.name, escape(cluster.secret.expose()));
    let shards: String = cluster.ports.iter().map(shard).collect();
    format!("<remote_servers><{name}><secret>{secret}</secret>{shards}</{name}></remote_servers>")
}

/// What `writer` and `reader` need beyond a single server's rights: as in `sql/access/cluster.sql`.
const CLUSTER_WRITER: &str = "
                <query>GRANT SELECT, CREATE, DROP, SHOW ON tallyhouse_all.*</query>
                <query>GRANT SELECT, CREATE, DROP, SHOW ON tallyhouse_seen.*</query>
                <query>GRANT TABLE ENGINE ON Distributed</query>
                <query>GRANT REMOTE ON *.*</query>";
const CLUSTER_READER: &str = "
                <query>GRANT SELECT ON tallyhouse_all.*</query>";

/// What accounts need, beyond the views.
const CLUSTER_ACCOUNT: &str = "
                <query>GRANT SELECT ON tallyhouse_seen.*</query>";

fn listen(options: &EngineOptions) -> String {
    network::listened(options.listen).iter().map(|address| format!("<listen_host>{address}</listen_host>")).collect()
}

fn users(options: &EngineOptions) -> String {
    let (engine_profile, engine_user) = match options.program {
        Program::Library(_) => (ENGINE_PROFILE, ENGINE_USER),
        Program::Server(_) => ("", ""),
    };
    let (profiles, users) =
        options.cluster.as_ref().map_or(("", ""), |cluster| (cluster.profiles.as_str(), cluster.users.as_str()));
    let credentials = &options.credentials;
    let networks = network::networks(&options.client_networks);
    let account_grants = if options.cluster.is_some() { CLUSTER_ACCOUNT } else { "" };
    USERS
        .replace("{{engine_profile}}", &[engine_profile, profiles].concat())
        .replace("{{engine_user}}", engine_user)
        .replace("{{max_partitions}}", &MAX_PARTITIONS_PER_INSERT.to_string())
        .replace("{{writer_sha256}}", &sha256(credentials.writer.expose()))
        .replace("{{reader_sha256}}", &sha256(credentials.reader.expose()))
        .replace("{{grafana_sha256}}", &sha256(credentials.grafana.expose()))
        .replace("{{analyst_sha256}}", &sha256(credentials.analyst.expose()))
        .replace("{{no_sha256}}", NO_SHA256)
        .replace("{{pinned_settings}}", &pinned::settings())
        .replace("{{pinned_constraints}}", &pinned::constraints())
        .replace("{{analyst_statements}}", &options.analyst_statements.to_string())
        .replace("{{table_grants}}", &grants())
        .replace("{{analyst_policies}}", &policies(ANALYST_FILTER))
        .replace("{{definer_policies}}", &policies(&accounts::seen_by(&options.grafana_projects, &options.accounts)))
        .replace("{{client_networks}}", &networks)
        .replace("{{cluster_writer}}", if options.cluster.is_some() { CLUSTER_WRITER } else { "" })
        .replace("{{cluster_reader}}", if options.cluster.is_some() { CLUSTER_READER } else { "" })
        // On a cluster a subquery is asked of the other shards without a limit, which is 0; with 1 as the least they would take it for 1.
        .replace("{{least_result}}", if options.cluster.is_some() { "0" } else { "1" })
        .replace("{{cluster_account}}", account_grants)
        .replace("{{accounts}}", &[&accounts::users(&options.accounts, &networks, account_grants), users].concat())
}

fn grants() -> String {
    let grant = |table| format!("                <query>GRANT SELECT ON tallyhouse.{table}</query>");
    SHARED_TABLES.map(grant).join("\n")
}

/// One policy a table: a table without one is readable in full.
fn policies(filter: &str) -> String {
    let policy = |table| format!("                    <{table}><filter>{filter}</filter></{table}>");
    SHARED_TABLES.map(policy).join("\n")
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn write_private(path: &Path, text: &str) -> Result<(), EngineError> {
    private_file::write(path, text).map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: std::io::Error) -> EngineError {
    EngineError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tallyhouse_service::env::{Env as _, ProcessEnv};
    use tallyhouse_service::secret::Secret;

    use super::*;
    use crate::credentials::Credentials;
    use crate::engine::Cage;
    use crate::telemetry::Metrics;

    fn options(program: Program, projects: &[&str]) -> EngineOptions {
        EngineOptions {
            data: PathBuf::from("/data"),
            backups: PathBuf::from("/backups"),
            http_port: 8123,
            tcp_port: Some(9000),
            listen: [172, 17, 0, 1].into(),
            client_networks: vec!["172.17.0.0/16".parse().unwrap()],
            accounts: Vec::new(),
            cluster: None,
            program,
            cage: Cage::On,
            credentials: Credentials::fixed(),
            analyst_statements: 22,
            grafana_projects: projects.iter().map(|name| name.parse().unwrap()).collect(),
            executable: PathBuf::from("tallyhouse"),
            start_within: Duration::from_secs(1),
            hung_after: Duration::from_secs(60),
            metrics: Metrics::register(&tallyhouse_service::metrics::Registry::new()).unwrap(),
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in_and_no_password_is_written() {
        let files = Files {
            tables: "/a&b".into(),
            lock: "l".into(),
            system_logs: "y".into(),
            warm: "w".into(),
            cold: "c".into(),
            backups: "b".into(),
            config: "x".into(),
            users: "u".into(),
            functions: "f".into(),
            logs: "f".into(),
            log: "g".into(),
            output: "o".into(),
            pid: "p".into(),
        };
        for program in [Program::Library("l".into()), Program::Server("s".into())] {
            let options = options(program, &["demo"]);
            let (config, users) = (config(&files, &options), users(&options));
            assert!(!config.contains("{{") && config.contains("<path>/a&amp;b/</path>"), "{config}");
            assert!(!users.contains("{{") && !users.contains(">dev<"), "{users}");
            assert!(
                config.contains("<listen_host>127.0.0.1</listen_host><listen_host>172.17.0.1</listen_host>"),
                "{config}"
            );
            // Of `grafana` alone: the product's own users come from this machine.
            assert_eq!(users.matches("<ip>172.17.0.0/16</ip>").count(), 1, "{users}");
        }
    }

    /// users.xml as `deploy/compose` gives it to a ClickHouse server of its own: the same users, with passwords from its environment, let in from
    /// other containers; profiles have the names of `sql/access`, so that accounts that are made by SQL find them.
    fn users_of_a_server() -> String {
        let [writer, reader, analyst, grafana] = ["w", "r", "a", "g"].map(Secret::new);
        let credentials = Credentials { writer, reader, analyst, grafana, ..Credentials::fixed() };
        let options = EngineOptions { credentials, ..options(Program::Server("s".into()), &["FROM_ENV"]) };
        let credentials = &options.credentials;
        let mut text = users(&options);
        let passwords = [
            ("CLICKHOUSE_WRITER_PASSWORD", &credentials.writer),
            ("CLICKHOUSE_READER_PASSWORD", &credentials.reader),
            ("CLICKHOUSE_ANALYST_PASSWORD", &credentials.analyst),
            ("CLICKHOUSE_GRAFANA_PASSWORD", &credentials.grafana),
        ];
        for (variable, password) in passwords {
            let hash = format!("<password_sha256_hex>{}</password_sha256_hex>", sha256(password.expose()));
            text = text.replace(&hash, &format!("<password from_env=\"{variable}\"/>"));
        }
        let names =
            ["pinned", "definer", "writer", "reader", "analyst"].map(|name| (name, format!("tallyhouse_{name}")));
        for (name, new) in names.into_iter().chain([("grafana", "tallyhouse_dashboards".to_owned())]) {
            text = text.replace(&format!("<profile>{name}</profile>"), &format!("<profile>{new}</profile>"));
            let (profiles, rest) = text.split_once("    </profiles>").unwrap();
            let tags = [("<", ">"), ("</", ">")]
                .map(|(a, b)| (format!("        {a}{name}{b}\n"), format!("        {a}{new}{b}\n")));
            let renamed = tags.iter().fold(profiles.to_owned(), |text, (from, to)| text.replace(from, to));
            text = format!("{renamed}    </profiles>{rest}");
        }
        let (head, definer) = text.split_once("        <definer>\n            <password").unwrap();
        let loopback = "<networks><ip>127.0.0.1</ip></networks>";
        let head = head.replace(loopback, "<networks><ip>::/0</ip></networks>");
        let networks = network::networks(&options.client_networks);
        let definer = definer.replace(&networks, "<ip>::/0</ip>");
        let filter = accounts::seen_by(&options.grafana_projects, &options.accounts);
        format!("{head}        <definer>\n            <password{definer}")
            .replace(&format!("<filter>{filter}</filter>"), "<filter from_env=\"CLICKHOUSE_GRAFANA_FILTER\"/>")
            .replace("<!-- Written by `tallyhouse up` at every start; changes are overwritten. -->", SERVER_HEAD)
    }

    const SERVER_HEAD: &str = "<!-- The users of Tallyhouse on a server. Made from deploy/tallyhouse/src/engine/templates/users.xml: change that one, then run
     the test `the_users_of_a_server` with UPDATE_FILES=1. -->";

    #[test]
    fn the_users_of_a_server_are_those_of_the_embedded_engine() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose/clickhouse/users.d/tallyhouse.xml");
        let made = users_of_a_server();
        if ProcessEnv.get("UPDATE_FILES").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        for user in ["WRITER", "READER", "ANALYST", "GRAFANA"] {
            let password = format!("<password from_env=\"CLICKHOUSE_{user}_PASSWORD\"/>");
            assert_eq!(made.matches(&password).count(), 1, "{user}: {made}");
        }
        assert_eq!(made.matches("CLICKHOUSE_GRAFANA_FILTER").count(), SHARED_TABLES.len(), "{made}");
        // `definer` alone, whom nobody comes in as.
        assert_eq!(made.matches("<ip>127.0.0.1</ip>").count(), 1, "{made}");
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(
            made == committed,
            "run `UPDATE_FILES=1 cargo test -p tallyhouse --lib the_users_of_a_server`, and look at what changed"
        );
    }

    #[test]
    fn only_the_library_has_a_default_user() {
        assert!(users(&options(Program::Library("l".into()), &[])).contains("<no_password/>"));
        assert!(!users(&options(Program::Server("s".into()), &[])).contains("<no_password/>"));
    }

    #[test]
    fn every_table_behind_the_views_has_a_policy_and_no_project_means_no_rows() {
        let users = |projects: &[&str]| users(&options(Program::Server("s".into()), projects));
        for table in SHARED_TABLES {
            assert!(users(&["a", "b"]).contains(&format!(
                "<{table}><filter>currentUser() = 'grafana' AND project_id IN ('a', 'b')</filter></{table}>"
            )));
            assert!(users(&[]).contains(&format!("<{table}><filter>0</filter></{table}>")));
        }
    }
}
