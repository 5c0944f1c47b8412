//! Who may send events, with what, and for whom.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, ORIGIN};
use serde_json::{Value, json};
use tallyhouse_ingest::http::routes;
use tallyhouse_service::access::Scope;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::ingest_service::{PAGE, Service, count, json};
use tallyhouse_testkit::{self as support, Folder, IdentityProvider, new_project, route_table};

/// Status and code of the answer.
async fn send(service: &Service, query: &str, headers: &[(&'static str, &str)], body: &str) -> (u16, String) {
    let mut endpoint = Endpoint::new(&service.url, Duration::from_secs(20)).unwrap();
    for (name, value) in headers {
        endpoint = endpoint.header(HeaderName::from_static(name), value).unwrap();
    }
    let reply = endpoint.post_with(query, Bytes::copy_from_slice(body.as_bytes())).await.unwrap();
    let code = json(&reply)["code"].as_str().unwrap_or_default().to_owned();
    (reply.status.as_u16(), code)
}

fn said(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

const TEXT: (&str, &str) = ("content-type", "text/plain;charset=UTF-8");

#[tokio::test(flavor = "multi_thread")]
async fn events_are_sent_with_a_key_for_that_and_nothing_else() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let provider = IdentityProvider::start().await;
    let service = Service::start_with(writer, &data, &project, &provider.variables()).await;
    let event = r#"{"eventType":"a"}"#;
    for scope in Scope::ALL {
        let key = format!("only-{}-{project}", scope.name());
        let may = [Scope::Ingest, Scope::Import, Scope::Browser].contains(&scope);
        let expected = if may { said(202, "") } else { said(403, "missing_right") };
        assert_eq!(send(&service, "", &[("x-api-key", &key)], event).await, expected, "{key}");
        let elsewhere = if scope == Scope::Browser { said(202, "") } else { said(403, "key_in_wrong_place") };
        assert_eq!(send(&service, &format!("key={key}"), &[], event).await, elsewhere, "{key}");
        let beacon = format!(r#"{{"key":"{key}","events":[{{"eventType":"a"}}]}}"#);
        assert_eq!(send(&service, "", &[TEXT], &beacon).await, elsewhere, "{key}");
    }
    for role in ["viewer", "admin"] {
        let token = format!("Bearer {}", provider.token(&json!({ project.as_str(): role })));
        let refused = send(&service, "", &[("authorization", &token)], event).await;
        assert_eq!(refused, said(403, "missing_right"), "programs send events, with keys");
    }
    assert_eq!(send(&service, "", &[("x-api-key", "operator")], event).await, said(403, "missing_right"));
    assert_eq!(send(&service, "", &[], event).await, said(401, "missing_key"));
    assert_eq!(service.counted("tallyhouse_http_denied_total", "missing_right"), 7);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_sends_beacons_and_the_key_is_not_stored() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let key = format!("only-browser-{project}");
    let from_page = [TEXT, (ORIGIN.as_str(), PAGE)];
    let one = format!(r#"{{"eventId":"1","key":"{key}","eventType":"left","properties":{{"n":1}}}}"#);
    let many = format!(
        r#"{{"key":"{key}","events":[{{"eventId":"2","eventType":"left"}},{{"eventId":"3","eventType":"left"}}]}}"#
    );
    assert_eq!(send(&service, "wait=stored", &from_page, &one).await.0, 200);
    assert_eq!(send(&service, "wait=stored", &from_page, &many).await.0, 200);
    let by_url = format!("wait=stored&key={key}");
    assert_eq!(send(&service, &by_url, &from_page, r#"{"eventId":"4","eventType":"left"}"#).await.0, 200);
    let evil = [TEXT, (ORIGIN.as_str(), "https://evil.example")];
    assert_eq!(send(&service, "", &evil, &one).await, said(403, "origin_not_allowed"));
    let stored = count(&writer, &project, "SELECT count() FROM events WHERE project_id = {project:String}").await;
    assert_eq!(stored, 4);
    let leaked = "SELECT count() FROM events WHERE project_id = {project:String} AND position(toString(tuple(*)), 'only-browser') > 0";
    assert_eq!(count(&writer, &project, leaked).await, 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_sent_chooses_another_project() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let (own, other) = (project.as_str(), format!("{project}-other"));
    let key_of_other = format!("other-{project}");
    let event = json!({"eventId": "1", "eventType": "a", "project": other, "projectId": other, "project_id": other,
                       "key": key_of_other, "context": {"project_id": other}, "properties": {"project_id": other}});
    assert_eq!(send(&service, "wait=stored", &[("x-api-key", own)], &event.to_string()).await.0, 200);
    let envelope = json!({"events": [{"eventId": "2", "eventType": "a"}], "key": key_of_other}).to_string();
    let stored = send(&service, "wait=stored", &[("x-api-key", own)], &envelope).await;
    assert!([200, 400].contains(&stored.0), "{stored:?}");
    let headers = |project: &'static str| [("x-api-key", own), ("x-tallyhouse-project", project)];
    for (query, headers, expected) in [
        (format!("key={key_of_other}"), vec![("x-api-key", own)], said(400, "ambiguous_credentials")),
        (String::new(), vec![("x-api-key", own), ("x-tallyhouse-project", &other)], said(403, "wrong_project")),
        (String::new(), headers("*").to_vec(), said(403, "wrong_project")),
        (
            String::new(),
            vec![("x-api-key", own), ("authorization", "Bearer other")],
            said(400, "ambiguous_credentials"),
        ),
        (format!("project={other}"), vec![("x-api-key", own)], said(400, "unknown_parameter")),
    ] {
        assert_eq!(send(&service, &query, &headers, r#"{"eventType":"a"}"#).await, expected, "{query} {headers:?}");
    }
    let of_other = "SELECT count() FROM events WHERE project_id = concat({project:String}, '-other')";
    assert_eq!(count(&writer, &project, of_other).await, 0);
    service.stop().await;
}

#[test]
fn every_route_is_in_the_readme() {
    let (readme, table) = (include_str!("../../README.md"), route_table(routes().rules()));
    assert!(table.iter().all(|line| readme.contains(line)), "README.md lacks a line of {table:#?}");
    assert_eq!(table.len(), 1, "another route needs a test of who may use it: {}", Value::from(table));
}
