//! Finds raw events that lack dimensions which their type declares.

use serde::{Deserialize, Serialize};
use tallyhouse_control::schemas::Catalogues;
use tallyhouse_schema::DimSet;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::rollups::Selection;

use super::{of, scopes};

/// Raw events of one type that are not counted under a set that it declares.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Uncounted {
    /// The project that the events belong to.
    pub project_id: String,
    /// The type that declares the set.
    pub event_type: String,
    /// The set of dimensions that they lack, as in `dim_set`.
    pub dim_set: String,
    /// Events that lack it.
    pub events: u64,
    /// UTC date of the first.
    pub first: String,
    /// UTC date of the last.
    pub last: String,
}

/// Raw events of a selection that lack a set which their type declares.
pub async fn uncounted(
    client: &Client,
    catalogues: &Catalogues,
    selection: &Selection,
) -> Result<Vec<Uncounted>, StoreError> {
    let mut found = Vec::new();
    for scope in scopes(catalogues, selection) {
        for event_type in scope.catalogue.declared() {
            let sets: Vec<&str> = scope.catalogue.event_type(event_type).sets.iter().map(DimSet::key).collect();
            let sql = format!(
                "SELECT toString(project_id) AS project_id, toString(event_type) AS event_type, arrayJoin(arrayFilter(s -> NOT \
                 arrayExists(d -> d.1 = s, dims), {{sets:Array(String)}})) AS dim_set, count() AS events, \
                 toString(toDate(min(ts), 'UTC')) AS first, toString(toDate(max(ts), 'UTC')) AS last \
                 FROM tallyhouse.events FINAL WHERE {} GROUP BY project_id, event_type, dim_set ORDER BY project_id, dim_set",
                of(&scope)
            );
            let query = client.query(&sql).param("sets", sets).param("type", event_type);
            let query = query.param("project", scope.project).param("except", &scope.except);
            found.extend(query.fetch_all::<Uncounted>().await?);
        }
    }
    Ok(found)
}
