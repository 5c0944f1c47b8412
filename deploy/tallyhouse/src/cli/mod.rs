//! The command line.

mod administration;
mod backup;
mod data;
mod privacy;
mod schemas;
mod service;

use clap::{CommandFactory, Parser, Subcommand};
use tallyhouse::config::settings::{
    ForAdministration, ForBackfill, ForBackup, ForErase, ForMigrateUp, ForRebuild, ForReplay, ForSchemas, ForStore,
    ForTopics, ForUp, ForVerify, OnClickHouse,
};
use tallyhouse::engine::child::ChildArgs;
use tallyhouse_service::env::with;

pub(crate) use administration::{Audit, Keys, Projects, Users};
pub(crate) use backup::Backup;
pub(crate) use data::{Dlq, Migrate, Range, Rollups, Topics};
pub(crate) use privacy::{Erase, Erasures};
pub(crate) use schemas::{SchemaScope, Schemas};
pub(crate) use service::{Configuration, Place, Service};

/// Event analytics on ClickHouse, in one process.
///
/// Each command lists the variables that it reads: `tallyhouse up --help`.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start ClickHouse (unless `CLICKHOUSE_URL` is set), ingest and the query API, and run until ctrl-C
    Up,
    /// Start only the embedded ClickHouse, with all tables, and run until ctrl-C: what several services share on one machine
    Store,
    /// Bring the tables of a ClickHouse to this version, or say where they stand
    #[command(subcommand)]
    Migrate(Migrate),
    /// Compare the rollups with the raw events, or make them equal again
    #[command(subcommand)]
    Rollups(Rollups),
    /// Work on topics of Kafka (`KAFKA_BROKERS`)
    #[command(subcommand)]
    Topics(Topics),
    /// Look at events that were refused, send them again, or put them away
    #[command(subcommand)]
    Dlq(Dlq),
    /// Say what events of each type are: value, dimensions and schema
    #[command(subcommand)]
    Schemas(Schemas),
    /// Let people's tools (Grafana, BI, dbt) read a project in ClickHouse, or no longer
    #[command(subcommand)]
    Users(Users),
    /// Create projects, and change their settings
    #[command(subcommand)]
    Projects(Projects),
    /// Create API keys, rotate and revoke them
    #[command(subcommand)]
    Keys(Keys),
    /// Look at who changed projects and keys
    #[command(subcommand)]
    Audit(Audit),
    /// Remove all that is kept about a person: raw events, their part of the rollups, dead letters, cached answers
    Erase(Erase),
    /// Look at erasures
    #[command(subcommand)]
    Erasures(Erasures),
    /// Copy everything that cannot be made again, look whether copies are whole, and bring them back
    #[command(subcommand)]
    Backup(Backup),
    /// Try everything that `up` needs, without starting anything: a line each, exit code 1 when something failed
    Doctor {
        /// Look at what runs instead, at the admin ports and in ClickHouse, and name the runbook of what is wrong
        #[arg(long)]
        running: bool,
    },
    /// Describe the variables of all programs
    #[command(subcommand)]
    Config(Configuration),
    /// Install `tallyhouse up` as a service of this machine (systemd), or remove it
    #[command(subcommand)]
    Service(Service),
    /// Become the embedded ClickHouse
    #[command(hide = true)]
    Engine(ChildArgs),
}

/// The command line, with the variables that each command reads.
pub(crate) fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("up", with::<ForUp>)
        .mut_subcommand("doctor", with::<ForUp>)
        .mut_subcommand("store", with::<ForStore>)
        .mut_subcommand("backup", |backup| {
            ["create", "list", "verify", "restore"]
                .into_iter()
                .fold(backup, |backup, name| backup.mut_subcommand(name, with::<ForBackup>))
        })
        .mut_subcommand("migrate", |migrate| {
            migrate
                .mut_subcommand("up", with::<ForMigrateUp>)
                .mut_subcommand("status", with::<OnClickHouse>)
                .mut_subcommand("check", with::<OnClickHouse>)
        })
        .mut_subcommand("rollups", |rollups| {
            rollups
                .mut_subcommand("verify", with::<ForVerify>)
                .mut_subcommand("stats", with::<OnClickHouse>)
                .mut_subcommand("rebuild", with::<ForRebuild>)
                .mut_subcommand("backfill", with::<ForBackfill>)
        })
        .mut_subcommand("erase", with::<ForErase>)
        .mut_subcommand("erasures", |erasures| erasures.mut_subcommand("verify", with::<ForErase>))
        .mut_subcommand("schemas", |schemas| {
            ["apply", "list", "show", "diff", "delete"]
                .into_iter()
                .fold(schemas, |schemas, name| schemas.mut_subcommand(name, with::<ForSchemas>))
        })
        .mut_subcommand("users", |users| {
            ["create", "list", "rotate", "delete"]
                .into_iter()
                .fold(users, |users, name| users.mut_subcommand(name, with::<ForAdministration>))
        })
        .mut_subcommand("topics", |topics| topics.mut_subcommand("widen", with::<ForTopics>))
        .mut_subcommand("projects", |projects| {
            ["create", "list", "show", "set", "delete"]
                .into_iter()
                .fold(projects, |projects, name| projects.mut_subcommand(name, with::<ForAdministration>))
        })
        .mut_subcommand("keys", |keys| {
            ["create", "list", "rotate", "revoke"]
                .into_iter()
                .fold(keys, |keys, name| keys.mut_subcommand(name, with::<ForAdministration>))
        })
        .mut_subcommand("audit", |audit| audit.mut_subcommand("list", with::<ForAdministration>))
        .mut_subcommand("dlq", |dlq| {
            dlq.mut_subcommand("list", with::<OnClickHouse>)
                .mut_subcommand("show", with::<OnClickHouse>)
                .mut_subcommand("replay", with::<ForReplay>)
                .mut_subcommand("discard", with::<OnClickHouse>)
        })
}

