//! Projects and events for queries.

use std::fmt::Display;
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;
use ulid::Ulid;

/// A project that no other test has; its key is its name.
pub fn new_project() -> String {
    format!("it-{}", Ulid::generate().to_string().to_lowercase())
}

/// Two days of known events: 2 an hour from `DE` and 1 from nowhere, values 10, 20 and none, three users.
pub async fn insert_events(writer: &Connection, project: &str, from: i64, hours: u64) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, toString(number), if(number % 3 = 0, 'purchase', 'view'),
            fromUnixTimestamp64Milli(({from:Int64} + intDiv(number, 3) * 3600 + number % 3 * 60) * 1000, 'UTC'),
            [10, 20, NULL][number % 3 + 1], number % 3 + 1, if(number % 3 = 2, '', 'DE') AS c, 'web',
            [('country', c), ('device', 'web'), ('country,device', concat(c, char(31), 'web'))], now64(3), 730
        FROM numbers({rows:UInt64})";
    let insert = writer.client().query(INSERT).param("project", project).param("from", from).param("rows", hours * 3);
    unheld(async || insert.clone().execute().await).await.unwrap();
}

/// Repeats an insert while a rebuild of another test holds inserts back, as whoever writes does.
pub async fn unheld<E: Display>(insert: impl AsyncFn() -> Result<(), E>) -> Result<(), E> {
    let repeated = async {
        loop {
            match insert().await {
                Err(error) if error.to_string().contains("holds inserts back for a moment") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), repeated).await.expect("a rebuild holds inserts back for a minute")
}

/// Midnight, ten days ago.
pub fn ten_days_ago() -> i64 {
    (now_ms() / 86_400_000 - 10) * 86_400
}

/// What the query API is asked for the events of the day that begins at `from`, seconds since the epoch.
pub fn a_day(from: i64) -> String {
    format!("/v1/metrics/events?granularity=day&startTime={}&endTime={}", from * 1_000, (from + 86_400) * 1_000)
}
