//! The migration files in order, and their rendering for a single node or a cluster.
//!
//! A file is one statement with a few `{{placeholders}}`. ClickHouse has no transactional DDL, so every statement can be
//! run again; files are never edited after they were applied (their checksum is recorded) and numbers are never reused.

use sha2::{Digest, Sha256};

use crate::hexadecimal::hex;

/// What the tables are made on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Topology {
    /// One server.
    #[default]
    Single,
    /// A server of a cluster: the same tables as of a single one, and those of `tallyhouse_all` in front of all shards.
    Cluster(ClusterTables),
}

/// What the tables of a cluster's server depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTables {
    /// The name of the cluster in `remote_servers`.
    pub name: String,
    /// `Replicated…` engines, for a shard with several servers: each of these has the macros `shard` and `replica`, and Keeper.
    pub is_replicated: bool,
}

/// How the files are rendered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendering {
    /// Single node or cluster.
    pub topology: Topology,
    /// Storage policy with a volume `cold`, to which raw events move after 30 days. `None`: one volume, nothing moves.
    pub tiered_policy: Option<String>,
}

/// A migration file.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The file's name without `.sql`.
    pub name: &'static str,
    /// Its text as written.
    pub text: &'static str,
}

/// Entries that each table remembers to recognise a repeated insert. One entry is one part: an insert leaves as many in a
/// table as it touches partitions. A worker inserts one batch at a time, so that only batches of other workers come between two attempts.
pub const DEDUPLICATION_WINDOW: u32 = 20_000;

/// A batch that touches so many partitions of one table is closed: four years of weeks, of one retention.
pub const MAX_PARTITIONS_PER_BATCH: u32 = 212;

/// Partitions of one table that one insert may touch. Batches of a version that took requests as a whole went over
/// [`MAX_PARTITIONS_PER_BATCH`] by as many, and are sent once after an upgrade.
pub const MAX_PARTITIONS_PER_INSERT: u32 = 2 * MAX_PARTITIONS_PER_BATCH;

/// The longest retention of raw events, in days: a batch of history then still touches no more partitions than it may, with
/// a week to spare at each end.
pub const MAX_RETENTION_DAYS: u32 = (MAX_PARTITIONS_PER_BATCH - 2) * 7;

/// The size of a granule of the hourly and daily rollups, in bytes: ClickHouse reads whole granules. A row of theirs may hold 16 kB of
/// states, and by its default of 10 MiB a question about one series of a week reads many rows of others (measured in
/// sql/README.md).
const STATES_GRANULE_BYTES: u32 = 1 << 20;

/// The files that make those tables.
const TABLES_OF_STATES: [&str; 2] = ["0005_rollup_1h", "0006_rollup_1d"];

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every file, in the order in which they are applied.
        pub const ALL: &[Migration] =
            &[$(Migration { name: $name, text: include_str!(concat!("../migrations/", $name, ".sql")) }),*];
    };
}

files![
    "0001_database",
    "0002_migrations",
    "0003_events",
    "0004_rollup_1m",
    "0005_rollup_1h",
    "0006_rollup_1d",
    "0007_events_in",
    "0008_events_view",
    "0009_rollup_1m_view",
    "0010_rollup_1h_view",
    "0011_rollup_1d_view",
    "0016_dead_letters",
    "0018_metric_definitions",
    "0020_close_events_in",
    "0021_drain_events_in",
    "0022_rollup_1h_view_goes",
    "0023_rollup_1h_view",
    "0024_rollup_1d_view_goes",
    "0025_rollup_1d_view",
    "0026_rollup_1h_every_type",
    "0027_rollup_1d_every_type",
    "0028_open_events_in",
    "0029_rollup_1h_merges",
    "0030_rollup_1d_merges",
    "0031_close_events_in",
    "0032_drain_events_in",
    "0033_rollup_1h_view_goes",
    "0034_rollup_1h_view",
    "0035_quarters",
    "0036_open_events_in",
    "0037_events_merges",
    "0038_rollup_1m_merges",
    "0039_rollup_1h_merges",
    "0040_rollup_1d_merges",
    "0041_all.cluster",
    "0042_all_events.cluster",
    "0043_all_rollup_1m.cluster",
    "0044_all_rollup_1h.cluster",
    "0045_all_rollup_1d.cluster",
    "0046_all_dead_letters.cluster",
    "0047_shards.cluster",
    "0050_repairs",
    "0051_close_events_in",
    "0052_drain_events_in",
    "0053_rollup_1m_view_goes",
    "0054_rollup_1m_view",
    "0055_rollup_1m_every_type",
    "0056_open_events_in",
    "0060_views",
    "0061_views_events",
    "0062_views_series_1m",
    "0063_views_series_1h",
    "0064_views_series_1d",
    "0065_no_views.cluster",
    "0070_control",
    "0072_audit",
    "0074_key_use",
    "0090_privacy_subjects",
    "0091_suppression_acks",
    "0092_control_metrics",
    "0095_hot_questions",
];