#[cfg(test)]
mod tests {
    use tallyhouse_service::env::definitions;
    use tallyhouse_testkit::project_names::{NAMES, NO_NAMES};

    use super::*;

    fn help(path: &[&str]) -> String {
        let mut command = command();
        command.build();
        let found = path.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).unwrap());
        found.render_long_help().to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_project_is_a_name_wherever_one_is_taken() {
        let lines = [
            "rollups verify --project=NAME",
            "rollups stats --project=NAME",
            "rollups rebuild --project=NAME",
            "rollups backfill --project=NAME",
            "dlq list --project=NAME",
            "dlq replay --project=NAME",
            "dlq discard --project=NAME",
            "users create --for=bi --project=NAME",
            "users list --project=NAME",
            "projects create NAME",
            "projects show NAME",
            "projects set NAME tier=free",
            "keys create --scope=query --project=NAME",
            "keys list --project=NAME",
            "audit list --project=NAME",
            "schemas apply file.json --project=NAME",
            "schemas list --project=NAME",
        ];
        let parse = |line: &str, name: &str| {
            let words = ["tallyhouse"].into_iter().chain(line.split(' ')).map(|word| word.replace("NAME", name));
            Cli::try_parse_from(words)
        };
        for line in lines {
            for name in NAMES {
                assert!(parse(line, name).is_ok(), "{line}: {name:?}");
            }
            for odd in NO_NAMES {
                assert!(parse(line, odd).is_err(), "{line}: {odd:?}");
            }
        }
    }

    #[test]
    fn every_command_lists_the_variables_that_it_reads() {
        let up = definitions::<ForUp>();
        assert!(up.len() > 70, "{}", up.len());
        for command in ["up", "doctor"] {
            let help = help(&[command]);
            for definition in &up {
                assert!(help.contains(&definition.name), "{command}: {}", definition.name);
                let default = definition.default.iter().map(|default| format!("[default: {default}]"));
                let bounds = definition.bounds.iter().map(|bounds| format!("[{bounds}]"));
                // Help is wrapped: blanks may be line ends.
                let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
                default.chain(bounds).for_each(|text| assert!(flat.contains(&text), "{}: {text}", definition.name));
            }
        }
        let some = [
            (&["store"][..], "CLICKHOUSE_HTTP_PORT"),
            (&["backup", "create"], "BACKUP_TARGET"),
            (&["backup", "restore"], "KAFKA_BROKERS"),
            (&["migrate", "up"], "CLICKHOUSE_FSYNC"),
            (&["migrate", "check"], "CLICKHOUSE_URL"),
            (&["rollups", "verify"], "TALLYHOUSE_SCHEMAS"),
            (&["rollups", "stats"], "TALLYHOUSE_LOG"),
            (&["rollups", "rebuild"], "QUERY_ADMIN_ADDR"),
            (&["rollups", "backfill"], "DIMENSION_VALUES"),
            (&["users", "create"], "CLICKHOUSE_URL"),
            (&["users", "list"], "TALLYHOUSE_URL"),
            (&["erase"], "TALLYHOUSE_URL"),
            (&["erasures", "verify"], "TALLYHOUSE_KEY"),
            (&["schemas", "apply"], "TALLYHOUSE_SCHEMAS"),
            (&["schemas", "apply"], "TALLYHOUSE_URL"),
            (&["topics", "widen"], "KAFKA_BROKERS"),
            (&["keys", "create"], "TALLYHOUSE_URL"),
            (&["projects", "set"], "TALLYHOUSE_DATA"),
            (&["audit", "list"], "TALLYHOUSE_KEY"),
            (&["dlq", "list"], "TALLYHOUSE_DATA"),
            (&["dlq", "replay"], "TALLYHOUSE_KEY"),
        ];
        for (path, name) in some {
            let help = help(path);
            assert!(help.contains(name) && !help.contains("INGEST_BATCH_ROWS"), "{path:?}: {name}");
        }
    }
}
