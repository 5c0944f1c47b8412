//! Commands on tables, topics and dead letters.

use clap::{Args, Subcommand};
use tallyhouse::dlq::Filters;
use tallyhouse_schema::project::ProjectName;

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
