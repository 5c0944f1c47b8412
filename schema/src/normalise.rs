//! Validates and corrects an event, cuts long texts, and assigns its dimension values.
//!
//! Everything that is decided here is decided once, before the event is durable: retries, replays and rebuilds read the
//! result and decide nothing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::catalogue::Catalogue;
use crate::dimension::{DimSet, MAX_VALUE_BYTES, VALUE_SEPARATOR, counted_value};
use crate::event::{Dim, Event, Flags};
use crate::json_schema::{Mode, Sent};
use crate::limits::{MAX_ID_CHARS, MAX_KEY_BYTES, MAX_TEXT_BYTES, MAX_USER_CHARS};
use crate::number;
use crate::property::{Property, PropertyValue};
use crate::raw::RawEvent;
use crate::rejection::Rejection;
use crate::shape;
use crate::text;
use crate::time::RawTime;
use crate::user_hash::UserHasher;
use crate::value;
use crate::warning::{Warning, Warnings};

mod names;
mod times;

use times::Times;
pub use times::happened_at;

/// What a user agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Agent {
    pub device: &'static str,
    pub os: &'static str,
    pub browser: &'static str,
}

/// What a project wants of its events.
#[derive(Debug, Clone)]
pub struct ProjectRules {
    /// The project.
    pub project: String,
    /// Events older than this are refused, unless `may_import`. Days.
    pub late_window_days: u16,
    /// How long raw events are kept. Days.
    pub retention_days: u16,
    /// Whether the sender's key may send history.
    pub may_import: bool,
}

/// What normalisation needs beside the event. It holds no clock and no randomness: the caller brings both.
///
/// Events borrow from what lives for `'a`, and nothing from the two functions.
#[derive(Clone, Copy)]
pub struct Context<'a, 'f> {
    /// What event types declare.
    pub catalogue: &'a Catalogue,
    /// The project's rules.
    pub rules: &'a ProjectRules,
    /// Hashes users.
    pub hasher: &'a UserHasher,
    /// Reads user agents.
    pub agent: &'f dyn Fn(&str) -> Agent,
    /// Makes ids for events without one.
    pub new_id: &'f dyn Fn() -> String,
    /// When the request was received, in milliseconds since 1970.
    pub received_at: i64,
}

/// An event, and what its sender is told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalised<'a> {
    /// The event as it is stored.
    pub event: Event<'a>,
    /// What was changed, or is not counted as was probably meant.
    pub warnings: Warnings,
}

/// What normalisation changed: bits of the stored event, and words for its sender.
#[derive(Default)]
struct Changes {
    flags: Flags,
    warnings: Warnings,
}

impl Changes {
    fn note(&mut self, flag: Flags, warning: Warning) {
        self.flags.set(flag);
        self.warnings.add(warning);
    }
}

