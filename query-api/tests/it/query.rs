//! The query API against real rollups: right numbers, and for every bad question an error that the caller can act on.

use serde_json::{Value, json};
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{self as support, insert_events, new_project, ten_days_ago};

fn range(from: i64, hours: i64) -> String {
    format!("startTime={}&endTime={}", from * 1_000, (from + hours * 3_600) * 1_000)
}

#[tokio::test]
async fn every_measure_equals_what_was_inserted() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 48).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    for (query, source, expected) in [
        ("events?granularity=day", "rollup_1d", json!([72, 72])),
        ("users?granularity=day", "rollup_1d", json!([3, 3])),
        ("daily_active_users?", "rollup_1d", json!([3, 3])),
        ("revenue?granularity=day", "rollup_1d", json!([240.0, 240.0])),
        ("value_sum?granularity=day", "rollup_1d", json!([720.0, 720.0])),
        ("value_avg?granularity=day", "rollup_1d", json!([15.0, 15.0])),
        ("value_min?granularity=day", "rollup_1d", json!([10.0, 10.0])),
        ("value_max?granularity=day", "rollup_1d", json!([20.0, 20.0])),
        ("value_max?granularity=day&filter=country:", "rollup_1d", json!([null, null])),
        ("events?granularity=day&filter=country:", "rollup_1d", json!([24, 24])),
        ("events?granularity=day&filter=country:DE,FR&filter=device:web", "rollup_1d", json!([48, 48])),
        ("events?granularity=day&filter=country:DE&filter=country:FR", "rollup_1d", json!([0, 0])),
        ("events?granularity=day&eventType=view&filter=device:web", "rollup_1d", json!([48, 48])),
        ("events?granularity=day&timezone=Africa/Johannesburg", "rollup_1h", json!([66, 72, 6])),
        ("events?granularity=day&timezone=Asia/Kolkata", "rollup_1h", json!([57, 72, 15])),
    ] {
        let reply = service.get(&project, &format!("/v1/metrics/{query}&{}", range(from, 48))).await;
        assert_eq!(Value::from(reply.values()), expected, "{query}: {reply:?}");
        assert_eq!(reply.body["meta"]["source"], source, "{query}");
    }
    for (quantile, truth) in [("value_p50", 10.0), ("value_p99", 20.0)] {
        let reply = service.get(&project, &format!("/v1/metrics/{quantile}?granularity=day&{}", range(from, 24))).await;
        let estimate = reply.values()[0].as_f64().unwrap();
        assert!((estimate / truth - 1.0).abs() <= 0.01, "{quantile}: {estimate}");
    }
    service.stop().await;
}

