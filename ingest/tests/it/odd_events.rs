//! Odd numbers, times, names and dimension values, through a real ClickHouse, directly and through Kafka: what is stored, what is
//! counted, and what a filter with the value as it was sent finds.

use hyper::StatusCode;
use serde_json::{Value, json};
use tallyhouse_schema::event::Flags;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::http_client::escape;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::ingest_service::{self, count, json as answer};
use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{self as support, Folder, eventually, new_project};

/// Numbers as they are written in JSON, and the one value that each is counted under.
const NUMBERS: [(&[&str], &str); 16] = [
    (&["0", "-0", "0.0"], "0"),
    (&["7", "7.0", "7e0"], "7"),
    (&["7.5"], "7.5"),
    (&["0.1", "0.10"], "0.1"),
    (&["1e-7"], "1e-7"),
    (&["0.000001"], "0.000001"),
    (&["1e21", "1000000000000000000000"], "1e21"),
    (&["1e22"], "1e22"),
    (&["123456789012345680", "1.2345678901234568e17"], "123456789012345680"),
    (&["9007199254740991"], "9007199254740991"),
    (&["9007199254740992"], "9007199254740992"),
    (&["9007199254740993"], "9007199254740993"),
    (&["-9007199254740993"], "-9007199254740993"),
    (&["18446744073709551617"], "18446744073709551617"),
    (&["1.7976931348623157e308"], "1.7976931348623157e308"),
    (&["5e-324"], "5e-324"),
];

/// The settings of each delivery: directly, and through Kafka.
async fn deliveries(test: &str) -> Vec<Vec<(&'static str, String)>> {
    let mut deliveries = vec![Vec::new()];
    if let Some(brokers) = support::kafka_or_skip(test).await {
        let topic = format!("topic-{}", ulid::Ulid::generate());
        let settings = [("KAFKA_TOPIC", topic.clone()), ("KAFKA_GROUP", topic), ("KAFKA_PARTITIONS", "2".to_owned())];
        deliveries.push([("KAFKA_BROKERS", brokers)].into_iter().chain(settings).collect());
    }
    deliveries
}

/// A project with events that were sent by one of the deliveries, and what was answered.
struct Sent {
    project: String,
    writer: Connection,
    answer: Value,
}

