//! What a server has to be before tables are made on it.

use std::time::Duration;

use tokio::time::timeout;

use crate::connection::Connection;
use crate::error::StoreError;

/// The oldest ClickHouse whose inserts count once: what repeated inserts are recognised by changed up to it.
pub const OLDEST: (u32, u32) = (26, 3);

/// Why it is not suitable.
#[derive(Debug, thiserror::Error)]
pub enum UnsuitableError {
    /// It may count repeated inserts twice.
    #[error("{url} is ClickHouse {version}; {}.{} is the oldest that works: upgrade it, nothing was changed", OLDEST.0, OLDEST.1)]
    TooOld {
        /// Where it is.
        url: String,
        /// What it says of itself.
        version: String,
    },
    /// It knows the user not, or another password.
    #[error(
        "{url} does not let `{user}` in (CLICKHOUSE_USER, CLICKHOUSE_PASSWORD): an administrator makes the users with sql/access/services.sql; {source}"
    )]
    NoUser {
        /// Where it is.
        url: String,
        /// Who was refused.
        user: String,
        /// What ClickHouse said.
        source: StoreError,
    },
    /// It did not say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// `UNKNOWN_USER`, `WRONG_PASSWORD`, `REQUIRED_PASSWORD`, `IP_ADDRESS_NOT_ALLOWED`, `AUTHENTICATION_FAILED`.
const NOT_LET_IN: [u32; 5] = [192, 193, 194, 195, 516];

/// Asks the server what it is. For whoever makes tables, before anything else is asked.
pub async fn examine(connection: &Connection) -> Result<(), UnsuitableError> {
    // As text: what an older server sends in another form has to be read as well.
    let client = connection.server();
    let asked = async { client.query("SELECT version()").fetch_bytes("TabSeparated")?.collect().await };
    let answer = timeout(ANSWER_WITHIN, asked).await.map_err(|_| StoreError::TimedOut)?.map_err(StoreError::from);
    let (url, user) = (connection.url.clone(), connection.user.clone());
    match answer {
        Ok(version) => {
            let version = String::from_utf8_lossy(&version).trim().to_owned();
            if is_too_old(&version) { Err(UnsuitableError::TooOld { url, version }) } else { Ok(()) }
        }
        Err(source @ StoreError::Refused { code, .. }) if NOT_LET_IN.contains(&code) => {
            Err(UnsuitableError::NoUser { url, user, source })
        }
        Err(error) => Err(error.into()),
    }
}

/// A version that cannot be read is of a build of somebody's own.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for old in ["25.12.1.1", "26.2.9.9-lts", "9.1", "26.2"] {
            assert!(is_too_old(old), "{old}");
        }
        for fine in ["26.3.1.1", "26.10.1", "27.1.2.3", "head", ""] {
            assert!(!is_too_old(fine), "{fine}");
        }
    }
}
