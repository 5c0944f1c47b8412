//! Everything that is kept about a person, as lines of JSON.

use clickhouse::Client;
use clickhouse::query::{BytesCursor, Query};

use crate::error::StoreError;

/// Of what an export reads, one after the other.
pub const TABLES: [&str; 2] = ["events", "dead_letters"];

/// A query may take so long, in seconds.
const SECONDS: &str = "600";

const EVENTS: &str = "SELECT 'events' AS `table`, * FROM tallyhouse.events FINAL \
     WHERE project_id = {project:String} AND (({user:String} != '' AND user_id = {user:String}) \
     OR ({anonymous:String} != '' AND anonymous_id = {anonymous:String})) ORDER BY ts, event_id";

/// As an erasure finds them: whole or cut events. A payload that is no text is hexadecimal.
const DEAD_LETTERS: &str = "SELECT 'dead_letters' AS `table`, * REPLACE (if(isValidUTF8(payload), payload, hex(payload)) AS payload) \
     FROM tallyhouse.dead_letters FINAL WHERE project_id = {project:String} AND kind = 'json' AND (\
     arrayExists(name -> {user:String} != '' AND trim(BOTH '\"' FROM JSONExtractRaw(payload, name)) = {user:String}, ['userId', 'user_id']) \
     OR arrayExists(name -> {anonymous:String} != '' AND trim(BOTH '\"' FROM JSONExtractRaw(payload, name)) = {anonymous:String}, \
       ['anonymousId', 'anonymous_id']) \
     OR (NOT isValidJSON(payload) AND arrayExists(id -> id != '' AND position(payload, toJSONString(id)) > 0, \
       [{user:String}, {anonymous:String}]))) ORDER BY failed_at, id";

/// Begins to read what a table has. `user` or `anonymous` may be empty.
pub fn read(
    client: &Client,
    table: &str,
    project: &str,
    user: &str,
    anonymous: &str,
) -> Result<BytesCursor, StoreError> {
    let sql = if table == "events" { EVENTS } else { DEAD_LETTERS };
    let query: Query = client.query(sql).param("project", project).param("user", user).param("anonymous", anonymous);
    let query = query
        .with_setting("max_execution_time", SECONDS)
        .with_setting("max_threads", "2")
        .with_setting("max_result_rows", "100000000")
        .with_setting("max_bytes_before_external_sort", "500000000");
    query.fetch_bytes("JSONEachRow").map_err(StoreError::from)
}
