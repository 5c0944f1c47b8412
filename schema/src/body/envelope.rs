//! The outermost layer of a body.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::MAX_EVENTS;
use crate::raw::{Scalar, Slot};
use crate::shape;
use crate::time::RawTime;

/// What tells a batch from an event.
pub(super) struct Outer<'a> {
    pub(super) events: Option<&'a RawValue>,
    /// Whether `events` is given more than once.
    pub(super) is_twice: bool,
    pub(super) has_type: bool,
    pub(super) sent_at: Option<RawTime<'a>>,
    /// A field of an event that stands beside `events`, where it is not read.
    pub(super) beside: Option<&'static str>,
    /// Where else events seem to be.
    pub(super) misnamed: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Outer<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Outer<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut outer = Outer {
                    events: None,
                    is_twice: false,
                    has_type: false,
                    sent_at: None,
                    beside: None,
                    misnamed: None,
                };
                let mut sent_at = Slot::default();
                while let Some(key) = map.next_key::<crate::raw::Name<'de>>()? {
                    match &*key.0 {
                        "events" => outer.is_twice |= outer.events.replace(map.next_value()?).is_some(),
                        name @ ("sentAt" | "sent_at") => {
                            sent_at.put(map.next_value::<Scalar<'de>>()?.into_time(), name);
                        }
                        "eventType" | "event_type" => {
                            outer.has_type = true;
                            map.next_value::<IgnoredAny>()?;
                        }
                        name if shape::event_field(name).is_some() => {
                            let value: &RawValue = map.next_value()?;
                            if value.get() != "null" {
                                outer.beside = outer.beside.or(shape::event_field(name));
                            }
                        }
                        name => match shape::batch_name(name) {
                            Some(name) if outer.misnamed.is_none() => {
                                let value: &RawValue = map.next_value()?;
                                outer.misnamed = value.get().starts_with('[').then_some(name);
                            }
                            _ => {
                                map.next_value::<IgnoredAny>()?;
                            }
                        },
                    }
                }
                outer.sent_at = sent_at.into_inner();
                Ok(outer)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The elements of an array: all are counted, only as many as may be taken are kept, so that a body of nothing but commas
/// cannot grow in memory.
pub(super) struct Events<'a> {
    pub(super) kept: Vec<&'a RawValue>,
    pub(super) found: usize,
}

impl<'de> Deserialize<'de> for Events<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Events<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut events = Events { kept: Vec::new(), found: 0 };
                while events.found < MAX_EVENTS {
                    let Some(event) = seq.next_element()? else { return Ok(events) };
                    events.kept.push(event);
                    events.found += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    events.found += 1;
                }
                Ok(events)
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}
