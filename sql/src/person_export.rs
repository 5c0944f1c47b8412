//! Everything that is kept about a person, as lines of JSON.

use clickhouse::Client;
use clickhouse::query::{BytesCursor, Query};

use crate::error::StoreError;
use crate::person_dead_letters::Sought;

/// Of what an export reads, one after the other.
pub const TABLES: [&str; 2] = ["events", "dead_letters"];

/// A query may take so long, in seconds.
const SECONDS: &str = "600";

const EVENTS: &str = "SELECT 'events' AS `table`, * FROM tallyhouse.events FINAL \
     WHERE project_id = {project:String} AND (({user:String} != '' AND user_id = {user:String}) \
     OR ({anonymous:String} != '' AND anonymous_id = {anonymous:String})) ORDER BY ts, event_id";

/// As an erasure finds them. A payload that is no text is hexadecimal.
fn dead_letters() -> String {
    let given = |parameter: &str| format!("arrayFilter(id -> id != '', [{{{parameter}:String}}])");
    let (users, anonymous) = (given("user"), given("anonymous"));
    let sought = Sought { project: "{project:String}", and: "", users: &users, anonymous: &anonymous };
    format!(
        "SELECT 'dead_letters' AS `table`, * REPLACE (if(isValidUTF8(payload), payload, hex(payload)) AS payload) \
         FROM (SELECT * FROM tallyhouse.dead_letters FINAL WHERE {}) ORDER BY failed_at, id",
        sought.condition()
    )
}

/// Begins to read what a table has. `user` or `anonymous` may be empty.
pub fn read(
    client: &Client,
    table: &str,
    project: &str,
    user: &str,
    anonymous: &str,
) -> Result<BytesCursor, StoreError> {
    let sql = if table == "events" { EVENTS.to_owned() } else { dead_letters() };
    let query: Query =
        client.query_raw(&sql).param("project", project).param("user", user).param("anonymous", anonymous);
    let query = query
        .with_setting("max_execution_time", SECONDS)
        .with_setting("max_threads", "2")
        .with_setting("max_result_rows", "100000000")
        .with_setting("max_bytes_before_external_sort", "500000000");
    query.fetch_bytes("JSONEachRow").map_err(StoreError::from)
}