#[tokio::test]
async fn every_zone_gets_every_granularity_of_years_ago() {
    // 300 days and 4 years ago, an event each quarter of an hour for twelve days, one more in the first quarter of each UTC hour.
    const QUARTERS: i64 = 12 * 96;
    let (engine, project) = (support::engine().await, new_project());
    let today = tallyhouse_service::clock::now_ms() / 86_400_000 * 86_400;
    let begins = [today - 300 * 86_400, today - 4 * 366 * 86_400];
    let mut instants = Vec::new();
    for begin in begins {
        let insert = format!(
            "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_hash, country, dims, received_at, \
             retention_days) SELECT '{project}', concat('{begin}-', toString(number)), 'view', \
             fromUnixTimestamp64Milli((toInt64({begin}) + intDiv(number, 2) * 900 + 420 + number % 2) * 1000, 'UTC') AS at, 2, \
             1 + number, 'DE', [('country', 'DE')], now64(3), 20000 FROM numbers({}) WHERE number % 2 = 0 OR number % 8 = 1 \
             SETTINGS max_partitions_per_insert_block = 0",
            QUARTERS * 2
        );
        support::execute(&engine.writer(), &insert).await.unwrap();
        let of_quarter =
            |quarter: i64| std::iter::repeat_n(begin + quarter * 900 + 420, if quarter % 4 == 0 { 2 } else { 1 });
        instants.extend((0..QUARTERS).flat_map(of_quarter));
    }
    let service = Service::start(engine.reader(), &[&project], None).await;
    for name in [
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Asia/Tehran",
        "Asia/Kabul",
        "Asia/Yangon",
        "America/St_Johns",
        "Australia/Adelaide",
        "Australia/Darwin",
        "Australia/Eucla",
        "Pacific/Chatham",
        "Australia/Lord_Howe",
        "Pacific/Marquesas",
        "Europe/Berlin",
    ] {
        let zone = jiff::tz::TimeZone::get(name).unwrap();
        let local = |at: i64| jiff::Timestamp::from_second(at).unwrap().to_zoned(zone.clone());
        for begin in begins {
            // Whole local days, an end within the events: every one of the eight that are asked about is full.
            let first = local(begin + 2 * 86_400).date();
            let last = first.checked_add(jiff::ToSpan::days(8)).unwrap();
            let start = |date: jiff::civil::Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_second();
            let (from, to) = (start(first), start(last));
            let asked: Vec<i64> = instants.iter().copied().filter(|at| (from..to).contains(at)).collect();
            for width in ["15m", "30m", "hour", "day", "week", "month"] {
                let mut expected = std::collections::BTreeMap::new();
                for at in &asked {
                    let moment = local(*at);
                    let date = moment.date();
                    let minutes = |step: i8| format!("{:02}:{:02}", moment.hour(), moment.minute() / step * step);
                    let key = match width {
                        "15m" => format!("{date}T{}", minutes(15)),
                        "30m" => format!("{date}T{}", minutes(30)),
                        "hour" => format!("{date}T{:02}:00", moment.hour()),
                        "day" => format!("{date}T00:00"),
                        "week" => {
                            let back = i64::from(date.weekday().to_monday_zero_offset());
                            format!("{}T00:00", date.checked_sub(jiff::ToSpan::days(back)).unwrap())
                        }
                        _ => format!("{}T00:00", date.first_of_month()),
                    };
                    *expected.entry(key).or_insert(0) += 1;
                }
                let url =
                    format!("/v1/metrics/events?granularity={width}&timezone={name}&startTime={first}&endTime={last}");
                let reply = service.get(&project, &url).await;
                let found: std::collections::BTreeMap<String, i64> = reply.body["data"]
                    .as_array()
                    .unwrap_or_else(|| panic!("{url}: {reply:?}"))
                    .iter()
                    .map(|p| (p["timestamp"].as_str().unwrap()[..16].to_owned(), p["value"].as_i64().unwrap()))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                assert_eq!(found, expected, "{url}");
            }
            let daily = service.get(&project, &format!("/v1/reports/daily?timezone={name}&date={first}")).await;
            let day = asked.iter().filter(|at| local(**at).date() == first).count();
            assert_eq!(daily.body["data"]["totals"]["events"], json!(day), "{name} {first}: {daily:?}");
            let document = json!({"metrics": ["events", "users", "value_sum"], "timezone": name, "dimensions": ["country"],
                "date_range": [first.checked_add(jiff::ToSpan::days(1)).unwrap().to_string(), first.checked_add(jiff::ToSpan::days(1)).unwrap().to_string()],
                "include": {"totals": true, "comparisons": "previous_period"}});
            let answer = service.post(&project, "/v1/query", document.to_string()).await;
            let second = asked.iter().filter(|at| local(**at).date() == first.tomorrow().unwrap()).count();
            let metrics = &answer.body["results"][0]["metrics"];
            assert_eq!(json!([metrics[0], metrics[2]]), json!([second, second as f64 * 2.0]), "{name}: {answer:?}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn groups_are_the_biggest_and_parts_of_an_hour_are_exact() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 2).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let url = format!("/v1/metrics/events?granularity=day&groupBy=device,country&{}", range(from, 24));
    let reply = service.get(&project, &url).await;
    let groups: Vec<_> =
        reply.body["data"].as_array().unwrap().iter().map(|p| (&p["country"], &p["device"], &p["value"])).collect();
    assert_eq!(groups, [(&json!("DE"), &json!("web"), &json!(4)), (&json!(""), &json!("web"), &json!(2))]);
    let reply = service.get(&project, &format!("{url}&limit=1")).await;
    assert_eq!((reply.values(), &reply.body["meta"]["groups"]["truncated"]), (vec![json!(4)], &json!(true)));
    // Minutes 1 to 60: the first of three events of the first hour is before, the first of the second hour is after.
    let minutes = format!("startTime={}&endTime={}", (from + 60) * 1_000, (from + 3_600) * 1_000);
    let reply = service.get(&project, &format!("/v1/metrics/events?granularity=hour&{minutes}")).await;
    assert_eq!((reply.values(), &reply.body["meta"]["source"]), (vec![json!(2)], &json!("rollup_1m")));
    service.stop().await;
}

#[tokio::test]
async fn of_more_groups_than_are_put_together_the_biggest_are_found_too() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago() - 10 * 86_400);
    // 700 devices in each of 300 hours, each once an hour but for two of them.
    let insert = format!(
        "INSERT INTO tallyhouse.rollup_1h (project_id, event_type, dim_set, dim_value, bucket, events) \
         SELECT '{project}', '', '*device', toString(number % 700), toDateTime({from} + intDiv(number, 700) * 3600, 'UTC'), \
         multiIf(number % 700 = 7, 3, number % 700 = 5, 2, 1) FROM numbers(700 * 300)"
    );
    support::execute(&engine.writer(), &insert).await.unwrap();
    let service = Service::start(engine.reader(), &[&project], None).await;
    let refused = || service.counted("tallyhouse_query_clickhouse_queries_total", "failed");
    for (hours, looks_refused) in [(280, 0), (300, 1)] {
        let url = format!("/v1/metrics/events?granularity=hour&groupBy=device&limit=2&{}", range(from, hours));
        let reply = service.get(&project, &url).await;
        let points: Vec<_> =
            reply.body["data"].as_array().unwrap().iter().map(|p| (&p["device"], &p["value"])).collect();
        assert_eq!(points.len() as i64, 2 * hours, "{reply:?}");
        assert_eq!(points[..2], [(&json!("7"), &json!(3)), (&json!("5"), &json!(2))]);
        assert_eq!(reply.body["meta"]["groups"]["truncated"], true);
        assert_eq!(refused(), looks_refused);
    }
    // What was shown, and what overflowed, as groups were left out.
    assert_eq!(service.queries(), 4);
    service.stop().await;
}

#[tokio::test]
async fn dashboard_and_report_add_up() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 30).await;
    let now = tallyhouse_service::clock::now_ms() / 60_000 * 60;
    insert_events(&engine.writer(), &project, now - 120, 1).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let realtime = service.get(&project, "/v1/dashboards/realtime").await;
    for (window, name) in [(0, "5min"), (1, "30min")] {
        let window = &realtime.body["data"][window];
        assert_eq!(
            (&window["time_range"], &window["events"], &window["value"]),
            (&json!(name), &json!(3), &json!(30.0)),
            "{realtime:?}"
        );
        assert_eq!(window["by_event_type"].as_array().unwrap().len(), 2);
    }
    let date = tallyhouse_query_api::time::Zone::utc().date(from + 86_400);
    let report = service.get(&project, &format!("/v1/reports/daily?date={date}")).await;
    let data = &report.body["data"];
    assert_eq!((&data["totals"]["events"], &data["previous_day"]["events"]), (&json!(18), &json!(72)), "{report:?}");
    assert_eq!((&data["totals"]["revenue"], &data["totals"]["value"]), (&json!(60.0), &json!(180.0)));
    assert_eq!((&data["top_countries"][0]["country"], &data["top_countries"][0]["events"]), (&json!("DE"), &json!(12)));
    assert_eq!(
        (data["hourly"].as_array().unwrap().len(), &data["hourly"][5]["events"], &data["hourly"][6]["events"]),
        (24, &json!(3), &json!(0))
    );
    service.stop().await;
}

