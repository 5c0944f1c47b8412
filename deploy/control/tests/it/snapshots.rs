//! What a process knows, also while ClickHouse is away.

use std::fs;

use tallyhouse_control::records::KeyDocument;
use tallyhouse_control::{KeyError, key_text};
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{Folder, ask, engine, engine_in, eventually};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{control, project_with_key, put, store};

#[tokio::test]
async fn a_key_that_was_made_elsewhere_opens_at_its_first_use_and_a_revoked_one_closes_within_five_seconds() {
    let writer = engine().await.writer();
    let (store, here) = (store(&writer), control(&writer, None));
    let stop = CancellationToken::new();
    let running = tokio::spawn(here.clone().run(stop.clone()));
    eventually("it has read", async || here.snapshot().mark().is_some()).await;
    let (document, text) = project_with_key(&store, "elsewhere", "key_elsewhere").await;
    let key = here.authenticate(text.expose()).await.unwrap();
    assert_eq!((key.principal.project(), &*key.id), (Some("elsewhere"), "key_elsewhere"));

    put(&store, "elsewhere", "key_elsewhere", 1, &KeyDocument { revoked_ms: Some(now_ms()), ..document })
        .await
        .unwrap();
    let revoked = Instant::now();
    eventually("it is closed", async || here.find(text.expose()).is_err()).await;
    assert_eq!(here.find(text.expose()).unwrap_err(), KeyError::Revoked);
    assert!(revoked.elapsed().as_secs() < 5, "{:?}", revoked.elapsed());
    stop.cancel();
    running.await.unwrap();
    // The key was used: that was written at the end.
    let used = tallyhouse_control::key_use::last_used(&store, Some("elsewhere")).await.unwrap();
    assert!(now_ms() - used["key_elsewhere"] < 60_000, "{used:?}");
}

/// Statements that ClickHouse has answered.
async fn statements(connection: &Connection) -> u64 {
    ask(connection, "SELECT sum(value) FROM system.events WHERE event = 'Query'").await.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_clickhouse_is_away_keys_open_and_what_was_revoked_stays_revoked_also_after_a_restart() {
    let (folder, data) = (Folder::create(), Folder::create());
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    let (store, here) = (store(&writer), control(&writer, Some(data.path().to_owned())));
    let (_, good) = project_with_key(&store, "shop", "key_good").await;
    let (document, revoked) = project_with_key(&store, "old", "key_revoked").await;
    here.refresh().await.unwrap();
    assert!(here.find(good.expose()).is_ok() && here.find(revoked.expose()).is_ok());
    put(&store, "old", "key_revoked", 1, &KeyDocument { revoked_ms: Some(now_ms()), ..document }).await.unwrap();
    here.refresh().await.unwrap();

    // A flood of keys that look right asks ClickHouse a few times, and holds nothing.
    let (before, began) = (statements(&writer).await, Instant::now());
    let flood = (0..10_000).map(|_| {
        let (here, text) = (here.clone(), key_text::generate(&[Scope::Query]));
        tokio::spawn(async move { here.authenticate(text.expose()).await.map(drop) })
    });
    for refused in flood.collect::<Vec<_>>() {
        assert_eq!(refused.await.unwrap(), Err(KeyError::Unknown));
    }
    let (asked, seconds) = (statements(&writer).await - before, began.elapsed().as_secs() + 1);
    assert!(asked <= 5 * seconds + 2, "{asked} statements in {seconds} s");
    assert_eq!(here.snapshot().keys().count(), 2);

    engine.stop(std::time::Duration::from_secs(10)).await;
    let health = Health::default();
    here.report_to(&health);
    here.refresh().await.unwrap_err();
    assert_eq!(health.report().components["control"].status, Status::Degraded);
    assert!(health.is_ready(), "{:?}", health.report());
    let restarted = control(&writer, Some(data.path().to_owned()));
    for control in [&here, &restarted] {
        assert_eq!(&*control.authenticate(good.expose()).await.unwrap().id, "key_good");
        assert_eq!(control.authenticate(revoked.expose()).await.unwrap_err(), KeyError::Revoked);
        let unknown = key_text::generate(&[Scope::Query]);
        assert_eq!(control.authenticate(unknown.expose()).await.unwrap_err(), KeyError::Unknown);
    }
    // A copy that somebody has changed is not believed: nobody is let in by it.
    let copy = data.path().join("control-test.json");
    let text = fs::read_to_string(&copy).unwrap().replace("\\\"revokedMs\\\":", "\\\"revokedAt\\\":");
    fs::write(&copy, text).unwrap();
    let damaged = control(&writer, Some(data.path().to_owned()));
    assert_eq!(damaged.authenticate(revoked.expose()).await.unwrap_err(), KeyError::NotLoaded);
}
