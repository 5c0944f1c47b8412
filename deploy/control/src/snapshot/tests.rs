use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tallyhouse_service::access::{Right, Scope};
use tallyhouse_service::secret::Secret;

use super::disk::{CopyError, DiskCopy};
use super::*;
use crate::key_text;
use crate::records::KeyDocument;
use crate::records::key::KeySecret;

const NOW: i64 = 1_795_178_096_789;

fn record(kind: Kind, project: &str, name: &str, version: u32, document: &impl serde::Serialize) -> Record {
    Record {
        kind,
        project: project.into(),
        name: name.into(),
        version,
        document: serde_json::to_string(document).unwrap(),
        created_by: "test".to_owned(),
        created_ms: NOW + i64::from(version),
    }
}

fn project(name: &str, version: u32, deleted: bool) -> Record {
    record(Kind::Project, name, name, version, &ProjectDocument { deleted, ..ProjectDocument::default() })
}

fn key(text: &Secret) -> KeyDocument {
    KeyDocument {
        scopes: vec![Scope::Ingest],
        origins: Vec::new(),
        secrets: vec![KeySecret { sha256: key_text::digest(text.expose()), until_ms: None }],
        created_ms: NOW,
        expires_ms: None,
        revoked_ms: None,
        note: String::new(),
    }
}

fn marked(records: &[Record]) -> Mark {
    let newest_ms = records.iter().map(|record| record.created_ms).max().unwrap_or_default();
    Mark { versions: records.len() as u64, newest_ms }
}

fn snapshot(records: Vec<Record>) -> Snapshot {
    Snapshot::default().with(marked(&records), records, &FixedKeys::default())
}

#[test]
fn a_key_opens_what_it_is_for_until_it_ends() {
    let text = key_text::generate(&[Scope::Ingest]);
    let found = |document: &KeyDocument, now_ms| {
        let snapshot = snapshot(vec![project("shop", 1, false), record(Kind::Key, "shop", "k1", 1, document)]);
        snapshot.find(text.expose(), now_ms).cloned()
    };
    let opened = found(&key(&text), NOW).unwrap();
    assert_eq!((opened.principal.project(), &*opened.id), (Some("shop"), "k1"));
    assert!(opened.principal.may(Right::SendEvents) && !opened.principal.may(Right::ReadMetrics));
    let expiring = KeyDocument { expires_ms: Some(NOW), ..key(&text) };
    assert!(found(&expiring, NOW - 1).is_ok());
    assert_eq!(found(&expiring, NOW).unwrap_err(), KeyError::Expired);
    let revoked = KeyDocument { revoked_ms: Some(NOW), ..expiring };
    assert_eq!(found(&revoked, NOW - 1).unwrap_err(), KeyError::Revoked);
}

#[test]
fn a_project_that_was_deleted_is_told_from_one_that_never_was() {
    let snapshot = snapshot(vec![project("shop", 1, false), project("beta", 2, true)]);
    assert_eq!(["shop", "beta", "of-development"].map(|name| snapshot.is_deleted(name)), [false, true, false]);
}

#[test]
fn a_rotated_key_opens_under_both_texts_until_the_old_one_ends() {
    let (old, new) = (key_text::generate(&[Scope::Ingest]), key_text::generate(&[Scope::Ingest]));
    let mut document = key(&new);
    document.secrets.push(KeySecret { sha256: key_text::digest(old.expose()), until_ms: Some(NOW) });
    let snapshot = snapshot(vec![project("shop", 1, false), record(Kind::Key, "shop", "k1", 2, &document)]);
    assert!(snapshot.find(new.expose(), NOW).is_ok() && snapshot.find(old.expose(), NOW - 1).is_ok());
    assert_eq!(snapshot.find(old.expose(), NOW).unwrap_err(), KeyError::Expired);
    assert_eq!(snapshot.keys().count(), 1);
    // What was opened with the old text goes on as long as that: a stream ends with it.
    let until = |text: &Secret, now_ms| snapshot.opens_until(&key_text::digest(text.expose()), now_ms);
    assert_eq!((until(&old, NOW - 1), until(&old, NOW), until(&new, NOW)), (Some(Some(NOW)), None, Some(None)));
}

#[test]
fn a_key_of_no_project_is_an_operators_and_one_of_a_deleted_project_opens_nothing() {
    let (operator, gone) = (key_text::generate(&[]), key_text::generate(&[Scope::Query]));
    let operators = KeyDocument { scopes: Vec::new(), ..key(&operator) };
    let records = vec![
        project("gone", 2, true),
        record(Kind::Key, "gone", "k1", 1, &key(&gone)),
        record(Kind::Key, "", "k0", 1, &operators),
    ];
    let snapshot = snapshot(records);
    assert_eq!(snapshot.find(gone.expose(), NOW).unwrap_err(), KeyError::Unknown);
    assert!(snapshot.project("gone").is_none());
    let principal = &snapshot.find(operator.expose(), NOW).unwrap().principal;
    assert_eq!(principal.project(), None);
    assert!(principal.may(Right::ManageInstallation) && !principal.may(Right::ReadMetrics));
}

#[test]
fn nothing_goes_back_to_an_older_version_by_what_is_newer() {
    let text = key_text::generate(&[Scope::Ingest]);
    let revoked = KeyDocument { revoked_ms: Some(NOW), ..key(&text) };
    let held = snapshot(vec![project("shop", 1, false), record(Kind::Key, "shop", "k1", 2, &revoked)]);
    let late = record(Kind::Key, "shop", "k1", 1, &key(&text));
    let mark = Mark { versions: 3, newest_ms: NOW };
    let next = held.with(mark, [late.clone()], &FixedKeys::default());
    assert_eq!(next.find(text.expose(), NOW).unwrap_err(), KeyError::Revoked);
    assert_eq!(next.versions(), 3);
    // Put back on purpose.
    let restored = held.only(mark, [project("shop", 1, false), late], &FixedKeys::default());
    assert!(restored.find(text.expose(), NOW).is_ok());
}

