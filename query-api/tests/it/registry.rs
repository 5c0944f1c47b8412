//! Registered metrics: created, queried, changed, and created by two writers at once.

use hyper::StatusCode;
use serde_json::json;

use tallyhouse_testkit::ingest_service::count;
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project, ten_days_ago};

async fn service(projects: &[&str]) -> Service {
    let engine = support::engine().await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    Service::start_with(settings, projects).await
}

#[tokio::test]
async fn a_registered_metric_is_asked_for_like_a_built_in_one() {
    let (engine, project, other, from) = (support::engine().await, new_project(), new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 24).await;
    let service = service(&[&project, &other]).await;
    let admin = format!("admin-{project}");
    let made = service
        .post(
            &admin,
            "/v1/metrics",
            json!({"name": "purchase_share", "ratio": [{"measure": "count", "event_type": "purchase"}, "events"]})
                .to_string(),
        )
        .await;
    assert_eq!((made.status, &made.body), (StatusCode::CREATED, &json!({"name": "purchase_share", "version": 1})));

    let misspelt = service.get(&project, "/v1/metrics?nme=x").await;
    assert_eq!((misspelt.status, &misspelt.body["code"]), (StatusCode::BAD_REQUEST, &json!("unknown_parameter")));
    let misspelt = service.post(&admin, "/v1/metrics?replaces=1", String::new()).await;
    assert_eq!(misspelt.body["code"], "unknown_parameter", "{misspelt:?}");

    let url = format!(
        "/v1/metrics/purchase_share?granularity=day&startTime={}&endTime={}",
        from * 1_000,
        (from + 86_400) * 1_000
    );
    let reply = service.get(&project, &url).await;
    assert_eq!(reply.body["data"][0]["value"], json!(1.0 / 3.0), "{reply:?}");
    let grouped = service.get(&project, &format!("{url}&groupBy=country&limit=1")).await;
    assert_eq!(grouped.body["data"][0]["country"], "DE", "{grouped:?}");
    assert_eq!(grouped.body["meta"]["groups"], json!({"by": ["country"], "limit": 1, "truncated": true}));
    let query = json!({"metrics": ["purchase_share", "events"], "date_range": "30d"}).to_string();
    let reply = service.post(&project, "/v1/query", query.clone()).await;
    assert_eq!(reply.body["results"][0]["metrics"], json!([1.0 / 3.0, 72]), "{reply:?}");
    // It is this project's own.
    assert_eq!(service.get(&other, &url).await.status, StatusCode::NOT_FOUND);
    assert_eq!(service.post(&other, "/v1/query", query.clone()).await.body["field"], "metrics[0]");

    // A new version counts at once, and is not answered from what was remembered.
    let change = |replaces| {
        json!({"name": "purchase_share", "measure": "count", "event_type": "purchase", "replaces": replaces})
            .to_string()
    };
    for (body, status, version) in [
        (json!({"name": "purchase_share", "measure": "count"}).to_string(), StatusCode::CONFLICT, 1),
        (change(7), StatusCode::CONFLICT, 1),
        (change(1), StatusCode::CREATED, 2),
    ] {
        let reply = service.post(&admin, "/v1/metrics", body).await;
        assert_eq!((reply.status, &reply.body["version"]), (status, &json!(version)), "{reply:?}");
    }
    let reply = service.post(&project, "/v1/query", query).await;
    assert_eq!(reply.body["results"][0]["metrics"], json!([24, 72]), "{reply:?}");
    let list = service.get(&project, "/v1/metrics").await;
    let own: Vec<_> =
        list.body["data"].as_array().unwrap().iter().filter(|metric| metric["built_in"] == false).collect();
    assert_eq!((own.len(), &own[0]["version"]), (1, &json!(2)), "{list:?}");
    service.stop().await;
}

/// 400 hours of 300 countries: 120,000 rows by hour and country, more than one answer may have. Every country has as many
/// events; the later in the alphabet it is, the more of them are purchases, of a higher value.
async fn insert_many_countries(project: &str, from: i64) {
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_hash, country, dims, received_at, \
         retention_days) SELECT '{project}', toString(number), if(intDiv(number, 300) % 300 <= number % 300, 'purchase', 'view'), \
         fromUnixTimestamp64Milli(({from} + intDiv(number, 300) * 3600) * 1000, 'UTC'), number % 300 + 1, 1, \
         concat('C', leftPad(toString(number % 300), 3, '0')) AS c, [('country', c)], now64(3), 730 FROM numbers(120000)"
    );
    support::execute(&support::engine().await.writer(), &insert).await.unwrap();
}