impl Migration {
    /// The number in front of the name.
    pub fn version(&self) -> u32 {
        self.name.split('_').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
    }

    /// Whether the file is there for this topology; `*.cluster.sql` files are for clusters only, and the views (0065) for single servers.
    pub fn applies_to(&self, topology: &Topology) -> bool {
        match topology {
            Topology::Single => !self.name.ends_with(".cluster"),
            Topology::Cluster(_) => !self.text.contains("tallyhouse_views") || self.name.ends_with(".cluster"),
        }
    }

    /// SHA-256 of the text as written, in hexadecimal.
    pub fn checksum(&self) -> String {
        hex(&Sha256::digest(self.text.as_bytes()))
    }

    /// The statement to run.
    pub fn render(&self, rendering: &Rendering) -> String {
        let cluster = match &rendering.topology {
            Topology::Single => None,
            Topology::Cluster(tables) => Some(tables),
        };
        let is_replicated = cluster.is_some_and(|tables| tables.is_replicated) && !OF_ONE_SERVER.contains(&self.name);
        let window = if is_replicated {
            // The time limit of the replicated window is an hour by default: a longer outage would lose its protection.
            format!(
                "replicated_deduplication_window = {DEDUPLICATION_WINDOW}, replicated_deduplication_window_seconds = 604800"
            )
        } else {
            format!("non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}")
        };
        // Not in the files, which had been applied before: only a new table takes the setting, others go on without it.
        let granule = if TABLES_OF_STATES.contains(&self.name) {
            format!(", index_granularity_bytes = {STATES_GRANULE_BYTES}")
        } else {
            String::new()
        };
        let policy = rendering.tiered_policy.as_deref();
        let text = self
            .text
            // Each server is given each statement by itself: see `runner`.
            .replace("{{on_cluster}}", "")
            .replace("{{cluster}}", cluster.map_or("", |tables| &tables.name))
            .replace("{{local}}", "")
            .replace("{{dedup_window}}", &format!("{window}{granule}"))
            .replace("{{processes}}", "system.processes")
            .replace("{{storage_policy}}", &policy.map(|p| format!(", storage_policy = '{p}'")).unwrap_or_default());
        cold_tier(&engine(&text, is_replicated), policy.is_some())
    }
}

/// Tables that each server has for itself, also where a shard has several.
const OF_ONE_SERVER: [&str; 1] = ["0002_migrations"];

/// Where the servers of a shard meet in Keeper. A path of their own makes no server depend on another one's table ids, as `ON CLUSTER` would.
const REPLICA: &str = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";

/// Replaces `{{replicated}}ENGINE(ARGUMENTS)` by that engine, or by its replicated form.
fn engine(text: &str, is_replicated: bool) -> String {
    const OPEN: &str = "{{replicated}}";
    let Some((before, rest)) = text.split_once(OPEN).filter(|_| is_replicated) else {
        return text.replace(OPEN, "");
    };
    let name = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (name, after) = rest.split_at(name);
    match after.strip_prefix('(') {
        Some(arguments) => format!("{before}Replicated{name}({REPLICA}, {arguments}"),
        None => format!("{before}Replicated{name}({REPLICA}){after}"),
    }
}

