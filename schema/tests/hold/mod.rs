//! What must hold for any bytes. The fuzz targets and the tests on mutated inputs check the same.

use tallyhouse_schema::body::{Decoded, Layout, decode, event_id, open, read_all};
use tallyhouse_schema::normalise::{Agent, Context, ProjectRules, normalise};
use tallyhouse_schema::raw::{self, RawTime};
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::{Catalogue, Event, wire};

/// When bodies are received.
pub(crate) const NOW: i64 = 1_800_000_000_000;

/// Takes a body all the way: each event of it is refused, or its record is read back as it was.
pub(crate) fn body(bytes: &[u8], layout: Layout, mut look: impl FnMut(&Event<'_>)) {
    let text = match decode(bytes) {
        Ok(Decoded::Clean(text)) => text,
        Ok(Decoded::Broken(broken)) => match broken.repair(1 << 20) {
            Ok(text) => text,
            Err(_) => return,
        },
        Err(_) => return,
    };
    let mut at_once = Vec::new();
    let is_single = read_all(text.as_str(), layout, |text, raw| at_once.push((text, raw)));
    let envelope = match open(text.as_str(), layout) {
        Ok(envelope) => envelope,
        Err(error) => {
            assert_eq!(is_single, None, "{error}");
            return;
        }
    };
    if let Some(is_single) = is_single {
        assert_eq!((envelope.is_single, &envelope.sent_at, envelope.beside), (is_single, &None, None));
        let apart = envelope.items.iter().map(|item| item.as_ref().map(|text| (*text, raw::read(text))));
        assert!(apart.eq(at_once.into_iter().map(|(text, raw)| Ok((text, Ok(raw))))), "{}", text.as_str());
    }
    for item in &envelope.items {
        let text = match item {
            Ok(text) => text,
            Err(unread) => {
                drop((event_id(unread.text), text.is_repaired(unread.text)));
                continue;
            }
        };
        event(text, envelope.sent_at.as_ref(), &mut look);
    }
}

/// One event's text: refused, or its record is read back as it was.
pub(crate) fn event(text: &str, sent_at: Option<&RawTime<'_>>, look: impl FnOnce(&Event<'_>)) {
    let (catalogue, hasher) = (Catalogue::built_in().expect("they are tested"), UserHasher::new([1; 16]));
    let rules = ProjectRules { project: "p".into(), late_window_days: 7, retention_days: 730, may_import: false };
    let context = Context {
        catalogue: &catalogue,
        rules: &rules,
        hasher: &hasher,
        agent: &|_| Agent::default(),
        new_id: &|| "generated".to_owned(),
        received_at: NOW,
    };
    let Ok(normalised) = raw::read(text).and_then(|raw| normalise(raw, sent_at, context)) else { return };
    let mut bytes = Vec::new();
    wire::encode("p", &normalised.event, &mut bytes);
    let record = wire::decode(&bytes).expect("what is written is read");
    assert_eq!((record.project, &record.event), ("p", &normalised.event));
    look(&normalised.event);
}

/// Bytes as a record: refused, or the same when written and read once more, and whose it is told alike.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = wire::decode(bytes) else { return };
    let identity = wire::identity(bytes).expect("a part of what was read");
    assert_eq!((identity.project, identity.event_id), (record.project, &*record.event.event_id));
    let write = |record: &wire::Record<'_>| {
        let mut bytes = Vec::new();
        wire::encode(record.project, &record.event, &mut bytes);
        bytes
    };
    // Of bytes, because NaN is no number's equal.
    let written = write(&record);
    assert_eq!(write(&wire::decode(&written).expect("what is written is read")), written);
}
