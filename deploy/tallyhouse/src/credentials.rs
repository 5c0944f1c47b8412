//! The generated secrets of an installation.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tallyhouse_service::private_file::{self, PrivateFile};
use tallyhouse_service::secret::Secret;

/// Passwords of the embedded ClickHouse, and the key under which users are hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Password of `writer`.
    pub writer: Secret,
    /// Password of `reader`.
    pub reader: Secret,
    /// Password of `grafana`.
    pub grafana: Secret,
    /// Password of `analyst`.
    pub analyst: Secret,
    /// 32 hexadecimal digits. Losing it makes every user of the past a stranger: unique counts would start anew.
    pub user_hash_key: Secret,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// Somebody else may have read it.
    #[error(
        "{} may be read or written by others (mode {mode:o}): `chmod 600` it; whoever has read it knows the passwords of ClickHouse, and under which key users are hashed",
        .path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    /// A line is missing.
    #[error("{}: {name} is missing; put it back from a backup (a new one would not fit the data)", .path.display())]
    Missing { path: PathBuf, name: &'static str },
}

const WRITER: &str = "WRITER_PASSWORD";
const READER: &str = "READER_PASSWORD";
const GRAFANA: &str = "GRAFANA_PASSWORD";
const ANALYST: &str = "ANALYST_PASSWORD";
const USER_HASH_KEY: &str = "USER_HASH_KEY";

/// Written for people; nothing here reads it.
const OPERATOR_KEY: &str = "OPERATOR_KEY";

/// The lines that are ours to read.
const OURS: [&str; 5] = [WRITER, READER, GRAFANA, ANALYST, USER_HASH_KEY];

/// Under which development systems hashed users when they had no file.
const DEVELOPMENT_HASH_KEY: &str = "000102030405060708090a0b0c0d0e0f";

impl Credentials {
    /// Fixed ones, for tests: nothing else is started with them.
    pub fn fixed() -> Self {
        Self {
            writer: Secret::new("dev"),
            reader: Secret::new("dev"),
            grafana: Secret::new("dev"),
            analyst: Secret::new("dev"),
            user_hash_key: Secret::new(DEVELOPMENT_HASH_KEY),
        }
    }

    /// As [`Credentials::load_or_create`]. A development folder of an older version has no such file, and its users are hashed
    /// under a well-known key: that stays, or they would be counted as strangers.
    pub fn for_development(data: &Path) -> Result<Self, CredentialsError> {
        let is_older = Self::load(data)?.is_none() && data.join("clickhouse").exists();
        if is_older {
            Self { user_hash_key: Secret::new(DEVELOPMENT_HASH_KEY), ..Self::random() }.keep(data)?;
        }
        Self::load_or_create(data)
    }

    /// Those in `credentials` below the data folder; made up and written, for the owner's eyes only, at the first start.
    pub fn load_or_create(data: &Path) -> Result<Self, CredentialsError> {
        let (known, is_complete) = Self::load(data)?.unwrap_or_else(|| (Self::random(), false));
        if !is_complete {
            known.keep(data)?;
        }
        Ok(known)
    }

    /// Writes them to `credentials` below a data folder.
    pub fn keep(&self, data: &Path) -> Result<(), CredentialsError> {
        let is_ours = |line: &&str| line.split_once('=').is_some_and(|(name, _)| OURS.contains(&name.trim()));
        replace(data, |before| {
            let others = before.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n"));
            self.text() + &others.collect::<String>()
        })?;
        Ok(())
    }

    /// Adds the operator's key, in place of another one. Returns the file.
    pub fn keep_operator_key(data: &Path, key: &Secret) -> Result<PathBuf, CredentialsError> {
        replace(data, |before| {
            let others = before.lines().filter(|line| !line.starts_with(OPERATOR_KEY)).map(|line| format!("{line}\n"));
            others.collect::<String>() + &format!("{OPERATOR_KEY}={}\n", key.expose())
        })
    }

    /// Those that are there, and whether all are; `None` before the first start. Writes nothing.
    pub fn load(data: &Path) -> Result<Option<(Self, bool)>, CredentialsError> {
        let path = data.join("credentials");
        match PrivateFile::read(&path) {
            Ok(file) if file.is_open() => Err(CredentialsError::Open { path, mode: file.mode }),
            // With a given ClickHouse the file holds nothing but an operator's key. One that was cut is told: what was in it fits the data.
            Ok(file) if holds_operators_key_alone(&file.text) && !data.join("clickhouse").exists() => Ok(None),
            Ok(file) => Self::parse(&path, &file.text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialsError::File { path, source }),
        }
    }

