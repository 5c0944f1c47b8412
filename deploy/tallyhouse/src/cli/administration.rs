//! Commands on accounts, projects and keys.

use clap::Subcommand;
use tallyhouse_control::records::grant::Tool;
use tallyhouse_control::time;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;

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

pub(super) fn span(text: &str) -> Result<i64, String> {
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
