//! Whatever bytes come in, they end as events or as refusals.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; .clippy.toml exempts only the tests themselves"
)]

use proptest::prelude::*;
use tallyhouse_schema::body::{Decoded, Layout, decode, event_id, open};
use tallyhouse_schema::dimension::VALUE_SEPARATOR;
use tallyhouse_schema::limits::MAX_TEXT_BYTES;
use tallyhouse_schema::normalise::{Agent, Context, ProjectRules, normalise};
use tallyhouse_schema::raw::{PropertyValue, read};
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::{Catalogue, Event};

const NOW: i64 = 1_800_000_000_000;

/// Takes a body all the way and shows each event that came of it.
fn take(body: &[u8], layout: Layout, mut look: impl FnMut(&Event<'_>)) {
    let text = match decode(body) {
        Ok(Decoded::Clean(text)) => text,
        Ok(Decoded::Broken(broken)) => broken.repair(1 << 20).unwrap(),
        Err(_) => return,
    };
    let Ok(envelope) = open(text.as_str(), layout) else { return };
    let (catalogue, hasher) = (Catalogue::built_in().unwrap(), UserHasher::new([1; 16]));
    let rules = ProjectRules { project: "p".into(), late_window_days: 7, retention_days: 730, may_import: false };
    let context = Context {
        catalogue: &catalogue,
        rules: &rules,
        hasher: &hasher,
        agent: &|_| Agent::default(),
        new_id: &|| "generated".to_owned(),
        received_at: NOW,
    };
    for item in &envelope.items {
        let text = match item {
            Ok(text) => text,
            Err(unread) => {
                drop((event_id(unread.text), text.is_repaired(unread.text)));
                continue;
            }
        };
        if let Ok(normalised) = read(text).and_then(|raw| normalise(raw, envelope.sent_at.as_ref(), context)) {
            look(&normalised.event);
        }
    }
}

/// JSON that looks like events more often than chance would make it.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let names = prop::sample::select(vec![
        "eventId",
        "eventType",
        "userId",
        "timestamp",
        "sentAt",
        "properties",
        "context",
        "country",
        "device",
        "value",
        "events",
        "ip",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
        Just("2027-01-15T08:00:00Z".into()),
        Just("purchase".into()),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::vec((names.clone(), inner), 0..8).prop_map(|fields| serde_json::Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes(body in prop::collection::vec(any::<u8>(), 0..512)) {
        take(&body, Layout::Json, |_| {});
        take(&body, Layout::Ndjson, |_| {});
    }

    #[test]
    fn any_bytes_among_json(value in json(), at in any::<prop::sample::Index>(), put in prop::collection::vec(any::<u8>(), 0..4)) {
        let mut body = serde_json::Value::from(vec![value.clone(), value]).to_string().into_bytes();
        let at = at.index(body.len());
        body.splice(at..at, put);
        take(&body, Layout::Json, |_| {});
        take(&body, Layout::Ndjson, |_| {});
    }

    #[test]
    fn any_json_comes_out_within_its_limits(value in json()) {
        take(value.to_string().as_bytes(), Layout::Json, |event| {
            assert!(!event.event_type.is_empty() && event.ts <= NOW + 600_000);
            assert!(event.dims.iter().all(|dim| dim.value.matches(VALUE_SEPARATOR).count() == dim.set.matches(',').count()));
            for property in &event.properties {
                match &property.value {
                    PropertyValue::Text(text) => assert!(text.len() <= MAX_TEXT_BYTES && !text.contains('\0')),
                    PropertyValue::Number(number) => assert!(number.is_finite()),
                }
            }
        });
    }
}
