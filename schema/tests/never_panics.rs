//! Whatever bytes come in, they end as events or as refusals.
#![allow(clippy::expect_used, reason = "a helper that panics fails its test")]

use proptest::prelude::*;
use tallyhouse_schema::body::Layout;
use tallyhouse_schema::dimension::VALUE_SEPARATOR;
use tallyhouse_schema::limits::MAX_TEXT_BYTES;
use tallyhouse_schema::raw::PropertyValue;

#[allow(dead_code, reason = "records are for others")]
mod hold;

use hold::NOW;

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
        hold::body(&body, Layout::Json, |_| {});
        hold::body(&body, Layout::Ndjson, |_| {});
    }

    #[test]
    fn any_bytes_among_json(value in json(), at in any::<prop::sample::Index>(), put in prop::collection::vec(any::<u8>(), 0..4)) {
        let mut body = serde_json::Value::from(vec![value.clone(), value]).to_string().into_bytes();
        let at = at.index(body.len());
        body.splice(at..at, put);
        hold::body(&body, Layout::Json, |_| {});
        hold::body(&body, Layout::Ndjson, |_| {});
    }

    #[test]
    fn any_json_comes_out_within_its_limits(value in json()) {
        hold::body(value.to_string().as_bytes(), Layout::Json, |event| {
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
