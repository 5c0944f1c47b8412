//! The migration files in order, and their rendering for a single node or a cluster.
//!
//! A file is one statement with a few `{{placeholders}}`. ClickHouse has no transactional DDL, so every statement can be
//! run again; files are never edited after they were applied (their checksum is recorded) and numbers are never reused.
//!
//! A new installation gets the baseline (0101 to 0199), which makes each table once. Files of before 0.1.0 (0001 to 0095) made the same
//! tables step by step; an installation that has recorded one of them goes on with those, wherever it stands, and not with the baseline
//! (`of_recorded`). Everything from 0200 on is for both.

use sha2::{Digest, Sha256};

use crate::hexadecimal::hex;

mod files;

pub use files::{ALL, BEFORE_BASELINE};

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
    /// The storage policy of raw events; `None`: the server's default.
    pub storage_policy: Option<&'static str>,
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

/// The last number of the baseline; those below 100 are of before it.
const BASELINE_ENDS: u32 = 199;

/// The files of an installation that has recorded these numbers: an older one has the tables of the baseline by the old files.
pub(crate) fn of_recorded(recorded: impl IntoIterator<Item = u32>) -> Vec<&'static Migration> {
    if recorded.into_iter().all(|version| version > 99) {
        return ALL.iter().collect();
    }
    BEFORE_BASELINE.iter().chain(ALL.iter().filter(|migration| migration.version() > BASELINE_ENDS)).collect()
}

impl Migration {
    /// The number in front of the name.
    pub fn version(&self) -> u32 {
        self.name.split('_').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
    }

    /// Whether the file is there for this topology; `*.cluster.sql` files are for clusters only, and the views of one server
    /// (0120 to 0124) for single servers.
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
        let policy = rendering.storage_policy.map(|policy| format!(", storage_policy = '{policy}'"));
        let text = self
            .text
            .replace("{{cluster}}", cluster.map_or("", |tables| &tables.name))
            .replace("{{dedup_window}}", &window)
            .replace("{{storage_policy}}", &policy.unwrap_or_default());
        // Of before the baseline. Each server is given each statement by itself: see `runner`.
        let text =
            text.replace("{{on_cluster}}", "").replace("{{local}}", "").replace("{{processes}}", "system.processes");
        engine(&text.replace("{{cold_tier:toDateTime(ts) + toIntervalDay(30)}}", ""), is_replicated)
    }
}

/// Tables that each server has for itself, also where a shard has several.
const OF_ONE_SERVER: [&str; 2] = ["0002_migrations", "0102_migrations"];

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cluster(is_replicated: bool) -> Rendering {
        let topology = Topology::Cluster(ClusterTables { name: "c1".into(), is_replicated });
        Rendering { topology, storage_policy: Some("tiered") }
    }

    fn file(name: &str) -> &'static Migration {
        ALL.iter().find(|migration| migration.name == name).unwrap()
    }

    #[test]
    fn the_lists_are_the_folders() {
        for (list, folder) in [(ALL, "/migrations"), (BEFORE_BASELINE, "/migrations/before-0.1.0")] {
            let folder = std::fs::read_dir(format!("{}{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let files = folder.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().unwrap().is_file());
            let files: BTreeSet<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
            assert_eq!(files, list.iter().map(|m| format!("{}.sql", m.name)).collect());
            assert!(list.iter().map(Migration::version).is_sorted_by(|before, after| before < after));
        }
        assert!(ALL.iter().all(|m| m.version() > 100) && BEFORE_BASELINE.iter().all(|m| m.version() < 100));
    }

    /// Installations have recorded what they were made of by its checksum.
    #[test]
    fn files_of_before_the_baseline_are_as_they_were_applied() {
        let checksums: String = BEFORE_BASELINE.iter().map(Migration::checksum).collect();
        assert_eq!(
            hex(&Sha256::digest(checksums.as_bytes())),
            "0b81c1fe8947f0b3528a3710cbab07a1c114a16a40b747ad32447b9f156f446e"
        );
    }

    #[test]
    fn an_installation_goes_on_with_what_it_began_with() {
        let first = |recorded: &[u32]| of_recorded(recorded.iter().copied()).first().unwrap().version();
        assert_eq!([first(&[]), first(&[101]), first(&[101, 102, 200])], [101; 3]);
        assert_eq!([first(&[1, 2]), first(&[1, 2, 95]), first(&[1, 2, 95, 200])], [1; 3]);
        let last = of_recorded([1]).last().unwrap().version();
        assert!(last == 95 || last > BASELINE_ENDS, "{last}");
    }

    #[test]
    fn nothing_is_left_to_render() {
        for rendering in [Rendering::default(), cluster(false), cluster(true)] {
            for migration in ALL.iter().chain(BEFORE_BASELINE).filter(|m| m.applies_to(&rendering.topology)) {
                let sql = migration.render(&rendering);
                assert!(!sql.contains("{{") && !sql.contains("}}"), "{sql}");
            }
        }
    }

    #[test]
    fn a_table_is_made_once() {
        let makes = |text: &str| text.lines().any(|line| line.starts_with("CREATE"));
        assert!(ALL.iter().filter(|m| m.version() <= BASELINE_ENDS).all(|m| makes(m.text)));
    }

    #[test]
    fn a_replicated_table_has_a_path_of_its_own_and_the_ledger_none() {
        let render = |name: &str| file(name).render(&cluster(true));
        let path = "('/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";
        assert!(render("0103_events").contains(&format!("ReplicatedReplacingMergeTree{path}, received_at)\n")));
        assert!(render("0105_rollup_1h").contains(&format!("ReplicatedAggregatingMergeTree{path})\n")));
        assert!(render("0102_migrations").contains("ENGINE = ReplacingMergeTree(applied_at)"));
        assert!(ALL.iter().all(|m| !m.render(&cluster(false)).contains("Replicated")));
    }

    #[test]
    fn raw_events_alone_have_the_policy() {
        let with: Vec<_> =
            ALL.iter().filter(|m| m.render(&cluster(false)).contains("'tiered'")).map(|m| m.name).collect();
        assert_eq!(with, ["0103_events"]);
        assert!(!file("0103_events").render(&Rendering::default()).contains("storage_policy"));
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
        for name in ["0103_events", "0104_rollup_1m", "0105_rollup_1h", "0106_rollup_1d"] {
            assert!(file(name).text.contains("min_parts_to_merge_at_once = 10"), "{name}");
        }
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