/// Normalises one event. `batch_sent_at` is used when the event has no `sentAt` of its own.
pub fn normalise<'a>(
    raw: RawEvent<'a>,
    batch_sent_at: Option<&RawTime<'a>>,
    context: Context<'a, '_>,
) -> Result<Normalised<'a>, Rejection> {
    let mut changes = Changes::default();
    if raw.is_repaired {
        repaired(&raw, &mut changes)?;
    }
    let given = raw.event_type.as_ref().map_or(0, |name| name.len());
    let is_given = raw.event_type.is_some();
    let event_type =
        bounded("eventType", raw.event_type.map(text::without_controls), MAX_ID_CHARS)?.ok_or_else(|| {
            let hint = if is_given { "; it is empty".to_owned() } else { shape::meant_type(&raw.properties) };
            Rejection::Missing { field: "eventType", hint }
        })?;
    if event_type.len() != given {
        changes.note(Flags::CHANGED_DIMENSION, Warning::ChangedDimension { field: "eventType".to_owned() });
    }
    // Kept as it is: of two ids that differ only in a tab, one event would be taken for the other's repetition.
    let event_id = bounded("eventId", raw.event_id, MAX_ID_CHARS)?.unwrap_or_else(|| {
        changes.flags.set(Flags::GENERATED_ID);
        Cow::Owned((context.new_id)())
    });
    let user_id = user("userId", raw.user_id, &mut changes)?;
    let anonymous_id = user("anonymousId", raw.anonymous_id, &mut changes)?;
    let session_id = identifier("sessionId", raw.session_id, &mut changes)?.unwrap_or_default();
    let sent_at = raw.sent_at.as_ref().or(batch_sent_at);
    let times = Times::decide(raw.timestamp.as_ref(), sent_at, context.received_at, context.rules, &mut changes)?;
    let declared = context.catalogue.event_type(&event_type);
    let mut properties = raw.properties;
    if let Some(schema) = &declared.schema {
        let sent = Sent { properties: &mut properties, empty_objects: &raw.empty_objects, nulls: &raw.nulls };
        let violations = schema.check(sent);
        match schema.mode() {
            _ if violations.is_empty() => {}
            Mode::Enforce => {
                let (event_type, violations) = (event_type.into_owned(), Box::new(violations));
                return Err(Rejection::SchemaViolation { event_type, violations });
            }
            Mode::Report | Mode::Off => {
                for violation in violations.listed() {
                    changes.warnings.add(Warning::SchemaViolation(violation.clone()));
                }
            }
        }
    }
    for field in raw.collisions {
        changes.note(Flags::NAME_COLLISION, Warning::NameCollision { field: field.to_owned() });
    }

    let agent = raw.context.user_agent.as_deref().map(context.agent).unwrap_or_default();
    let country = text_within(raw.context.country, "context.country", MAX_VALUE_BYTES, &mut changes);
    let device = raw.context.device.or_else(|| non_empty(agent.device));
    let device = text_within(device, "context.device", MAX_VALUE_BYTES, &mut changes);
    let locale = text_within(raw.context.locale, "context.locale", MAX_VALUE_BYTES, &mut changes);
    let page = text_within(raw.context.page, "context.page", MAX_TEXT_BYTES, &mut changes);
    for property in &mut properties {
        clean(property, &mut changes);
    }
    names::keep_last(&mut properties, |field| changes.note(Flags::NAME_COLLISION, Warning::NameCollision { field }));
    // Many senders have the field and no address.
    let ip = raw.context.ip.filter(|ip| !ip.trim().is_empty()).map_or_else(String::new, |ip| {
        masked(&ip).unwrap_or_else(|| {
            changes.note(Flags::BAD_IP, Warning::BadIp);
            String::new()
        })
    });

    let value = value::of(declared, &properties, &raw.empty_objects, |warning| changes.note(Flags::BAD_VALUE, warning));
    let mut event = Event {
        value,
        user_hash: context.hasher.hash(&context.rules.project, &user_id, &anonymous_id),
        event_id,
        event_type,
        ts: times.ts,
        original_ts: times.original,
        received_at: context.received_at,
        user_id,
        anonymous_id,
        session_id,
        country,
        device,
        os: agent.os.into(),
        browser: agent.browser.into(),
        locale,
        page,
        ip: ip.into(),
        properties,
        dims: Vec::new(),
        flags: changes.flags,
        retention_days: context.rules.retention_days,
    };
    let mut changed = Vec::new();
    let dims = declared.sets.iter().map(|set| Dim { set: set.key(), value: dim_value(set, &event, &mut changed) });
    event.dims = dims.collect();
    changed.sort_unstable();
    changed.dedup();
    for field in changed {
        changes.note(Flags::CHANGED_DIMENSION, Warning::ChangedDimension { field: field.to_owned() });
    }
    event.flags = changes.flags;
    Ok(Normalised { event, warnings: changes.warnings })
}