#[tokio::test]
async fn of_many_groups_the_greatest_are_shown_and_the_others_not_read() {
    let (project, from) = (new_project(), ten_days_ago() - 20 * 86_400);
    insert_many_countries(&project, from).await;
    let service = service(&[&project]).await;
    for document in [
        json!({"name": "value", "measure": "sum"}),
        json!({"name": "mean", "measure": "avg"}),
        json!({"name": "both", "formula": {"op": "add", "left": {"measure": "sum"}, "right": {"measure": "count", "event_type": "purchase"}}}),
        json!({"name": "per_purchase", "ratio": [{"measure": "count"}, {"measure": "count", "event_type": "purchase"}]}),
    ] {
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", document.to_string()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }
    let range = format!("startTime={}&endTime={}", from * 1_000, (from + 400 * 3_600) * 1_000);
    let last_of_all = ["C299", "C298"];
    for (metric, limit, expected) in [
        ("value", 2, last_of_all),
        ("both", 2, last_of_all),
        // As of built-in ones: what does not add up is ranked by how much it is about, which is the same of all here.
        ("mean", 2, ["C000", "C001"]),
        ("per_purchase", 2, ["C000", "C001"]),
    ] {
        let path = format!("/v1/metrics/{metric}?granularity=hour&groupBy=country&limit={limit}&{range}");
        let reply = service.get(&project, &path).await;
        assert_eq!(reply.status, StatusCode::OK, "{metric}: {reply:?}");
        let points = reply.body["data"].as_array().unwrap();
        let mut countries: Vec<&str> = points.iter().map(|point| point["country"].as_str().unwrap()).collect();
        assert_eq!(countries.len(), 800, "{metric}");
        countries.sort_unstable();
        countries.dedup();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(countries, expected, "{metric}");
        assert_eq!(reply.body["meta"]["groups"]["truncated"], json!(true), "{metric}");
    }
    let both = format!("/v1/metrics/both?granularity=day&groupBy=country&limit=300&{range}");
    let all = service.get(&project, &both).await;
    assert_eq!(all.body["meta"]["groups"]["truncated"], json!(false), "all are shown");
    let by_hour =
        service.get(&project, &format!("/v1/metrics/both?granularity=hour&groupBy=country&limit=300&{range}")).await;
    assert_eq!(
        (by_hour.status.as_u16(), &by_hour.body["code"]),
        (422, &json!("too_expensive")),
        "what is shown is bounded"
    );
    service.stop().await;
}

#[tokio::test]
async fn of_many_who_register_one_name_one_wins_and_all_instances_learn_of_it() {
    let project = new_project();
    let (one, two) = (service(&[&project]).await, service(&[&project]).await);
    let admin = format!("admin-{project}");
    let propose = |measure: &str| json!({"name": "contested", "measure": measure}).to_string();
    let attempts = ["count", "sum", "min", "max", "avg", "p50", "p95", "unique"].map(|measure| {
        let service = if measure.len() == 3 { &one } else { &two };
        service.post(&admin, "/v1/metrics", propose(measure))
    });
    let replies = futures_util::future::join_all(attempts).await;
    let with = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!((with(StatusCode::CREATED), with(StatusCode::CONFLICT)), (1, 7), "{replies:?}");
    let kept = "SELECT count() FROM control WHERE kind = 'metric' AND project_id = {project:String}";
    assert_eq!(count(&support::engine().await.writer(), &project, kept).await, 1);
    for service in [&one, &two] {
        eventually("the metric is known", async || {
            service.get(&project, "/v1/metrics/contested").await.status == StatusCode::OK
        })
        .await;
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn bad_metrics_and_those_who_may_not_are_refused() {
    let project = new_project();
    let service = service(&[&project]).await;
    let body = json!({"name": "m", "measure": "count"}).to_string();
    assert_eq!(service.post(&project, "/v1/metrics", body.clone()).await.body["code"], "missing_right");
    assert_eq!(service.post("nobody", "/v1/metrics", body).await.body["code"], "unknown_key");
    let admin = format!("admin-{project}");
    for (body, code, field) in [
        (json!({"name": "m", "measure": "cnt"}), "bad_field", "measure"),
        (json!({"name": "m", "ratio": ["events", "nothing"]}), "bad_field", "ratio[1]"),
        (json!({"name": "m", "measure": "count", "filters": [["is", "origin", ["x"]]]}), "bad_field", ""),
    ] {
        let reply = service.post(&admin, "/v1/metrics", body.to_string()).await;
        assert_eq!((&reply.body["code"], &reply.body["field"]), (&json!(code), &json!(field)), "{reply:?}");
    }
    service.stop().await;
}