impl Sent {
    async fn send(delivery: &[(&'static str, String)], events: &str, stored: u64) -> Self {
        let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
        let settings: Vec<_> = delivery.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let service = ingest_service::Service::start_with(writer.clone(), &data, &project, &settings).await;
        let reply = service.send(events.to_owned()).await;
        assert_eq!(reply.status.as_u16(), 202, "{}", reply.excerpt());
        let all = "SELECT count() FROM events WHERE project_id = {project:String}";
        eventually("the events are stored", async || count(&writer, &project, all).await == stored).await;
        service.stop().await;
        Self { project, writer, answer: answer(&reply) }
    }

    /// How many events there are of which that holds.
    async fn holds(&self, condition: &str) -> u64 {
        let sql = format!("SELECT count() FROM events WHERE project_id = {{project:String}} AND {condition}");
        count(&self.writer, &self.project, &sql).await
    }

    async fn query(&self) -> Service {
        Service::start(support::engine().await.reader(), &[&self.project], None).await
    }

    /// Events that a document finds.
    async fn found(&self, service: &Service, filters: Value, raw: bool) -> Value {
        let query = json!({"metrics": ["events"], "date_range": "24h", "raw": raw,
            "filters": [["is", "event_type", ["purchase"]], filters]});
        let reply = service.post(&self.project, "/v1/query", query.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{query}: {reply:?}");
        assert_eq!(reply.body["meta"]["source"] == "events", raw, "{reply:?}");
        reply.body["results"][0]["metrics"][0].clone()
    }

    /// Events that a filter in the query string finds.
    async fn found_by_get(&self, service: &Service, filter: &str) -> f64 {
        let path = format!("/v1/metrics/events?eventType=purchase&granularity=hour&filter={}", escape(filter));
        let reply = service.get(&self.project, &path).await;
        assert_eq!(reply.status, StatusCode::OK, "{filter}: {reply:?}");
        reply.values().iter().filter_map(Value::as_f64).sum()
    }

    /// Values of a dimension and how many events each has.
    async fn groups(&self, service: &Service, dimension: &str, raw: bool) -> Vec<(String, u64)> {
        let query = json!({"metrics": ["events"], "date_range": "24h", "dimensions": [dimension], "raw": raw,
            "filters": [["is", "event_type", ["purchase"]]]});
        let reply = service.post(&self.project, "/v1/query", query.to_string()).await;
        let rows = reply.body["results"].as_array().unwrap_or_else(|| panic!("{reply:?}"));
        let group = |row: &Value| {
            (row["dimensions"][0].as_str().unwrap().to_owned(), row["metrics"][0].as_f64().unwrap() as u64)
        };
        let mut groups: Vec<_> = rows.iter().map(group).collect();
        groups.sort();
        groups
    }

    fn warned(&self) -> Vec<(u64, &str, &str)> {
        let warnings = self.answer["warnings"].as_array().map_or(&[][..], Vec::as_slice);
        let told = |warning: &'_ Value| warning["index"].as_u64().unwrap();
        warnings.iter().map(|w| (told(w), w["code"].as_str().unwrap(), w["field"].as_str().unwrap())).collect()
    }
}

/// A JSON array of such purchases.
fn purchases(properties: impl IntoIterator<Item = String>) -> String {
    let event = |(n, properties)| format!(r#"{{"eventId":"{n}","eventType":"purchase","properties":{properties}}}"#);
    format!("[{}]", properties.into_iter().enumerate().map(event).collect::<Vec<_>>().join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_one_value_and_loses_no_digit() {
    let written: Vec<&str> = NUMBERS.iter().flat_map(|(written, _)| *written).copied().collect();
    let events = purchases(written.iter().map(|n| format!(r#"{{"currency":{n},"n":{n},"o":{{"n":[{n}]}}}}"#)));
    for delivery in deliveries("a_number_is_one_value_and_loses_no_digit").await {
        let sent = Sent::send(&delivery, &events, written.len() as u64).await;
        assert_eq!(sent.warned(), []);
        let service = sent.query().await;
        let mut expected: Vec<_> =
            NUMBERS.iter().map(|(written, value)| ((*value).to_owned(), written.len() as u64)).collect();
        expected.sort();
        assert_eq!(sent.groups(&service, "currency", false).await, expected, "declared: counted by the ingester");
        assert_eq!(sent.groups(&service, "n", true).await, expected, "not declared: written by ClickHouse");
        for (written, value) in NUMBERS {
            let events = written.len() as f64;
            assert_eq!(sent.found_by_get(&service, &format!("currency:{value}")).await, events, "{value}");
            assert_eq!(sent.found(&service, json!(["is", "n", [value]]), true).await, events, "{value}");
            for number in written {
                // What JSON cannot hand over digit by digit is asked for as a text.
                let Ok(number) =
                    number.parse::<i64>().map_or_else(|_| number.parse().map(|n: f64| json!(n)), |n| Ok(json!(n)))
                else {
                    panic!("{number}")
                };
                if number.as_f64().is_some_and(|n| n.abs() < 9e18) {
                    let filter = json!(["is", "currency", [number]]);
                    assert_eq!(sent.found(&service, filter, false).await, events, "{number}");
                }
            }
        }
        service.stop().await;
        assert_eq!(sent.holds("props['n'] = '9007199254740993' AND props['o.n'] = '[9007199254740993]'").await, 1);
        assert_eq!(
            sent.holds("props['n'] = '18446744073709551617' AND props['o.n'] = '[18446744073709551617]'").await,
            1
        );
        assert_eq!(sent.holds("num_props['n'] = 9007199254740992 AND NOT mapContains(props, 'n')").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_name_one_value_is_stored_and_counted() {
    let events = r#"[
        {"eventId":"a","eventType":"purchase","amount":1,"properties":{"amount":2}},
        {"eventId":"b","eventType":"purchase","properties":{"amount":2},"amount":1},
        {"eventId":"c","eventType":"purchase","properties":{"amount":1,"amount":"2"}},
        {"eventId":"d","eventType":"purchase","properties":{"amount":2,"a":{"b":1},"a.b":7},"context":{"country":"DE"}},
        {"event_id":"x","eventId":"e","eventType":"purchase","properties":{"amount":2,"context":{"country":"checkout"},"Country":"FR"},
            "context":{"country":"DE"}},
        {"eventId":"f","eventType":"purchase","amount":2,"properties":{"amount":2,"eventType":"other"}}
    ]"#;
    for delivery in deliveries("of_one_name_one_value_is_stored_and_counted").await {
        let sent = Sent::send(&delivery, events, 6).await;
        assert_eq!(
            sent.warned(),
            [
                (0, "name_collision", "amount"),
                (1, "name_collision", "amount"),
                (2, "name_collision", "amount"),
                (3, "name_collision", "a.b"),
                (4, "name_collision", "eventId"),
            ]
        );
        assert_eq!(sent.holds("value = 2").await, 6);
        assert_eq!(sent.holds("(num_props['amount'] = 2 OR (event_id = 'c' AND props['amount'] = '2'))").await, 6);
        let names = "arraySort(arrayConcat(mapKeys(props), mapKeys(num_props)))";
        assert_eq!(sent.holds(&format!("{names} != arrayDistinct({names})")).await, 0, "each name once");
        assert_eq!(sent.holds(&format!("bitAnd(flags, {}) != 0", Flags::NAME_COLLISION.bits())).await, 5);
        assert_eq!(sent.holds("event_id = 'd' AND num_props['a.b'] = 7").await, 1);
        let context =
            "event_id = 'e' AND country = 'DE' AND props['context.country'] = 'checkout' AND props['Country'] = 'FR'";
        assert_eq!(sent.holds(context).await, 1);
        let service = sent.query().await;
        assert_eq!(sent.found(&service, json!(["is", "country", ["DE"]]), false).await, 2);
        assert_eq!(sent.found(&service, json!(["is", "context.country", ["checkout"]]), true).await, 1);
        assert_eq!(sent.found(&service, json!(["is", "eventType", ["other"]]), true).await, 1);
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_land_where_they_were_meant_to() {
    let hour = 3_600_000;
    let at = now_ms() / 1_000 * 1_000 - hour;
    let zoned =
        jiff::Timestamp::from_millisecond(at).unwrap().to_zoned(jiff::tz::TimeZone::get("Asia/Kolkata").unwrap());
    let event = |id: &str, timestamp: Value, sent_at: Value| {
        json!({"eventId": id, "eventType": "t", "timestamp": timestamp, "sentAt": sent_at,
            "properties": {"timestamp": timestamp}})
    };
    let events = json!([
        event("s", json!(at / 1_000), json!(null)),
        event("us", json!(at * 1_000), json!(null)),
        event("ns", json!((at * 1_000_000).to_string()), json!(null)),
        event("zone", json!(zoned.to_string()), json!(null)),
        event("zero", json!(at), json!(0)),
        event("years", json!(at), json!("2001-01-01T00:00:00Z")),
        event("seconds", json!(at), json!((at + 5_000) / 1_000)),
        event("late", json!(at), json!(at + 5_000)),
        event("only", json!(null), json!(at)),
        event("bad", json!("2026-11-01T10:00:00+05:00[Europe/Berlin]"), json!(null)),
    ]);
    for delivery in deliveries("times_land_where_they_were_meant_to").await {
        let sent = Sent::send(&delivery, &events.to_string(), 9).await;
        assert_eq!(
            sent.warned(),
            [
                (0, "converted_time", "timestamp"),
                (1, "converted_time", "timestamp"),
                (2, "converted_time", "timestamp"),
                (4, "ignored_sent_at", "sentAt"),
                (5, "ignored_sent_at", "sentAt"),
                (6, "converted_time", "sentAt"),
            ]
        );
        assert_eq!(sent.answer["rejected"][0]["code"], "invalid_timestamp");
        assert!(
            sent.answer["rejected"][0]["message"].as_str().unwrap().contains("its offset is not that of its time zone")
        );
        assert_eq!(sent.holds(&format!("toUnixTimestamp64Milli(ts) = {at}")).await, 9);
        let flags = |flag: Flags| format!("bitAnd(flags, {}) != 0", flag.bits());
        assert_eq!(sent.holds(&flags(Flags::CONVERTED_TIME)).await, 4);
        assert_eq!(sent.holds(&flags(Flags::IGNORED_SENT_AT)).await, 2);
        assert_eq!(sent.holds(&flags(Flags::SKEW)).await, 0);
        assert_eq!(
            sent.holds(&format!("num_props['timestamp'] = {}", at / 1_000)).await,
            1,
            "properties stay as they are"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_with_the_value_as_it_was_sent_finds_it() {
    let long = |end: &str| format!("{}{end}", "lang\u{e4}".repeat(40));
    let values =
        [long(""), "a\tb\u{1f}c\n".to_owned(), "x,y:z\\w".to_owned(), " blank ".to_owned(), "__other__".to_owned()];
    let property = |value: &String| json!({"currency": value, "n": value}).to_string();
    let events = purchases(values.iter().map(property)).replace(r#""eventType""#, r#""userId":"u","eventType""#);
    for delivery in deliveries("a_filter_with_the_value_as_it_was_sent_finds_it").await {
        let sent = Sent::send(&delivery, &events, values.len() as u64).await;
        assert_eq!(sent.warned(), [(0, "changed_dimension", "currency"), (1, "changed_dimension", "currency")]);
        assert_eq!(sent.holds(&format!("bitAnd(flags, {}) != 0", Flags::CHANGED_DIMENSION.bits())).await, 2);
        let service = sent.query().await;
        for value in &values {
            let escaped = value.replace('\\', "\\\\").replace(',', "\\,");
            assert_eq!(sent.found_by_get(&service, &format!("currency:{escaped}")).await, 1.0, "{value:?}");
            // By rollups, by raw events of a declared dimension, and of a property that is none.
            for (name, raw) in [("currency", false), ("n", true)] {
                for (word, expected) in [("is", 1), ("is_not", 4), ("contains", 1)] {
                    let found = sent.found(&service, json!([word, name, [value]]), raw).await;
                    assert_eq!(found, expected, "{word} {name} {value:?}");
                }
            }
            let both = json!(["and", [["is", "n", [value]], ["is", "currency", [value]]]]);
            assert_eq!(sent.found(&service, both.clone(), true).await, 1, "{value:?}, raw and declared");
            let funnel = json!({"kind": "funnel", "date_range": "7d", "window": "1d", "filters": [both],
                "steps": [{"event_type": "purchase"}, {"event_type": "never"}]});
            let reply = service.post(&sent.project, "/v1/query", funnel.to_string()).await;
            assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
            assert_eq!(reply.body["data"]["steps"][0]["users"], 1, "{reply:?}");
        }
        // What groups are called finds them.
        for (name, raw) in [("currency", false), ("n", true)] {
            let groups = sent.groups(&service, name, raw).await;
            assert_eq!(groups.len(), values.len());
            for (group, events) in groups {
                assert_eq!(sent.found(&service, json!(["is", name, [group]]), raw).await, events, "{name} {group:?}");
            }
        }
        service.stop().await;
    }
}