#[test]
fn before_anything_was_read_a_key_may_exist() {
    let text = key_text::generate(&[Scope::Ingest]);
    let nothing = Snapshot::of_fixed(&FixedKeys::development());
    assert_eq!(nothing.find(text.expose(), NOW).unwrap_err(), KeyError::NotLoaded);
    assert_eq!(nothing.find("wrong", NOW).unwrap_err(), KeyError::Unknown);
    assert_eq!(nothing.find(text.expose().get(..40).unwrap(), NOW).unwrap_err(), KeyError::Broken);
    assert!(nothing.find("demo-ingest-key", NOW).is_ok());
    assert_eq!(snapshot(Vec::new()).find(text.expose(), NOW).unwrap_err(), KeyError::Unknown);
}

#[test]
fn a_preflight_is_answered_for_pages_of_any_key() {
    let text = key_text::generate(&[Scope::Browser]);
    let document = KeyDocument { origins: vec!["https://app.example".to_owned()], ..key(&text) };
    let snapshot = snapshot(vec![project("shop", 1, false), record(Kind::Key, "shop", "k1", 1, &document)]);
    let allows = |origin| snapshot.any_key_allows(&HeaderValue::from_static(origin));
    assert!(allows("https://app.example"));
    assert!(!allows("https://evil.example") && !allows("http://localhost") && !allows("null"));
}

#[test]
fn records_are_found_by_kind_and_project() {
    let schema = |project, name| record(Kind::Schema, project, name, 1, &());
    let snapshot = snapshot(vec![schema("a", "x"), schema("a", "y"), schema("ab", "x"), project("a", 1, false)]);
    let names = |project| snapshot.records_of(Kind::Schema, project).map(|record| &*record.name).collect::<Vec<_>>();
    assert_eq!((names("a"), names("ab"), names("")), (vec!["x", "y"], vec!["x"], vec![]));
    assert_eq!((snapshot.records(Kind::Schema).count(), snapshot.records(Kind::Job).count()), (3, 0));
}

#[test]
fn the_copy_on_the_disk_is_private_and_used_only_when_it_is_whole() {
    let folder = std::env::temp_dir().join(format!("tallyhouse-copy-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (copy, text) = (DiskCopy::of(&folder, "test"), key_text::generate(&[Scope::Ingest]));
    assert!(copy.read().unwrap().is_none());
    let odd = "\u{2028}\"\\\n\u{0}";
    let records = vec![project("shop", 1, false), record(Kind::Key, "shop", odd, 1, &key(&text))];
    let (snapshot, mark) = (snapshot(records.clone()), marked(&records));
    copy.write(&snapshot).unwrap();
    assert_eq!(fs::metadata(copy.path()).unwrap().mode() & 0o777, 0o600);
    let (found, mut read) = copy.read().unwrap().unwrap();
    read.sort_by_key(|record| record.kind);
    assert_eq!((found, read), (mark, records));
    assert!(!fs::read_to_string(copy.path()).unwrap().contains(text.expose()));

    for mode in [0o644, 0o620, 0o604] {
        fs::set_permissions(copy.path(), Permissions::from_mode(mode)).unwrap();
        assert!(matches!(copy.read(), Err(CopyError::Open { .. })), "{mode:o}");
    }
    let whole = fs::read(copy.path()).unwrap();
    fs::set_permissions(copy.path(), Permissions::from_mode(0o600)).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(copy.path(), &whole[..length]).unwrap();
        assert!(matches!(copy.read(), Err(CopyError::Damaged { .. })), "{length}");
    }
    for at in (0..whole.len()).step_by(11) {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        fs::write(copy.path(), &changed).unwrap();
        assert!(matches!(copy.read(), Err(CopyError::Damaged { .. })), "{at}");
    }
    fs::write(copy.path(), [0xff, 0xfe]).unwrap();
    assert!(matches!(copy.read(), Err(CopyError::Damaged { .. })));
    copy.write(&snapshot).unwrap();
    assert!(copy.read().unwrap().is_some());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn jobs_that_were_done_long_ago_are_counted_and_not_held() {
    let job = |number: i64, state: &str| Record {
        kind: Kind::Job,
        project: "shop".into(),
        name: format!("erasure-{number}").into(),
        version: 1,
        document: format!(r#"{{"state":"{state}"}}"#),
        created_by: "privacy".to_owned(),
        created_ms: NOW + number,
    };
    let open = [job(-2, "deleting"), job(-1, "deleting")];
    let jobs = (0..DONE_JOBS as i64 + 3).map(|number| job(number, "done"));
    let records: Vec<_> = open.into_iter().chain(jobs).collect();
    let held = snapshot(records.clone());
    let empty: Vec<_> = held.records(Kind::Job).filter(|record| record.document.is_empty()).collect();
    let mut names: Vec<_> = empty.iter().map(|record| &*record.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["erasure-0", "erasure-1", "erasure-2"]);
    assert_eq!(held.versions(), records.len() as u64, "none is missing");
    let again = held.with(marked(&records), records, &FixedKeys::default());
    assert_eq!(again.records(Kind::Job).filter(|record| record.document.is_empty()).count(), 3);
}
