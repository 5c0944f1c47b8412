//! Limits of addresses and of events, over HTTP: what is taken, what is refused by index, and what every answer says.

use serde_json::{Value, json};
use tallyhouse_service::http_client::Reply;

use tallyhouse_testkit::ingest_service::{EVENTS, Service, everywhere, json};
use tallyhouse_testkit::{self as support, Folder, Redis, new_project};

fn batch(ids: std::ops::Range<u32>) -> String {
    let events: Vec<Value> = ids.map(|id| json!({"eventId": format!("e{id}"), "eventType": "a"})).collect();
    Value::from(events).to_string()
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Scope, limit and remaining.
fn standing(reply: &Reply) -> [&str; 3] {
    ["x-ratelimit-scope", "x-ratelimit-limit", "x-ratelimit-remaining"].map(|name| header(reply, name))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_what_does_not_fit_is_refused_by_index_and_the_rest_is_stored() {
    let (engine, data, project) = (&support::shared().await.engine, Folder::create(), new_project());
    let env = [("RATE_LIMITS", "enforce"), (EVENTS, "10")];
    let service = Service::start_with(engine.writer(), &data, &project, &env).await;

    let reply = service.send_stored(batch(0..4)).await;
    assert_eq!((reply.status.as_u16(), standing(&reply)), (200, ["events", "1", "6"]));
    // A duplicate costs nothing, and neither does what is no event.
    let reply = service.send_stored(batch(0..4)).await;
    assert_eq!(json(&reply)["duplicates"], 4, "{reply:?}");
    let reply = service.send(r#"[{"eventType":"a","eventId":"e4"},{"nonsense":1}]"#).await;
    assert_eq!((reply.status.as_u16(), json(&reply)["rejected"][0]["code"].clone()), (202, json!("missing_field")));

    // Five are left: of seven the last two are refused, by index, and the answer says when to come again.
    let reply = service.send_stored(batch(10..17)).await;
    let answer = json(&reply);
    assert_eq!((reply.status.as_u16(), &answer["accepted"]), (200, &json!(5)), "{answer}");
    let refused: Vec<Value> =
        answer["rejected"].as_array().unwrap().iter().map(|r| json!([r["index"], r["eventId"], r["code"]])).collect();
    assert_eq!(json!(refused), json!([[5, "e15", "rate_limited"], [6, "e16", "rate_limited"]]));
    assert!(reply.retry_after().is_some() && standing(&reply)[2] == "0", "{reply:?}");

    // Nothing is left: nothing of a body is read.
    let reply = service.send("not even JSON").await;
    assert_eq!((reply.status.as_u16(), json(&reply)["code"].clone()), (429, json!("rate_limited")), "{reply:?}");
    assert!(reply.retry_after().is_some(), "{reply:?}");
    // Another key of the project has its own.
    let other = service.endpoint_with_key(&format!("import-{project}"));
    assert_eq!(other.post(batch(20..21).into()).await.unwrap().status.as_u16(), 202);
    assert_eq!(service.counted("tallyhouse_rate_limit_decisions_total", "refused"), 3);
    service.stop().await;
    let raw = everywhere(&engine.writer(), &project).await[0];
    assert_eq!(raw, 4 + 1 + 5 + 1, "what was refused is not kept, what was accepted is");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_how_its_caller_stands_also_before_anybody_is_known() {
    let (engine, data, project) = (&support::shared().await.engine, Folder::create(), new_project());
    let env = [("RATE_LIMITS", "enforce"), ("RATE_LIMIT_REQUESTS", "6"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let service = Service::start_with(engine.writer(), &data, &project, &env).await;
    let of = |client: &'static str, key: &str, body: &'static str| {
        let endpoint = service.endpoint_with_key(key);
        let endpoint = endpoint.header("x-forwarded-for".parse().unwrap(), client).unwrap();
        async move { endpoint.post(body.into()).await.unwrap() }
    };
    for (remaining, key, body, status) in [
        ("5", project.as_str(), r#"{"eventType":"a"}"#, 202),
        ("4", &project, "{", 400),
        ("3", "unknown", "", 401),
        ("2", &format!("query-{project}"), "", 403),
    ] {
        let reply = of("192.0.2.1", key, body).await;
        assert_eq!((reply.status.as_u16(), standing(&reply)), (status, ["address", "6", remaining]), "{reply:?}");
        assert!(!header(&reply, "x-ratelimit-reset").is_empty());
    }
    for _ in 0..2 {
        of("192.0.2.1", "unknown", "").await;
    }
    let reply = of("192.0.2.1", &project, r#"{"eventType":"a"}"#).await;
    assert_eq!((reply.status.as_u16(), json(&reply)["code"].clone()), (429, json!("rate_limited")), "{reply:?}");
    assert!((1..=10).contains(&reply.retry_after().unwrap().as_secs()), "{reply:?}");
    assert_eq!(of("192.0.2.2", &project, r#"{"eventType":"a"}"#).await.status.as_u16(), 202, "another client");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_report_mode_all_is_taken_and_what_would_be_refused_is_counted() {
    let (engine, data, project) = (&support::shared().await.engine, Folder::create(), new_project());
    let env = [("RATE_LIMITS", "report"), (EVENTS, "3")];
    let service = Service::start_with(engine.writer(), &data, &project, &env).await;
    let reply = service.send(batch(0..8)).await;
    assert_eq!((reply.status.as_u16(), json(&reply)["accepted"].clone()), (202, json!(8)), "{reply:?}");
    assert_eq!(standing(&reply), ["events", "1", "0"]);
    assert_eq!(service.counted("tallyhouse_rate_limit_decisions_total", "reported"), 5);
    service.stop().await;
}

/// Three ingesters with one Redis, 50 senders: of what they send as much is taken as the key may send, and everybody is told.
#[tokio::test(flavor = "multi_thread")]
async fn three_ingesters_take_together_what_a_key_may_send() {
    let (engine, project, redis) = (&support::shared().await.engine, new_project(), Redis::start().await);
    let folders = [(); 3].map(|()| Folder::create());
    let mut services = Vec::new();
    for folder in &folders {
        let env = [
            ("RATE_LIMITS", "enforce"),
            (EVENTS, "2000"),
            ("RATE_LIMIT_REQUESTS", "100000"),
            ("REDIS_URL", &redis.url),
        ];
        services.push(Service::start_with(engine.writer(), folder, &project, &env).await);
    }
    let senders: Vec<_> = (0..50_u32)
        .map(|sender| {
            let endpoint = services[sender as usize % 3].endpoint();
            tokio::spawn(async move {
                let (mut accepted, mut refused) = (0, 0);
                for round in 0..10 {
                    let first = 10_000 * (sender + 1) + 100 * round;
                    let reply = endpoint.post(batch(first..first + 7).into()).await.unwrap();
                    let answer = json(&reply);
                    match reply.status.as_u16() {
                        202 => {
                            accepted += answer["accepted"].as_u64().unwrap();
                            refused += answer["rejected"].as_array().unwrap().len() as u64;
                        }
                        429 => refused += 7,
                        other => panic!("{other}: {answer}"),
                    }
                }
                (accepted, refused)
            })
        })
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    for sender in senders {
        let (a, r) = sender.await.unwrap();
        accepted += a;
        refused += r;
    }
    assert_eq!(accepted + refused, 3_500, "every event has a fate");
    assert!((1_980..=2_000).contains(&accepted), "{accepted}");
    for service in services {
        service.stop().await;
    }
    assert_eq!(everywhere(&engine.writer(), &project).await[0], accepted);
}