/// Names the fields of an event in which broken text was replaced; ids are not taken so, because two could have become one.
fn repaired(raw: &RawEvent<'_>, changes: &mut Changes) -> Result<(), Rejection> {
    let is_repaired = |text: &str| text.contains('\u{fffd}');
    let ids = [
        ("eventId", &raw.event_id),
        ("userId", &raw.user_id),
        ("anonymousId", &raw.anonymous_id),
        ("sessionId", &raw.session_id),
    ];
    if let Some((field, _)) = ids.into_iter().find(|(_, id)| id.as_deref().is_some_and(is_repaired)) {
        return Err(Rejection::BrokenId { field });
    }
    let context = &raw.context;
    let texts = [
        ("eventType", &raw.event_type),
        ("context.ip", &context.ip),
        ("context.userAgent", &context.user_agent),
        ("context.country", &context.country),
        ("context.device", &context.device),
        ("context.locale", &context.locale),
        ("context.page", &context.page),
    ];
    let texts = texts.into_iter().filter(|(_, text)| text.as_deref().is_some_and(is_repaired)).map(|(name, _)| name);
    let properties = raw.properties.iter().filter(|property| {
        is_repaired(&property.name) || matches!(&property.value, PropertyValue::Text(text) if is_repaired(text))
    });
    let fields: Vec<&str> = texts.chain(properties.map(|property| &*property.name)).collect();
    for field in &fields {
        let (field, _) = text::cut(Cow::Borrowed(*field), MAX_KEY_BYTES);
        changes.note(Flags::REPAIRED_TEXT, Warning::RepairedText { field: Some(field.into_owned()) });
    }
    if fields.is_empty() {
        changes.note(Flags::REPAIRED_TEXT, Warning::RepairedText { field: None });
    }
    Ok(())
}

/// A text without NUL, of at most `most` bytes.
fn text_within<'a>(text: Option<Cow<'a, str>>, field: &str, most: usize, changes: &mut Changes) -> Cow<'a, str> {
    let text = text.unwrap_or_default();
    if text::is_within(&text, most) {
        return text;
    }
    let text = cleaned(text, text::without_nul, field, changes);
    let (text, was_cut) = text::cut(text, most);
    if was_cut {
        changes.note(Flags::CUT, Warning::TextCut { field: field.to_owned(), most });
    }
    text
}

/// A text after `clean`, which only takes characters out.
fn cleaned<'a>(
    text: Cow<'a, str>,
    clean: fn(Cow<'a, str>) -> Cow<'a, str>,
    field: &str,
    changes: &mut Changes,
) -> Cow<'a, str> {
    let given = text.len();
    let text = clean(text);
    if text.len() != given {
        changes.note(Flags::CUT, Warning::RemovedControls { field: field.to_owned() });
    }
    text
}

/// Brings a property's name and text within their limits. Nearly all are, and are not touched.
fn clean(property: &mut Property<'_>, changes: &mut Changes) {
    if !text::is_within(&property.name, MAX_KEY_BYTES) {
        clean_name(property, changes);
    }
    if let PropertyValue::Text(text) = &mut property.value
        && !text::is_within(text, MAX_TEXT_BYTES)
    {
        *text = text_within(Some(std::mem::take(text)), &property.name, MAX_TEXT_BYTES, changes);
    }
}

fn clean_name(property: &mut Property<'_>, changes: &mut Changes) {
    let given = property.name.len();
    let name = text::without_nul(std::mem::take(&mut property.name));
    let is_cleaned = name.len() != given;
    let (name, was_cut) = text::cut(name, MAX_KEY_BYTES);
    if is_cleaned {
        changes.note(Flags::CUT, Warning::RemovedControls { field: name.clone().into_owned() });
    }
    if was_cut {
        changes.note(Flags::CUT, Warning::NameCut { field: name.clone().into_owned(), most: MAX_KEY_BYTES });
    }
    property.name = name;
}

fn non_empty(text: &'static str) -> Option<Cow<'static, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

/// An id: bounded, without control characters; an empty one is absent.
fn identifier<'a>(
    field: &'static str,
    value: Option<Cow<'a, str>>,
    changes: &mut Changes,
) -> Result<Option<Cow<'a, str>>, Rejection> {
    bounded(field, value.map(|value| cleaned(value, text::without_controls, field, changes)), MAX_ID_CHARS)
}

fn user<'a>(
    field: &'static str,
    value: Option<Cow<'a, str>>,
    changes: &mut Changes,
) -> Result<Cow<'a, str>, Rejection> {
    let value = value.map(|value| cleaned(value, text::without_nul, field, changes));
    Ok(bounded(field, value, MAX_USER_CHARS)?.unwrap_or_default())
}

fn bounded<'a>(
    field: &'static str,
    value: Option<Cow<'a, str>>,
    most: usize,
) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    // Bytes first: counting characters of every id would cost more than all other checks together.
    if value.len() > most {
        let found = value.chars().count();
        if found > most {
            return Err(Rejection::TooLong { field, found, most });
        }
    }
    Ok(Some(value))
}

