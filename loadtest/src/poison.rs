//! Poison: events of a type that the store refuses for good, one in so many. The rest must be exact, and each of them a dead letter.

use crate::clickhouse::{ClickHouse, ClickHouseError};

/// The type that is refused.
pub const POISON: &str = "poison";

/// What an event is refused with when the answer waits for it.
pub const REFUSED_BY_STORE: &str = "refused_by_store";

/// Stands in the reason of each dead letter.
pub(crate) const WHY: &str = "no_poison";

/// How the store refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A rollup has a constraint, so that other tables may have taken what it refuses.
    Constraint,
    /// A view throws.
    View,
}

impl Refusal {
    /// Makes the store refuse it from now on.
    pub async fn install(self, clickhouse: &ClickHouse) -> Result<(), ClickHouseError> {
        let sql = match self {
            Self::Constraint => {
                format!("ALTER TABLE tallyhouse.rollup_1h ADD CONSTRAINT {WHY} CHECK event_type != '{POISON}'")
            }
            Self::View => format!(
                "CREATE MATERIALIZED VIEW tallyhouse.{WHY} ENGINE = Null AS \
                 SELECT throwIf(CAST(event_type, 'String') = '{POISON}', '{WHY}') AS x FROM tallyhouse.events_in"
            ),
        };
        clickhouse.raw(&sql).await.map(drop)
    }
}
