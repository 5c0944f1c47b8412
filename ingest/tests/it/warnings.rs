//! What the answer says of events that are taken and were changed, or are not counted as was meant.

use serde_json::{Value, json};
use tallyhouse_schema::limits::MAX_ANSWER_WARNINGS;

use tallyhouse_testkit::ingest_service::{Service, everywhere, json};
use tallyhouse_testkit::{self as support, Folder, new_project};

const WARNINGS: &str = "tallyhouse_ingest_warnings_total";

/// Index, event id, code and field of each warning.
fn warned(answer: &Value) -> Vec<(u64, &str, &str, &str)> {
    answer["warnings"].as_array().map_or_else(Vec::new, |warnings| warnings.iter().map(entry).collect())
}

fn entry(warning: &Value) -> (u64, &str, &str, &str) {
    let text = |name| warning[name].as_str().unwrap_or_default();
    assert!(text("message").len() > 10, "{warning}");
    (warning["index"].as_u64().unwrap(), text("eventId"), text("code"), text("field"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_what_was_changed_in_what_it_took() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let odd = |id: &str| json!({"eventId": id, "eventType": "a", "context": {"ip": "nowhere"}});
    let expected = [(0, "one", "bad_ip", "context.ip")];
    for _ in ["accepted", "duplicate"] {
        let one = json(&service.send(odd("one").to_string()).await);
        assert_eq!(warned(&one), expected, "a single event, and its retry");
    }
    let waited = json(&service.endpoint().post_with("wait=stored", odd("two").to_string().into()).await.unwrap());
    assert_eq!(warned(&waited), [(0, "two", "bad_ip", "context.ip")]);

    let future = json!({"eventId": "future", "eventType": "a", "timestamp": "9999-01-01T00:00:00Z"});
    let many = json!([{"eventId": "bad"}, odd("three"), {"eventId": "good", "eventType": "a"}, future, odd("one")]);
    let many = json(&service.send(many.to_string()).await);
    let expected = [
        (1, "three", "bad_ip", "context.ip"),
        (3, "future", "future_time", "timestamp"),
        (4, "one", "bad_ip", "context.ip"),
    ];
    assert_eq!(warned(&many), expected);
    assert_eq!((many["accepted"].as_u64(), many["duplicates"].as_u64()), (Some(3), Some(1)));
    assert_eq!((service.counted(WARNINGS, "bad_ip"), service.counted(WARNINGS, "future_time")), (5, 1));

    let crowd = MAX_ANSWER_WARNINGS + 7;
    let events = Value::from_iter((0..crowd).map(|n| odd(&format!("crowd-{n}"))));
    let crowded = json(&service.send_stored(events.to_string()).await);
    assert_eq!((warned(&crowded).len(), &crowded["warningsOmitted"]), (MAX_ANSWER_WARNINGS, &json!(7)));
    assert_eq!(service.counted(WARNINGS, "bad_ip"), 5 + crowd as u64, "those that are not listed are counted too");
    assert_eq!(everywhere(&writer, &project).await, [5 + crowd as u64; 4]);
    service.stop().await;
}