/// What an event that is stored is counted under for a set that it was not counted under: the same as if the set had been
/// declared when it came, but for the bound on distinct values, which is the caller's.
pub fn counted_under<'a>(set: &DimSet, event: &Event<'a>) -> Cow<'a, str> {
    dim_value(set, event, &mut Vec::new())
}

/// Room for the values of a set, as most are.
const JOINED_BYTES: usize = 32;

/// The values of a set, joined; `changed` gets the names of those that are not counted as they were given.
fn dim_value<'a, 'n>(set: &'n DimSet, event: &Event<'a>, changed: &mut Vec<&'n str>) -> Cow<'a, str> {
    match set.names() {
        [name] => one_value(name, event, changed),
        names => {
            let mut joined = String::with_capacity(JOINED_BYTES);
            for (index, name) in names.iter().enumerate() {
                if index > 0 {
                    joined.push(VALUE_SEPARATOR);
                }
                joined.push_str(&one_value(name, event, changed));
            }
            Cow::Owned(joined)
        }
    }
}

fn one_value<'a, 'n>(name: &'n str, event: &Event<'a>, changed: &mut Vec<&'n str>) -> Cow<'a, str> {
    let value = match name {
        "country" => event.country.clone(),
        "device" => event.device.clone(),
        "os" => event.os.clone(),
        "browser" => event.browser.clone(),
        "locale" => event.locale.clone(),
        "page" => event.page.clone(),
        property => match event.properties.iter().find(|p| p.name == property).map(|p| &p.value) {
            Some(PropertyValue::Text(text)) => text.clone(),
            Some(PropertyValue::Number(number)) => Cow::Owned(number::canonical(*number)),
            None => Cow::Borrowed(""),
        },
    };
    let given = value.len();
    let counted = counted_value(value);
    if counted.len() != given {
        changed.push(name);
    }
    counted
}

/// The address without what tells a person: the last octet of IPv4, the last 80 bits of IPv6.
fn masked(ip: &str) -> Option<String> {
    // Servers that listen on both families give IPv4 as `::ffff:203.0.113.7`.
    let masked = match ip.trim().parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) & !(u128::MAX >> 48)).to_be_bytes()),
    };
    let mut text = String::with_capacity(ADDRESS_BYTES);
    write!(text, "{masked}").ok()?;
    Some(text)
}

