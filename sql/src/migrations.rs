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
    /// A cluster of this name in `remote_servers`: `ON CLUSTER`, `Replicated…` engines (their path comes from the server's
    /// `default_replica_path`), local tables `…_local` and Distributed ones in front of them.
    Cluster(String),
}

impl Topology {
    /// The table of what runs, on every server.
    pub fn processes(&self) -> String {
        match self {
            Self::Single => "system.processes".to_owned(),
            Self::Cluster(name) => format!("clusterAllReplicas('{name}', system.processes)"),
        }
    }
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
    "0012_events_distributed.cluster",
    "0013_rollup_1m_distributed.cluster",
    "0014_rollup_1h_distributed.cluster",
    "0015_rollup_1d_distributed.cluster",
    "0016_dead_letters",
    "0017_dead_letters_distributed.cluster",
    "0018_metric_definitions",
    "0019_metric_definitions_distributed.cluster",
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
    "0070_control",
    "0071_control_distributed.cluster",
    "0072_audit",
    "0073_audit_distributed.cluster",
    "0074_key_use",
    "0075_key_use_distributed.cluster",
    "0090_privacy_subjects",
    "0091_suppression_acks",
    "0092_control_metrics",
];

impl Migration {
    /// The number in front of the name.
    pub fn version(&self) -> u32 {
        self.name.split('_').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
    }

    /// Whether the file is there for this topology; `*.cluster.sql` files are for clusters only.
    pub fn applies_to(&self, topology: &Topology) -> bool {
        matches!(topology, Topology::Cluster(_)) || !self.name.ends_with(".cluster")
    }

    /// SHA-256 of the text as written, in hexadecimal.
    pub fn checksum(&self) -> String {
        hex(&Sha256::digest(self.text.as_bytes()))
    }

    /// The statement to run.
    pub fn render(&self, rendering: &Rendering) -> String {
        let cluster = match &rendering.topology {
            Topology::Single => None,
            Topology::Cluster(name) => Some(name.as_str()),
        };
        let window = match cluster {
            None => format!("non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"),
            // The time limit of the replicated window is an hour by default: a longer outage would lose its protection.
            Some(_) => format!(
                "replicated_deduplication_window = {DEDUPLICATION_WINDOW}, replicated_deduplication_window_seconds = 604800"
            ),
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
            .replace("{{on_cluster}}", &cluster.map(|name| format!("ON CLUSTER '{name}'")).unwrap_or_default())
            .replace("{{cluster}}", cluster.unwrap_or_default())
            .replace("{{replicated}}", cluster.map_or("", |_| "Replicated"))
            .replace("{{local}}", cluster.map_or("", |_| "_local"))
            .replace("{{dedup_window}}", &format!("{window}{granule}"))
            .replace("{{processes}}", &rendering.topology.processes())
            .replace("{{storage_policy}}", &policy.map(|p| format!(", storage_policy = '{p}'")).unwrap_or_default());
        cold_tier(&text, policy.is_some())
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

    fn cluster() -> Rendering {
        Rendering { topology: Topology::Cluster("c1".into()), tiered_policy: Some("tiered".into()) }
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
        for rendering in [Rendering::default(), cluster()] {
            for migration in ALL.iter().filter(|m| m.applies_to(&rendering.topology)) {
                let sql = migration.render(&rendering);
                assert!(!sql.contains("{{") && !sql.contains("}}"), "{sql}");
            }
        }
    }

    #[test]
    fn every_target_has_a_window_in_both_topologies() {
        for (rendering, setting) in [
            (Rendering::default(), "non_replicated_deduplication_window"),
            (cluster(), " replicated_deduplication_window "),
        ] {
            for table in
                ["events", "rollup_1m", "rollup_1h", "rollup_1d", "dead_letters", "control", "audit", "key_use"]
            {
                let file = ALL.iter().find(|m| m.name.ends_with(&format!("_{table}"))).unwrap();
                assert!(file.render(&rendering).contains(setting), "{table}");
            }
        }
    }

    #[test]
    fn small_parts_of_every_target_are_merged_many_at_a_time() {
        for (rendering, local) in [(Rendering::default(), ""), (cluster(), "_local")] {
            for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
                let file = ALL.iter().rfind(|m| m.name.ends_with(&format!("_{table}_merges"))).unwrap();
                let sql = file.render(&rendering);
                assert!(sql.contains(&format!("ALTER TABLE tallyhouse.{table}{local} ")), "{sql}");
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
