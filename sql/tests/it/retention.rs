//! Events go after the days that their project keeps them.

use tallyhouse_testkit::{ask, engine, eventually, execute, new_project};

#[tokio::test]
async fn events_go_after_the_days_of_their_project_and_no_others() {
    let (writer, short, long) = (engine().await.writer(), new_project(), new_project());
    // The same days, of two projects: 40 and 5 days ago.
    for (project, days) in [(&short, 30), (&long, 60)] {
        let sql = format!(
            "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, received_at, retention_days) \
             SELECT '{project}', toString(number), 'view', now64(3) - toIntervalDay(if(number < 7, 40, 5)), now64(3), {days} \
             FROM numbers(10) SETTINGS async_insert = 0"
        );
        execute(&writer, &sql).await.unwrap();
    }
    // Of parts that hold nothing but what has expired, ClickHouse needs no merge with others: it is told to look now.
    execute(&writer, "OPTIMIZE TABLE tallyhouse.events FINAL").await.unwrap();
    let rows = async |project: &str| {
        let sql = format!(
            "SELECT groupArray(event_id) FROM (SELECT event_id FROM tallyhouse.events WHERE project_id = '{project}' ORDER BY event_id)"
        );
        ask(&writer, &sql).await.unwrap()
    };
    eventually("what has expired is gone", async || rows(&short).await == "['7','8','9']").await;
    assert_eq!(rows(&long).await.matches(',').count(), 9, "another project keeps them");
    // What was counted stays counted.
    let counted = format!(
        "SELECT sum(events) FROM tallyhouse.rollup_1d WHERE project_id = '{short}' AND dim_set = '' AND event_type = 'view'"
    );
    assert_eq!(ask(&writer, &counted).await.unwrap(), "10");
}