/// Bytes of a masked address, at most.
const ADDRESS_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::read;

    pub(super) const NOW: i64 = 1_800_000_000_000;

    pub(super) fn rules() -> ProjectRules {
        ProjectRules { project: "p".into(), late_window_days: 7, retention_days: 730, may_import: false }
    }

    fn catalogue() -> Catalogue {
        Catalogue::from_documents([
            r#"{"eventType":"flight","value":"delay","dimensions":["origin"],"combinations":[["origin","carrier"]]}"#,
        ])
        .unwrap()
    }

    /// Normalises under `rules` and shows what `look` sees, since an event borrows from everything here.
    pub(super) fn with<T>(
        rules: &ProjectRules,
        json: &str,
        look: impl FnOnce(Result<&Event<'_>, Rejection>) -> T,
    ) -> T {
        normalised(rules, json, |normalised| look(normalised.map(|normalised| &normalised.event)))
    }

    /// The same with the warnings.
    fn normalised<T>(
        rules: &ProjectRules,
        json: &str,
        look: impl FnOnce(Result<&Normalised<'_>, Rejection>) -> T,
    ) -> T {
        let catalogue = catalogue();
        let hasher = UserHasher::new([7; 16]);
        let agent = |_: &str| Agent { device: "desktop", os: "Linux", browser: "Firefox" };
        let new_id = || "generated".to_owned();
        let context =
            Context { catalogue: &catalogue, rules, hasher: &hasher, agent: &agent, new_id: &new_id, received_at: NOW };
        match read(json).and_then(|raw| normalise(raw, None, context)) {
            Ok(normalised) => look(Ok(&normalised)),
            Err(rejection) => look(Err(rejection)),
        }
    }

    /// Code and field of each warning.
    pub(super) fn warned(json: &str) -> Vec<(&'static str, String)> {
        normalised(&rules(), json, |normalised| {
            let (kept, _) = normalised.unwrap().warnings.clone().into_parts();
            kept.iter().map(|warning| (warning.code(), warning.field().unwrap_or_default().to_owned())).collect()
        })
    }

    pub(super) fn ts(json: &str) -> (i64, Flags) {
        with(&rules(), json, |event| event.map(|e| (e.ts, e.flags)).unwrap())
    }

    pub(super) fn refused(rules: &ProjectRules, json: &str) -> Rejection {
        with(rules, json, |event| event.map(|e| e.ts).unwrap_err())
    }

    #[test]
    fn of_one_name_storage_and_counting_see_the_same_value() {
        for (json, value, field) in [
            (r#"{"eventType":"a","amount":1,"properties":{"amount":2}}"#, 2.0, "amount"),
            (r#"{"eventType":"a","properties":{"amount":2},"amount":1}"#, 2.0, "amount"),
            (r#"{"eventType":"a","properties":{"amount":1,"amount":2}}"#, 2.0, "amount"),
            (r#"{"eventType":"a","properties":{"amount\u0000":1,"amount":2}}"#, 2.0, "amount"),
        ] {
            with(&rules(), json, |event| {
                let event = event.unwrap();
                assert_eq!(event.value, Some(value), "{json}");
                assert_eq!(event.properties.len(), 1, "{json}");
                assert_eq!(event.properties[0].value, PropertyValue::Number(value), "{json}");
                assert!(event.flags.has(Flags::NAME_COLLISION));
            });
            let told = warned(json).into_iter().filter(|(code, _)| *code != "removed_controls");
            assert!(told.eq([("name_collision", field.to_owned())]), "{json}");
        }
        let long = "n".repeat(MAX_KEY_BYTES + 1);
        let json = format!(r#"{{"eventType":"a","properties":{{"{long}x":1,"{long}y":2}}}}"#);
        assert_eq!(with(&rules(), &json, |e| e.unwrap().properties.len()), 1, "names that are cut to the same");
        let same = r#"{"eventType":"a","eventId":"1","event_id":"1","amount":2,"properties":{"amount":2}}"#;
        assert_eq!(warned(same), []);
        let ids = r#"{"eventType":"a","event_id":"0","eventId":"1","context":{"country":"DE","country":"FR"}}"#;
        let expected = ["eventId", "context.country"].map(|field| ("name_collision", field.to_owned()));
        assert_eq!(warned(ids), expected);
    }

    #[test]
    fn one_number_is_one_dimension_value() {
        let origin = |number: &str| {
            let json = format!(r#"{{"eventType":"flight","properties":{{"origin":{number}}}}}"#);
            with(&rules(), &json, |e| e.unwrap().dims.iter().find(|d| d.set == "origin").unwrap().value.to_string())
        };
        for (written, expected) in [
            (&["0", "-0", "0.0", "0e5"][..], "0"),
            (&["7", "7.0", "7e0", "0.7e1"], "7"),
            (&["0.1", "1e-1", "0.10"], "0.1"),
            (&["1e-7", "0.0000001"], "1e-7"),
            (&["1e21", "1000000000000000000000"], "1e21"),
            (&["123456789012345680", "123456789012345680.0", "1.2345678901234568e17"], "123456789012345680"),
            (&["9007199254740993", "\"9007199254740993\""], "9007199254740993"),
            (&["18446744073709551617"], "18446744073709551617"),
            (&["1.7976931348623157e308"], "1.7976931348623157e308"),
            (&["5e-324", "4.9e-324"], "5e-324"),
        ] {
            for number in written {
                assert_eq!(origin(number), expected, "{number}");
            }
        }
    }

    #[test]
    fn a_dimension_that_is_not_counted_as_given_is_reported() {
        let event_type = [("changed_dimension", "eventType".to_owned())];
        assert_eq!(warned(r#"{"eventType":"fli\u0009ght"}"#), event_type);
        let long = "x".repeat(MAX_VALUE_BYTES + 1);
        for (properties, expected) in [
            (format!(r#"{{"origin":"{long}"}}"#), vec!["origin"]),
            (r#"{"origin":"a\tb","carrier":"c\u001fd"}"#.to_owned(), vec!["carrier", "origin"]),
            (format!(r#"{{"origin":"ok ","undeclared":"a\tb{long}"}}"#), vec![]),
        ] {
            let json = format!(r#"{{"eventType":"flight","properties":{properties}}}"#);
            let told: Vec<_> = expected.iter().map(|field| ("changed_dimension", (*field).to_owned())).collect();
            assert_eq!(warned(&json), told, "{json}");
            assert_eq!(ts(&json).1.has(Flags::CHANGED_DIMENSION), !told.is_empty(), "{json}");
        }
    }

    #[test]
    fn ids_are_bounded_and_generated_when_absent() {
        let rules = rules();
        let long = "x".repeat(101);
        for field in ["eventId", "eventType", "sessionId"] {
            let json = format!(r#"{{"eventType":"a","{field}":"{long}"}}"#);
            let rejection = refused(&rules, &json);
            assert_eq!((rejection.code(), rejection.field()), ("too_long", Some(field)));
        }
        let hundred = "é".repeat(100);
        assert!(with(&rules, &format!(r#"{{"eventType":"a","eventId":"{hundred}"}}"#), |e| e.is_ok()));
        assert_eq!(refused(&rules, r#"{"eventId":"1"}"#).code(), "missing_field");
        for empty in [r#"{"eventType":""}"#, r#"{"eventType":"\u0001","event":"a"}"#] {
            assert_eq!(refused(&rules, empty).to_string(), "`eventType` is required; it is empty", "{empty}");
        }
        with(&rules, r#"{"eventType":"a"}"#, |e| {
            let event = e.unwrap();
            assert!(event.event_id == "generated" && event.flags.has(Flags::GENERATED_ID));
        });
    }

    #[test]
    fn the_value_is_the_declared_property_or_a_usual_one() {
        let value = |json: &str| with(&rules(), json, |e| e.unwrap().value);
        assert_eq!(value(r#"{"eventType":"flight","properties":{"delay":-3,"value":9}}"#), Some(-3.0));
        assert_eq!(value(r#"{"eventType":"flight","properties":{"value":9}}"#), None);
        assert_eq!(value(r#"{"eventType":"a","properties":{"revenue":1,"amount":2}}"#), Some(2.0));
        assert_eq!(value(r#"{"eventType":"a","value":5}"#), Some(5.0));
        assert_eq!(value(r#"{"eventType":"a","value":" 12.50"}"#), Some(12.5));
        assert_eq!(value(r#"{"eventType":"flight","properties":{"delay":"-3","value":9}}"#), Some(-3.0));
    }

    #[test]
    fn what_stands_for_a_value_and_cannot_be_counted_is_named() {
        let of = |json: &str| with(&rules(), json, |e| e.map(|e| (e.value, e.flags.has(Flags::BAD_VALUE))).unwrap());
        let not_a_number =
            [r#""12,50""#, r#""€12""#, r#""""#, r#""1e3""#, "true", "{}", r#"{"x":1}"#, r#"{"x":null}"#, "[12]", "[]"];
        for written in not_a_number {
            for json in [
                format!(r#"{{"eventType":"a","amount":{written}}}"#),
                format!(r#"{{"eventType":"a","properties":{{"amount":{written}}}}}"#),
            ] {
                assert_eq!(of(&json), (None, true), "{json}");
                assert_eq!(warned(&json), [("value_not_a_number", "amount".to_owned())], "{json}");
            }
            let declared = format!(r#"{{"eventType":"flight","delay":{written}}}"#);
            assert_eq!(warned(&declared), [("value_not_a_number", "delay".to_owned())], "{declared}");
        }
        for (written, value) in [
            ("1e300", None),
            ("-1e999", None),
            ("-1e31", None),
            (r#""1000000000000000000000000000000000""#, None),
            ("5e-324", Some(0.0)),
        ] {
            let json = format!(r#"{{"eventType":"a","revenue":{written}}}"#);
            assert_eq!(of(&json), (value, true), "{json}");
            assert_eq!(warned(&json), [("value_out_of_range", "revenue".to_owned())], "{json}");
        }
        // Absent: no value, and nothing to say.
        for json in [r#"{"eventType":"a","amount":null}"#, r#"{"eventType":"a","amounts":{},"valued":"x"}"#] {
            assert_eq!((of(json), warned(json)), ((None, false), vec![]), "{json}");
        }
        // The first that can be counted; whatever stands before it is named.
        let json = r#"{"eventType":"a","revenue":"x","amount":3,"value":"gold"}"#;
        assert_eq!((of(json).0, warned(json)), (Some(3.0), vec![("value_not_a_number", "value".to_owned())]));
    }

    #[test]
    fn a_property_keeps_what_was_sent_whatever_its_value_counts() {
        let json = r#"{"eventType":"a","value":1e300,"amount":"12.50"}"#;
        with(&rules(), json, |e| {
            let event = e.unwrap();
            assert_eq!(event.value, Some(12.5));
            let kept: Vec<_> = event.properties.iter().map(|property| &property.value).collect();
            assert_eq!(kept, [&PropertyValue::Number(1e300), &PropertyValue::Text("12.50".into())]);
        });
    }

    #[test]
    fn dims_are_those_of_the_type_with_values_joined() {
        let json = r#"{"eventType":"flight","context":{"country":"D\u0000E","userAgent":"x"},
            "properties":{"origin":"J\u001fFK","carrier":7}}"#;
        with(&rules(), json, |e| {
            let event = e.unwrap();
            let dims: Vec<_> = event.dims.iter().map(|d| (d.set, &*d.value)).collect();
            let expected = [
                ("country", "DE"),
                ("device", "desktop"),
                ("country,device", "DE\u{1f}desktop"),
                ("origin", "JFK"),
                ("carrier,origin", "7\u{1f}JFK"),
            ];
            assert_eq!(dims, expected);
        });
    }

    #[test]
    fn oversized_texts_are_cut_and_flagged() {
        let json = format!(r#"{{"eventType":"a","properties":{{"p":"{}"}}}}"#, "x".repeat(MAX_TEXT_BYTES + 1));
        with(&rules(), &json, |e| {
            let event = e.unwrap();
            assert!(event.flags.has(Flags::CUT));
            assert_eq!(event.properties[0].value, PropertyValue::Text("x".repeat(MAX_TEXT_BYTES).into()));
        });
    }

    #[test]
    fn whoever_sent_what_was_changed_is_reported() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        let json = format!(
            r#"{{"eventType":"a","timestamp":"9999-01-01T00:00:00Z","{long}":1,"p":"{long}","context":{{"ip":"?","country":"{long}"}}}}"#
        );
        let name = "x".repeat(MAX_KEY_BYTES);
        let expected = [
            ("future_time", "timestamp"),
            ("text_cut", "context.country"),
            ("name_cut", &name),
            ("text_cut", "p"),
            ("bad_ip", "context.ip"),
        ];
        assert_eq!(warned(&json), expected.map(|(code, field)| (code, field.to_owned())));
        assert_eq!(warned(r#"{"eventType":"a","timestamp":1800000000000,"sentAt":1800000000001}"#), []);
    }

    #[test]
    fn characters_that_are_taken_out_are_reported() {
        let json = r#"{"eventType":"flight","eventId":"1\n","userId":"u\u0000","sessionId":"s\t","anonymousId":"a",
            "context":{"country":"D\u0000E","page":"/\u0000"},"properties":{"origin":"J\u0000K","k\u0000":"line\n"}}"#;
        let expected = ["userId", "sessionId", "context.country", "context.page", "origin", "k"];
        assert_eq!(warned(json), expected.map(|field| ("removed_controls", field.to_owned())));
        with(&rules(), json, |event| {
            let event = event.unwrap();
            assert!(event.flags.has(Flags::CUT));
            assert_eq!(event.event_id, "1\n", "ids that differ in a control character stay two");
        });
    }

    #[test]
    fn addresses_are_masked() {
        assert_eq!(masked("203.0.113.77").as_deref(), Some("203.0.113.0"));
        assert_eq!(masked("2001:db8:1:2::3").as_deref(), Some("2001:db8:1::"));
        assert_eq!(masked("::ffff:203.0.113.77").as_deref(), Some("203.0.113.0"));
        assert_eq!(masked("nowhere"), None);
        assert_eq!(warned(r#"{"eventType":"a","context":{"ip":" "}}"#), []);
    }
}
