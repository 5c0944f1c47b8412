//! Creating is compare-and-set.

use std::time::Duration;

use tallyhouse_control::{ControlError, Kind};
use tallyhouse_testkit::{engine, execute};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{control, schema, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_hundred_who_create_a_version_at_once_one_wins() {
    let writer = engine().await.writer();
    let stores: Vec<_> = (0..4).map(|_| store(&writer)).collect();
    let mut creating = JoinSet::new();
    for number in 0..200 {
        let store = stores[number % stores.len()].clone();
        creating.spawn(async move {
            let document = format!("{{\"by\":{number}}}");
            (store.create(&schema("stampede", "signup", 0, &document)).await, document)
        });
    }
    let (mut winners, mut losers) = (Vec::new(), 0);
    for (outcome, document) in creating.join_all().await {
        match outcome {
            Ok(version) => winners.push((version, document)),
            Err(error) => {
                assert_eq!(error, ControlError::Conflict { in_force: 1 });
                losers += 1;
            }
        }
    }
    assert_eq!((winners.len(), losers, winners[0].0), (1, 199, 1), "{winners:?}");
    for store in &stores {
        let versions = store.versions(Kind::Schema, "stampede", "signup", 10).await.unwrap();
        assert_eq!(versions.iter().map(|record| &record.document).collect::<Vec<_>>(), [&winners[0].1]);
        // As another process sees it, at once.
        let control = control(&writer, None);
        control.refresh().await.unwrap();
        let snapshot = control.snapshot();
        assert_eq!(snapshot.record(Kind::Schema, "stampede", "signup").unwrap().document, winners[0].1);
    }
}

#[tokio::test]
async fn only_the_version_in_force_is_replaced() {
    let store = store(&engine().await.writer());
    let create = async |replaces, document| store.create(&schema("steps", "a", replaces, document)).await;
    assert_eq!(create(1, "{}").await, Err(ControlError::Conflict { in_force: 0 }));
    assert_eq!(create(0, "{}").await, Ok(1));
    assert_eq!(create(0, "{}").await, Err(ControlError::Conflict { in_force: 1 }));
    assert_eq!(create(1, r#"{"odd":"\n'`{x:String}?\u0000é"}"#).await, Ok(2));
    let found = store.in_force(Kind::Schema, "steps", "a").await.unwrap().unwrap();
    assert_eq!((found.version, found.document.as_str()), (2, r#"{"odd":"\n'`{x:String}?\u0000é"}"#));
    assert_eq!(found.created_by, "test");
    let long = "x".repeat(300 << 10);
    assert_eq!(create(2, &long).await, Err(ControlError::TooLarge { found: 300 << 10 }));
}

#[tokio::test]
async fn names_that_look_alike_do_not_swallow_each_other() {
    let store = store(&engine().await.writer());
    let names = [("alike", "b/1"), ("alike", "1/b"), ("alike", "b"), ("alike/1", "b"), ("", "alike"), ("alike", "")];
    for (project, name) in names {
        assert_eq!(store.create(&schema(project, name, 0, "{}")).await, Ok(1), "{project:?} {name:?}");
        assert_eq!(store.create(&schema(project, name, 1, "{}")).await, Ok(2), "{project:?} {name:?}");
    }
}

/// Rows are never removed by us; an operator may have done it, or have restored a table in place.
#[tokio::test]
async fn a_version_whose_token_is_remembered_is_written_all_the_same() {
    let writer = engine().await.writer();
    let store = store(&writer);
    assert_eq!(store.create(&schema("swallowed", "a", 0, "{}")).await, Ok(1));
    let delete = "ALTER TABLE tallyhouse.control DELETE WHERE project_id = 'swallowed' SETTINGS mutations_sync = 2";
    execute(&writer, delete).await.unwrap();
    let before = Instant::now();
    assert_eq!(store.create(&schema("swallowed", "a", 0, "{\"again\":1}")).await, Ok(1));
    assert!(before.elapsed() >= Duration::from_secs(2), "ClickHouse did not remember the token: this shows nothing");
    let found = store.in_force(Kind::Schema, "swallowed", "a").await.unwrap().unwrap();
    assert_eq!(found.document, "{\"again\":1}");
}
