//! The manifest of a backup: what belongs to it, and what has to be known to bring it back.

use serde::{Deserialize, Serialize};
use tallyhouse_ingest::direct::restored::LogPosition;
use tallyhouse_ingest::kafka::positions::PartitionPosition;

use super::BackupError;

/// Its name in the folder of a backup.
pub const FILE: &str = "manifest.json";

/// Raised when an older version could not restore what a newer one writes.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Full,
    /// What has changed since a full one.
    Incremental,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it belongs, below the target.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
    /// Where it is, when its base has the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl Entry {
    /// Where it is, below the target.
    pub fn place(&self) -> &str {
        self.at.as_deref().unwrap_or(&self.path)
    }
}

/// Where the local log stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    pub id: String,
    /// What is before it is in the tables.
    pub next: i64,
    /// What is from here on is not.
    pub end: i64,
}

impl Log {
    /// From before the tables were copied, and from after it.
    pub fn between(before: LogPosition, after: &LogPosition) -> Self {
        Self { id: before.log, next: before.next, end: after.end.max(before.end) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    pub name: String,
    pub kind: Kind,
    /// The full one that an incremental one goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Of Tallyhouse.
    pub version: String,
    /// Of ClickHouse.
    pub clickhouse: String,
    /// Everything that was acknowledged before it is in the backup; milliseconds since 1970.
    pub as_of_ms: i64,
    pub took_ms: i64,
    /// Raw events in the tables.
    pub events: u64,
    /// First offsets that may not be stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kafka: Vec<PartitionPosition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// Where a given ClickHouse has the tables, as `BACKUP_CLICKHOUSE` says it; of the embedded one they are among the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<String>,
    pub files: Vec<Entry>,
}

impl Manifest {
    pub const FORMAT: u32 = FORMAT;

    /// Reads one that belongs to a name.
    pub fn read(name: &str, text: &[u8]) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |problem: String| BackupError::Manifest { name: name.to_owned(), problem };
        let head: Head = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if head.format > FORMAT {
            return Err(BackupError::Newer { name: name.to_owned(), format: head.format });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if manifest.name != name {
            return Err(damaged(format!("it is that of {}", manifest.name)));
        }
        // They become paths below our folders.
        let strange =
            manifest.files.iter().flat_map(|file| [file.path.as_str(), file.place()]).find(|path| !is_inner(path));
        match strange {
            Some(path) => Err(damaged(format!("`{path}` is no file of a backup"))),
            None if !is_name(name) || !manifest.base.as_deref().is_none_or(is_name) => {
                Err(damaged("its name is none".to_owned()))
            }
            None => Ok(manifest),
        }
    }

    /// Bytes that were written for it, without what its base has.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter(|file| file.at.is_none()).map(|file| file.bytes).sum()
    }
}

/// Whether a path leads to a file below where it begins.
fn is_inner(path: &str) -> bool {
    !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.contains('\0')
}

/// The name of a backup that begins now: it sorts by time.
pub fn name(now_ms: i64, kind: Kind) -> String {
    let text = tallyhouse_control::time::text(now_ms);
    let digits: String = text.chars().filter(char::is_ascii_digit).take(14).collect();
    let (day, time) = digits.split_at_checked(8).unwrap_or((&digits, ""));
    let kind = match kind {
        Kind::Full => "full",
        Kind::Incremental => "incremental",
    };
    format!("{day}T{time}Z-{kind}")
}

/// Whether it can be the name of a backup, and so of a folder.
pub fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=100).contains(&text.len()) && text.chars().all(is_plain) && text != "clickhouse"
}

/// Whether a folder of this name was made by `create`.
pub(super) fn is_made(text: &str) -> bool {
    let digits =
        |from: usize, to: usize| text.get(from..to).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let kind = text.get(16..);
    digits(0, 8) && text.get(8..9) == Some("T") && digits(9, 15) && matches!(kind, Some("-full" | "-incremental"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            name: "20261128T193000Z-full".into(),
            kind: Kind::Full,
            base: None,
            version: "0.1.0".into(),
            clickhouse: "26.7".into(),
            as_of_ms: 1,
            took_ms: 2,
            events: 3,
            kafka: Vec::new(),
            log: None,
            tables: None,
            files: vec![Entry { path: "clickhouse/a/.backup".into(), bytes: 1, sha256: "x".into(), at: None }],
        }
    }

    #[test]
    fn names_sort_by_time_and_are_names() {
        let names = [1_795_894_200_000, 1_795_894_201_000].map(|ms| name(ms, Kind::Full));
        assert!(names[0] < names[1] && names.iter().all(|name| is_name(name)), "{names:?}");
        assert_eq!(name(0, Kind::Incremental), "19700101T000000Z-incremental");
        assert!(
            names.iter().all(|name| is_made(name))
                && !["clickhouse", "lock", "20261128T193000Z"].iter().any(|name| is_made(name))
        );
        for bad in ["", "..", "a/b", "clickhouse", "a b", &"a".repeat(101)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_leads_elsewhere() {
        let good = manifest();
        let read =
            |manifest: &Manifest| Manifest::read("20261128T193000Z-full", &serde_json::to_vec(manifest).unwrap());
        assert_eq!(read(&good).unwrap(), good);
        for path in ["/etc/passwd", "../credentials", "clickhouse/../../x", "a//b", ""] {
            let mut bad = good.clone();
            bad.files[0].path = path.into();
            assert!(matches!(read(&bad), Err(BackupError::Manifest { .. })), "{path}");
            bad.files[0] = Entry { at: Some(path.into()), ..good.files[0].clone() };
            assert!(matches!(read(&bad), Err(BackupError::Manifest { .. })), "{path}");
        }
        assert!(matches!(read(&Manifest { name: "other".into(), ..good.clone() }), Err(BackupError::Manifest { .. })));
        assert!(matches!(
            read(&Manifest { base: Some("../x".into()), ..good.clone() }),
            Err(BackupError::Manifest { .. })
        ));
    }

    #[test]
    fn a_newer_one_is_refused_whatever_else_is_in_it() {
        let read = Manifest::read("n", br#"{"format": 2, "shape": []}"#);
        assert!(matches!(read, Err(BackupError::Newer { format: 2, .. })));
    }
}
