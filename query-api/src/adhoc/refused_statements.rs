//! Remembers statements that reached a limit: a retry would only cost ClickHouse the same seconds.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::AdhocError;
use super::sql_api::SqlRequest;
use crate::authorize::Scope;
use crate::cache::refusals::REFUSED_MS;

/// Bytes of statements that are remembered.
const BYTES: u64 = 4 << 20;

/// The refusals of this process. Clones share them.
#[derive(Debug, Clone)]
pub struct RefusedStatements {
    known: Cache<Arc<str>, (&'static str, &'static str)>,
}

impl Default for RefusedStatements {
    fn default() -> Self {
        let weigh = |key: &Arc<str>, _: &_| u32::try_from(key.len() + 64).unwrap_or(u32::MAX);
        let lifetime = Duration::from_millis(REFUSED_MS.unsigned_abs());
        Self { known: Cache::builder().max_capacity(BYTES).weigher(weigh).time_to_live(lifetime).build() }
    }
}

impl RefusedStatements {
    /// Refuses what was refused just now.
    pub fn check(&self, scope: &Scope, ask: &SqlRequest) -> Result<(), AdhocError> {
        match self.known.get(&key(scope, ask)) {
            Some((limit, fits)) => Err(AdhocError::Limit { limit, fits }),
            None => Ok(()),
        }
    }

    /// Remembers limits, and no other failure.
    pub fn failed(&self, scope: &Scope, ask: &SqlRequest, error: &AdhocError) {
        if let AdhocError::Limit { limit, fits } = error {
            self.known.insert(key(scope, ask), (limit, fits));
        }
    }
}

/// Whose it is, and all that it costs: how the rows are written makes no difference to most limits, but it does to that of bytes.
fn key(scope: &Scope, SqlRequest { sql, format, params, int64 }: &SqlRequest) -> Arc<str> {
    format!("{:?}", (scope.project(), sql, format, params, int64)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_remembered_for_a_project_and_a_statement() {
        let (refused, project) = (RefusedStatements::default(), Scope::for_test("p"));
        let ask = |sql: &str| SqlRequest::parse(format!(r#"{{"sql":"{sql}","params":{{"a":1}}}}"#).as_bytes()).unwrap();
        let limit = AdhocError::Limit { limit: "2 GB of memory", fits: "less" };
        refused.failed(&project, &ask("SELECT 1"), &limit);
        refused.failed(&project, &ask("SELECT 2"), &AdhocError::NotSetUp);
        assert_eq!(refused.check(&project, &ask("SELECT 1")).unwrap_err().to_string(), limit.to_string());
        assert!(refused.check(&project, &ask("SELECT 2")).is_ok());
        assert!(refused.check(&Scope::for_test("q"), &ask("SELECT 1")).is_ok());
        let other = SqlRequest { params: serde_json::Map::new(), ..ask("SELECT 1") };
        assert!(refused.check(&project, &other).is_ok());
    }
}
