//! Schemas of events: enforced, reported, coerced; and events of people who refused consent.

use serde_json::{Value, json};

use tallyhouse_testkit::ingest_service::{Service, count, everywhere, json};
use tallyhouse_testkit::{self as support, Folder, eventually, new_project};

const VIOLATIONS: &str = "tallyhouse_ingest_schema_violations_total";
const DROPPED: &str = "tallyhouse_ingest_dropped_total";

/// A service whose folder of declarations has these, and the settings of its project these.
async fn service(data: &Folder, project: &str, declarations: &[Value], settings: &Value) -> Service {
    let (schemas, projects) = (data.path().join("schemas"), data.path().join("projects"));
    for folder in [&schemas, &projects] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for (place, document) in declarations.iter().enumerate() {
        std::fs::write(schemas.join(format!("{place}.json")), document.to_string()).unwrap();
    }
    std::fs::write(projects.join("one.json"), settings.to_string()).unwrap();
    let (schemas, projects) = (schemas.display().to_string(), projects.display().to_string());
    let env = [("TALLYHOUSE_SCHEMAS", schemas.as_str()), ("TALLYHOUSE_PROJECTS", projects.as_str())];
    Service::start_with(support::shared().await.engine.writer(), data, project, &env).await
}

fn order(mode: &str) -> Value {
    json!({"eventType": "order", "mode": mode, "value": "amount", "dimensions": ["channel"], "coerce": ["amount", "paid"], "schema": {
        "required": ["amount"], "additionalProperties": false,
        "properties": {
            "amount": {"type": "number", "minimum": 0}, "channel": {"enum": ["web", "app"]}, "paid": {"type": "boolean"},
            "coupon": {"type": "string", "maxLength": 8, "pattern": "^[A-Z]+$"},
            "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}}
        }
    }})
}