/// Replaces `{{cold_tier:EXPRESSION}}` by `EXPRESSION TO VOLUME 'cold',`, or by nothing where there is no such volume.
fn cold_tier(text: &str, has_volume: bool) -> String {
    const OPEN: &str = "{{cold_tier:";
    let Some((before, rest)) = text.split_once(OPEN) else { return text.to_owned() };
    let Some((expression, after)) = rest.split_once("}}") else { return text.to_owned() };
    let clause = if has_volume { format!("{expression} TO VOLUME 'cold',") } else { String::new() };
    format!("{before}{clause}{after}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cluster(is_replicated: bool) -> Rendering {
        let topology = Topology::Cluster(ClusterTables { name: "c1".into(), is_replicated });
        Rendering { topology, tiered_policy: Some("tiered".into()) }
    }

    #[test]
    fn the_list_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let files: BTreeSet<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let listed: BTreeSet<String> = ALL.iter().map(|m| format!("{}.sql", m.name)).collect();
        assert_eq!(files, listed);
        assert!(ALL.iter().map(Migration::version).is_sorted_by(|before, after| before < after));
    }

    #[test]
    fn nothing_is_left_to_render() {
        for rendering in [Rendering::default(), cluster(false), cluster(true)] {
            for migration in ALL.iter().filter(|m| m.applies_to(&rendering.topology)) {
                let sql = migration.render(&rendering);
                assert!(!sql.contains("{{") && !sql.contains("}}"), "{sql}");
            }
        }
    }

    #[test]
    fn a_replicated_table_has_a_path_of_its_own_and_the_ledger_none() {
        let render = |name: &str| ALL.iter().find(|m| m.name == name).unwrap().render(&cluster(true));
        let path = "('/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";
        assert!(render("0003_events").contains(&format!("ReplicatedReplacingMergeTree{path}, received_at)\n")));
        assert!(render("0005_rollup_1h").contains(&format!("ReplicatedAggregatingMergeTree{path})\n")));
        assert!(render("0002_migrations").contains("ENGINE = ReplacingMergeTree(applied_at)"));
        assert!(ALL.iter().all(|m| !m.render(&cluster(false)).contains("Replicated")));
    }

    #[test]
    fn a_cluster_has_no_views_of_one_shard() {
        let names = |topology| ALL.iter().filter(|m| m.applies_to(&topology)).map(|m| m.name).collect::<BTreeSet<_>>();
        let (single, cluster) = (names(Topology::Single), names(cluster(false).topology));
        let only: Vec<_> = single.difference(&cluster).copied().collect();
        assert!(only.iter().all(|name| name.contains("views")) && only.len() == 5, "{only:?}");
        assert!(cluster.difference(&single).all(|name| name.ends_with(".cluster")));
    }

    #[test]
    fn every_target_has_a_window_in_both_topologies() {
        for (rendering, setting) in [
            (Rendering::default(), "non_replicated_deduplication_window"),
            (cluster(false), "non_replicated_deduplication_window"),
            (cluster(true), " replicated_deduplication_window "),
        ] {
            for table in [
                "events",
                "rollup_1m",
                "rollup_1h",
                "rollup_1d",
                "dead_letters",
                "control",
                "audit",
                "key_use",
                "hot_questions",
            ] {
                let file = ALL.iter().find(|m| m.name.ends_with(&format!("_{table}"))).unwrap();
                assert!(file.render(&rendering).contains(setting), "{table}");
            }
        }
    }

    #[test]
    fn small_parts_of_every_target_are_merged_many_at_a_time() {
        for rendering in [Rendering::default(), cluster(true)] {
            for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
                let file = ALL.iter().rfind(|m| m.name.ends_with(&format!("_{table}_merges"))).unwrap();
                let sql = file.render(&rendering);
                assert!(sql.contains(&format!("ALTER TABLE tallyhouse.{table} ")), "{sql}");
                assert!(sql.contains("min_parts_to_merge_at_once = 10"), "{sql}");
            }
        }
    }

    #[test]
    fn tables_of_states_have_small_granules() {
        let names: Vec<_> = ALL
            .iter()
            .filter(|m| m.render(&Rendering::default()).contains("index_granularity_bytes"))
            .map(|m| m.name)
            .collect();
        assert_eq!(names, TABLES_OF_STATES);
    }

    #[test]
    fn retention_in_the_ddl_is_what_the_planner_believes() {
        for rollup in tallyhouse_schema::Rollup::COARSEST_FIRST {
            let file = ALL.iter().find(|m| m.name.ends_with(&format!("_{}", rollup.table()))).unwrap();
            assert!(file.text.contains(&format!("bucket + toIntervalDay({})", rollup.retention_days())));
            assert!(file.text.contains(&format!("uniqCombined64({})", rollup.users_precision())));
        }
    }
}