#[tokio::test]
async fn every_bad_question_is_answered_with_what_would_do() {
    let (engine, project) = (support::engine().await, new_project());
    let service = Service::start(engine.reader(), &[&project], None).await;
    let long = format!("/v1/metrics/events?eventType={}", "x".repeat(11_000));
    for (path, status, code) in [
        ("/v1/metrics/revenu", 404, "unknown_metric"),
        ("/v1/metrics/%ff", 400, "bad_path"),
        ("/v1/metrics/events?granularty=hour", 400, "unknown_parameter"),
        ("/v1/metrics/events?limit=1&limit=2", 400, "repeated_parameter"),
        ("/v1/metrics/events?granularity=2h", 400, "bad_parameter"),
        ("/v1/metrics/events?startTime=yesterday", 400, "bad_parameter"),
        ("/v1/metrics/events?startTime=2999-01-01", 400, "bad_parameter"),
        ("/v1/metrics/events?startTime=2099-01-01", 400, "bad_range"),
        ("/v1/metrics/events?startTime=2026-01-02&endTime=2026-01-01", 400, "bad_range"),
        ("/v1/metrics/events?startTime=2024-01-01&endTime=2026-01-01", 400, "range_too_long"),
        ("/v1/metrics/events?startTime=1999-01-01&endTime=1999-02-01", 400, "no_longer_kept"),
        ("/v1/metrics/events?groupBy=countri", 400, "unknown_dimension"),
        ("/v1/metrics/events?groupBy=origin", 400, "not_rolled_up"),
        ("/v1/metrics/events?filter=country", 400, "bad_parameter"),
        ("/v1/metrics/events?timezone=Mars/Olympus", 400, "unknown_timezone"),
        ("/v1/metrics/revenue?eventType=view", 400, "contradiction"),
        ("/v1/reports/daily?date=2999-01-01", 400, "bad_range"),
        ("/v1/reports/daily?date=1971-01-01", 400, "no_longer_kept"),
        ("/v1/dashboards/realtime?x=1", 400, "unknown_parameter"),
        ("/v1/nothing", 404, "not_found"),
        (long.as_str(), 414, "query_too_long"),
    ] {
        let reply = service.get(&project, path).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{path}: {reply:?}");
        assert!(!reply.body["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(service.queries(), 0, "none of them reached ClickHouse");
    service.stop().await;
}

#[tokio::test]
async fn hostile_text_in_any_parameter_finds_nothing_and_breaks_nothing() {
    const HOSTILE: [&str; 12] = [
        "'",
        "' OR 1=1 --",
        "x') OR (1=1",
        "\\' OR 1=1 --",
        "\\",
        "{project:String}",
        "?",
        "$1",
        "`events`",
        "'; DROP TABLE tallyhouse.rollup_1m; --",
        "\u{1f}",
        "😀\u{202e}",
    ];
    let (engine, project, victim, from) = (support::engine().await, new_project(), new_project(), ten_days_ago());
    insert_events(&engine.writer(), &victim, from, 3).await;
    let service = Service::start(engine.reader(), &[&project, &victim], None).await;
    for parameter in ["startTime", "endTime", "granularity", "groupBy", "filter", "eventType", "timezone", "limit", "x"]
    {
        for hostile in HOSTILE {
            let text: String = hostile.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let text = if parameter == "filter" { format!("country:{text}") } else { text };
            let path = format!("/v1/metrics/events?{parameter}={text}");
            let reply = service.get(&project, &path).await;
            let nothing = || reply.values().iter().all(|value| value == &json!(0));
            assert!(reply.status.is_client_error() || (reply.status.is_success() && nothing()), "{path}: {reply:?}");
        }
    }
    for hostile in HOSTILE {
        let text: String = hostile.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for path in [format!("/v1/metrics/{text}"), format!("/v1/reports/daily?date={text}")] {
            let reply = service.get(&project, &path).await;
            assert!(reply.status.is_client_error(), "{path}: {reply:?}");
        }
    }
    let reply = service.get(&victim, &format!("/v1/metrics/events?granularity=day&{}", range(from, 24))).await;
    assert_eq!(reply.values(), [json!(9)], "the tables are as they were");
    service.stop().await;
}

#[tokio::test]
async fn only_a_query_key_opens() {
    let (engine, project) = (support::engine().await, new_project());
    let service = Service::start(engine.reader(), &[&project], None).await;
    let (path, bearer) = ("/v1/metrics/events", format!("Bearer {project}"));
    assert_eq!(service.get_with(path, &[]).await.status, 401);
    assert_eq!(service.get(&format!("ingest-{project}"), path).await.status, 403);
    assert_eq!(service.get("nobody", path).await.body["code"], "unknown_key");
    assert_eq!(service.get_with(path, &[("authorization", &bearer)]).await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn without_clickhouse_the_caller_is_told_to_come_back() {
    let project = new_project();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nowhere =
        Connection { url: format!("http://{closed}"), user: "reader".into(), password: String::new(), tls: None };
    let service = Service::start(nowhere, &[&project], None).await;
    for path in ["/v1/metrics/events", "/v1/metrics/events", "/v1/dashboards/realtime", "/v1/reports/daily"] {
        let reply = service.get(&project, path).await;
        assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "2"), "{path}: {reply:?}");
        assert!(!reply.body.to_string().contains(&closed.port().to_string()), "no internal detail: {reply:?}");
    }
    let failed = service.counted("tallyhouse_query_clickhouse_queries_total", "failed");
    assert_eq!(failed, 4, "an error is not remembered");
    service.stop().await;
}