    fn random() -> Self {
        Self { writer: secret(), reader: secret(), grafana: secret(), analyst: secret(), user_hash_key: secret() }
    }

    /// Also tells whether all are there: the file of an older version has no password of `analyst`, which is then made.
    fn parse(path: &Path, text: &str) -> Result<(Self, bool), CredentialsError> {
        let mut lines: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once('=')).collect();
        let mut take = |name| match lines.remove(name) {
            Some(value) if !value.is_empty() => Ok(Secret::new(value)),
            _ => Err(CredentialsError::Missing { path: path.to_owned(), name }),
        };
        let analyst = take(ANALYST).ok();
        let is_complete = analyst.is_some();
        let known = Self {
            writer: take(WRITER)?,
            reader: take(READER)?,
            grafana: take(GRAFANA)?,
            analyst: analyst.unwrap_or_else(secret),
            user_hash_key: take(USER_HASH_KEY)?,
        };
        Ok((known, is_complete))
    }

    fn text(&self) -> String {
        let lines = [
            (WRITER, &self.writer),
            (READER, &self.reader),
            (GRAFANA, &self.grafana),
            (ANALYST, &self.analyst),
            (USER_HASH_KEY, &self.user_hash_key),
        ];
        lines.map(|(name, secret)| format!("{name}={}\n", secret.expose())).concat()
    }
}

/// Writes what becomes of the file, for the owner's eyes only. Returns its path.
fn replace(data: &Path, change: impl FnOnce(&str) -> String) -> Result<PathBuf, CredentialsError> {
    let path = data.join("credentials");
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(data)?;
        let before = match PrivateFile::read(&path) {
            Ok(file) => file.text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        private_file::write(&path, &change(&before))
    };
    write().map_err(|source| CredentialsError::File { path: path.clone(), source })?;
    Ok(path)
}

/// The thread's generator is a cryptographic one, seeded by the system.
fn secret() -> Secret {
    Secret::new(format!("{:032x}", rand::random::<u128>()))
}

/// Whether nothing of ours is in the file's text, and an operator's key is.
fn holds_operators_key_alone(text: &str) -> bool {
    let has = |name: &str| {
        text.lines().any(|line| line.trim().split_once('=').is_some_and(|(found, _)| found.trim() == name))
    };
    has(OPERATOR_KEY) && !OURS.iter().any(|name| has(name))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn they_are_private_from_the_start_and_refused_when_others_may_read_them() {
        let data = std::env::temp_dir().join(format!("tallyhouse-credentials-{}", std::process::id()));
        let made = Credentials::load_or_create(&data).unwrap();
        let path = data.join("credentials");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Credentials::load_or_create(&data).unwrap(), made);
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = Credentials::load_or_create(&data).unwrap_err().to_string();
            assert!(refused.contains("chmod 600") && !refused.contains(made.writer.expose()), "{refused}");
        }
        fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn an_operators_key_and_what_others_wrote_stay() {
        let data = std::env::temp_dir().join(format!("tallyhouse-operator-{}", std::process::id()));
        let path = Credentials::keep_operator_key(&data, &Secret::new("th_adm_1")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Credentials::load(&data).unwrap(), None, "there is nothing but the operator's key");
        let made = Credentials::load_or_create(&data).unwrap();
        private_file::write(&path, &(fs::read_to_string(&path).unwrap() + "# mine\n")).unwrap();
        Credentials::keep_operator_key(&data, &Secret::new("th_adm_2")).unwrap();
        made.keep(&data).unwrap();
        assert_eq!(Credentials::load_or_create(&data).unwrap(), made);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("OPERATOR_KEY=th_adm_2\n") && text.contains("# mine\n"), "{text}");
        assert!(!text.contains("th_adm_1") && text.matches("WRITER_PASSWORD").count() == 1, "{text}");
        // What was lost is not made up: it would not fit the data.
        for cut in ["", "# mine\n", "OPERATOR_KEY=th_adm_2\n"] {
            private_file::write(&path, cut).unwrap();
            fs::create_dir_all(data.join("clickhouse")).unwrap();
            let missing = Credentials::load_or_create(&data).unwrap_err().to_string();
            assert!(missing.contains("is missing; put it back from a backup"), "{missing}");
        }
        fs::remove_dir_all(data).unwrap();
    }
}