fn event(id: &str, properties: &Value) -> Value {
    json!({"eventId": id, "eventType": "order", "properties": properties})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_violates_an_enforced_schema_is_rejected_with_a_pointer_and_the_rest_is_taken() {
    let (data, project) = (Folder::create(), new_project());
    let settings = json!({"project": project, "deadLetters": true});
    let service = service(&data, &project, &[order("enforce")], &settings).await;
    for (properties, pointer, expected, found) in [
        (json!({"amount": "much"}), "/properties/amount", "number", "\"much\""),
        (json!({"amount": -1}), "/properties/amount", "at least 0", "-1"),
        (json!({}), "/properties/amount", "there", "not there"),
        (json!({"amount": 1, "channel": "phone"}), "/properties/channel", "one of [\"web\",\"app\"]", "\"phone\""),
        (json!({"amount": 1, "coupon": "lower"}), "/properties/coupon", "text that matches ^[A-Z]+$", "\"lower\""),
        (
            json!({"amount": 1, "coupon": "TOOMANYOFTHEM"}),
            "/properties/coupon",
            "of at most 8 characters",
            "\"TOOMANYOFTHEM\"",
        ),
        (json!({"amount": 1, "lines": [{"sku": 1}, {}]}), "/properties/lines/1/sku", "there", "not there"),
        (json!({"amount": 1, "colour": "red"}), "/properties/colour", "absent: the schema does not name it", "\"red\""),
    ] {
        let reply = service.send(event("one", &properties).to_string()).await;
        let body = json(&reply);
        assert_eq!((reply.status.as_u16(), &body["code"]), (400, &json!("schema_violation")), "{body}");
        let told = [&body["pointer"], &body["expected"], &body["found"]];
        assert_eq!(told, [&json!(pointer), &json!(expected), &json!(found)], "{body}");
        assert!(body["message"].as_str().unwrap().contains(pointer), "{body}");
    }
    let long = "x".repeat(5_000);
    let batch = json!([
        event("good", &json!({"amount": 5, "channel": "web"})),
        event("bad", &json!({"amount": true, "coupon": long, "paid": "perhaps"})),
        event("coerced", &json!({"amount": " 7.50", "paid": "TRUE"})),
        {"eventId": "other", "eventType": "another", "properties": {"amount": "anything"}},
        {"eventId": "top", "eventType": "order", "amount": "x"},
    ]);
    let reply = service.send_stored(batch.to_string()).await;
    let body = json(&reply);
    assert_eq!((reply.status.as_u16(), &body["accepted"]), (200, &json!(3)), "{body}");
    let rejected = body["rejected"].as_array().unwrap();
    let pointers: Vec<_> = rejected[0]["violations"].as_array().unwrap().iter().map(|v| v["pointer"].clone()).collect();
    assert_eq!(pointers, ["/properties/amount", "/properties/coupon", "/properties/paid"]);
    assert!(rejected[0].to_string().len() < 2_000, "values are cut: {body}");
    assert_eq!((&rejected[1]["index"], &rejected[1]["pointer"]), (&json!(4), &json!("/amount")), "{body}");

    let writer = support::shared().await.engine.writer();
    assert_eq!(everywhere(&writer, &project).await, [3; 4]);
    let cents = "SELECT toUInt64(ifNull(sum(value), 0) * 100) FROM events WHERE project_id = {project:String} AND event_type = 'order'";
    assert_eq!(count(&writer, &project, cents).await, 1_250, "what came as text is a number");
    assert_eq!(service.counted("tallyhouse_ingest_rejected_total", "schema_violation"), 10);
    assert_eq!(service.counted(VIOLATIONS, "order"), 10);
    let letters = "SELECT count() FROM dead_letters WHERE project_id = {project:String} AND code = 'schema_violation' \
                   AND position(reason, '/properties/') > 0";
    eventually("they are dead letters", async || count(&writer, &project, letters).await == 9).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_reported_warns_and_one_that_is_off_says_nothing() {
    let (data, project) = (Folder::create(), new_project());
    let off = json!({"eventType": "off", "mode": "off", "schema": {"required": ["a"]}});
    let service = service(&data, &project, &[order("report"), off], &json!({"project": project})).await;
    let reply = service.send(event("one", &json!({"amount": "much", "channel": "web"})).to_string()).await;
    let body = json(&reply);
    assert_eq!((reply.status.as_u16(), &body["status"]), (202, &json!("accepted")), "{body}");
    let warning = &body["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["field"]),
        (&json!("schema_violation"), &json!("/properties/amount")),
        "{body}"
    );
    let body = json(&service.send_stored(json!({"eventId": "two", "eventType": "off"}).to_string()).await);
    assert_eq!(body["warnings"], Value::Null, "{body}");
    assert_eq!(everywhere(&support::shared().await.engine.writer(), &project).await, [2; 4]);
    assert_eq!((service.counted(VIOLATIONS, "order"), service.counted(VIOLATIONS, "off")), (1, 0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_people_who_refused_consent_nothing_is_kept_and_their_senders_are_told() {
    let (data, project) = (Folder::create(), new_project());
    let settings = json!({"project": project, "deadLetters": true});
    let service = service(&data, &project, &[order("enforce")], &settings).await;
    let refused = |id: &str| json!({"eventId": id, "eventType": "a", "context": {"consent": {"analytics": false}}});
    let reply = service.send(refused("one").to_string()).await;
    let body = json(&reply);
    assert_eq!(
        (reply.status.as_u16(), &body["status"], &body["code"]),
        (202, &json!("dropped"), &json!("no_consent")),
        "{body}"
    );
    let mut unreadable = refused("wrong");
    unreadable["userId"] = json!(["x"]);
    let granted = json!({"eventId": "yes", "eventType": "a", "context": {"consent": {"analytics": true}}});
    let batch = json!([granted, refused("two"), {"eventId": "bad"}, unreadable, refused("three")]);
    let reply = service.send_stored(batch.to_string()).await;
    let body = json(&reply);
    let dropped: Vec<_> =
        body["dropped"].as_array().unwrap().iter().map(|d| (d["index"].clone(), d["eventId"].clone())).collect();
    assert_eq!(dropped, [(json!(1), json!("two")), (json!(3), json!("wrong")), (json!(4), json!("three"))], "{body}");
    assert_eq!((&body["accepted"], &body["rejected"][0]["index"]), (&json!(1), &json!(2)), "{body}");
    let only = json(&service.send(json!([refused("four"), refused("five")]).to_string()).await);
    assert_eq!(
        (&only["accepted"], only["dropped"].as_array().unwrap().len()),
        (&json!(0), 2),
        "it is no error: {only}"
    );

    let writer = support::shared().await.engine.writer();
    assert_eq!(everywhere(&writer, &project).await, [1; 4]);
    assert_eq!(service.counted(DROPPED, "no_consent"), 6);
    assert_eq!(service.counted("tallyhouse_ingest_events_total", "dropped"), 6);
    let letters = "SELECT count() FROM dead_letters WHERE project_id = {project:String}";
    eventually("the rejected one is a dead letter", async || count(&writer, &project, letters).await == 1).await;
    service.stop().await;
}
