//! The command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tallyhouse::config::settings::{
    ForAdministration, ForBackfill, ForErase, ForMigrateUp, ForRebuild, ForReplay, ForStore, ForTopics, ForUp,
    ForVerify, OnClickHouse,
};
use tallyhouse::dlq::Filters;
use tallyhouse::engine::child::ChildArgs;
use tallyhouse_control::records::grant::Tool;
use tallyhouse_control::time;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::with;

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
    /// Try everything that `up` needs, without starting anything: a line each, exit code 1 when something failed
    Doctor,
    /// Become the embedded ClickHouse
    #[command(hide = true)]
    Engine(ChildArgs),
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Migrate {
    /// Apply what is pending
    Up,
    /// Print where every migration stands
    Status,
    /// Fail unless everything is applied as it is
    Check,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Topics {
    /// Use partitions that were added: only when all gateways and consumers are stopped and nothing waits
    Widen {
        /// The topic; the shared one (`KAFKA_TOPIC`) when it is left out
        topic: Option<String>,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Rollups {
    /// Compare the rollups with the raw events; exit code 1 when they differ
    Verify {
        #[command(flatten)]
        range: Range,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Print this many differences at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Say how many rows and bytes each rollup has, and how many events a row counts
    Stats {
        /// One project only
        #[arg(long)]
        project: Option<ProjectName>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Recompute what differs from the raw events, while events arrive, and invalidate the changed days in the query API (`REDIS_URL`, `QUERY_ADMIN_ADDR`)
    Rebuild {
        #[command(flatten)]
        range: Range,
        /// One table only: 1m, 1h or 1d
        #[arg(long, value_parser = ["1m", "1h", "1d"])]
        table: Option<String>,
        /// Everything in the range, not only what differs
        #[arg(long)]
        all: bool,
        /// Inserts are kept away for this many seconds at most, for each partition
        #[arg(long, default_value_t = 60)]
        gate_seconds: u64,
    },
    /// Count events under dimensions that were declared after they came, while events arrive; killed, it goes on when it is run again
    Backfill {
        #[command(flatten)]
        range: Range,
        /// One set only, such as origin or carrier,origin; default: all that are declared
        #[arg(long)]
        dimension: Option<String>,
        /// Inserts are kept away for this many seconds at most, for each partition
        #[arg(long, default_value_t = 60)]
        gate_seconds: u64,
    },
}

/// Which events.
#[derive(Debug, Clone, Args)]
pub(crate) struct Range {
    /// One project; default: all
    #[arg(long)]
    pub(crate) project: Option<ProjectName>,
    /// First day (a date or RFC 3339, widened to whole UTC days); default: seven days ago, of `backfill` the first there is
    #[arg(long, value_parser = seconds)]
    pub(crate) from: Option<i64>,
    /// End, exclusive; default: tomorrow
    #[arg(long, value_parser = seconds)]
    pub(crate) to: Option<i64>,
}

fn seconds(text: &str) -> Result<i64, String> {
    let instant = tallyhouse_schema::time::parse(text);
    instant.map(|instant| instant.ms.div_euclid(1_000)).map_err(|problem| problem.to_string())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// One line per dead letter
    List {
        #[command(flatten)]
        filters: Filters,
        /// As JSON, one line per dead letter
        #[arg(long)]
        json: bool,
    },
    /// A dead letter with its payload; one that is not text is hexadecimal
    Show {
        /// Its id
        id: String,
    },
    /// Send events again, through the ingest API
    Replay {
        #[command(flatten)]
        filters: Filters,
        /// The full address; by default `/v1/events` at `INGEST_ADDR`
        #[arg(long)]
        url: Option<String>,
        /// A key of the project, with the scope `import` for events that were too old; by default `TALLYHOUSE_KEY`
        #[arg(long)]
        key: Option<String>,
        /// Only say how many there are
        #[arg(long)]
        dry_run: bool,
    },
    /// Mark dead letters as not needed
    Discard {
        #[command(flatten)]
        filters: Filters,
        /// Only say how many there are
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Erase {
    /// The project
    #[arg(long, required_unless_present = "reapply")]
    pub(crate) project: Option<ProjectName>,
    /// The person's `userId`
    #[arg(long, required_unless_present_any = ["anonymous", "reapply"])]
    pub(crate) user: Option<String>,
    /// The person's `anonymousId`
    #[arg(long)]
    pub(crate) anonymous: Option<String>,
    /// Drop what they send from now on, too; otherwise they begin anew
    #[arg(long)]
    pub(crate) keep_suppressed: bool,
    /// Work on it here, unless a service does, until it is done
    #[arg(long)]
    pub(crate) wait: bool,
    /// Erase again what came back of people who were erased: after a restore
    #[arg(long, conflicts_with_all = ["project", "user", "anonymous", "keep_suppressed"])]
    pub(crate) reapply: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Erasures {
    /// Say whether a report is as this installation signed it
    Verify {
        /// The report, or the job with its report, as JSON
        file: std::path::PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    /// Make an account, and print its password once
    Create {
        /// What it sees: one project
        #[arg(long)]
        project: ProjectName,
        /// What it is for: grafana, bi (tools that only read) or dbt (on a given ClickHouse)
        #[arg(long = "for", value_name = "TOOL")]
        tool: Tool,
        /// A note for people
        #[arg(long)]
        name: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// One line per account
    List {
        /// One project only
        #[arg(long)]
        project: Option<ProjectName>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Give an account another password, and print it once
    Rotate {
        /// Its name
        account: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Let nobody in any more with an account
    Delete {
        /// Its name
        account: String,
    },
}

/// Settings: `tier` (free, standard, enterprise), `priority` (low, normal, high), `eventsPerDay`, `eventsBurst`, `queriesPerMinute`,
/// `dimensionValues`, `lateWindowDays`, `retentionDays`, `deadLetters`. They take effect within 5 s.
#[derive(Debug, Subcommand)]
pub(crate) enum Projects {
    /// Create a project
    Create {
        name: ProjectName,
        /// A setting; several times for several
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// One line per project
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// A project with its settings
    Show {
        name: ProjectName,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete a project, its keys and everything that it has; nothing of it can be brought back
    Delete {
        name: String,
        /// Its name once more
        #[arg(long, value_name = "NAME")]
        confirm: String,
    },
    /// Change settings: `tallyhouse projects set shop tier=enterprise retentionDays=365`; `name=` goes back to what the installation says
    Set {
        name: ProjectName,
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn setting(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    pair.ok_or_else(|| format!("`{text}` is not NAME=VALUE"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key, and print its text, this once
    Create {
        /// The project
        #[arg(long, required_unless_present = "operator", conflicts_with = "operator")]
        project: Option<ProjectName>,
        /// An operator's key: it makes projects and keys, and sees no event
        #[arg(long, conflicts_with = "scopes")]
        operator: bool,
        /// What it is for: ingest, import, query, export, sql, admin, or browser alone; several times for several
        #[arg(long = "scope", value_name = "SCOPE", required_unless_present = "operator")]
        scopes: Vec<Scope>,
        /// A web page that may send with a key of the scope `browser`, such as `https://app.example`; several times for several
        #[arg(long = "origin", value_name = "ORIGIN")]
        origins: Vec<String>,
        /// When it ends: a date, RFC 3339, or a time from now such as 90d or 12h; default: never
        #[arg(long, value_name = "WHEN", value_parser = expires)]
        expires: Option<i64>,
        /// A line for people
        #[arg(long, default_value = "")]
        note: String,
        /// Print one JSON object: id, key, project, scopes, expires
        #[arg(long)]
        json: bool,
    },
    /// One line per key, never its text
    List {
        /// One project; default: all
        #[arg(long)]
        project: Option<ProjectName>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Give a key another text, which is printed this once; the old one stays good for a while
    Rotate {
        id: String,
        /// How long the old text stays good, such as 24h, 15m or 0s; default: 24h
        #[arg(long, value_name = "TIME", value_parser = span)]
        overlap: Option<i64>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Close a key for good; everywhere within 5 s
    Revoke {
        id: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn expires(text: &str) -> Result<i64, String> {
    time::parse(text, now_ms())
}

fn span(text: &str) -> Result<i64, String> {
    time::span_ms(text).ok_or_else(|| format!("`{text}` is not a length of time such as 24h, 15m or 0s"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// One line per change, the newest first
    List {
        /// One project; default: all
        #[arg(long)]
        project: Option<ProjectName>,
        /// Print this many at most
        #[arg(long, default_value_t = 100, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
        limit: usize,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
}

/// Whose declarations are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Whose {
    /// The project; without it, what all projects have that have none of their own
    #[arg(long)]
    pub(crate) project: Option<ProjectName>,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Schemas {
    /// Register files: in force everywhere within 5 seconds. What is in force already is left alone
    Apply {
        #[command(flatten)]
        whose: Whose,
        /// Declarations, one JSON document a file
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// One line per event type
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Print the declaration that is in force
    Show {
        #[command(flatten)]
        whose: Whose,
        /// The event type
        event_type: String,
    },
    /// Say what files would change, and whether they may: exit code 1 when one may not
    Diff {
        #[command(flatten)]
        whose: Whose,
        /// Declarations, one JSON document a file
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Take a declaration away
    Delete {
        #[command(flatten)]
        whose: Whose,
        /// The event type
        event_type: String,
    },
}

/// The command line, with the variables that each command reads.
pub(crate) fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("up", with::<ForUp>)
        .mut_subcommand("doctor", with::<ForUp>)
        .mut_subcommand("store", with::<ForStore>)
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
                .fold(schemas, |schemas, name| schemas.mut_subcommand(name, with::<ForVerify>))
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
