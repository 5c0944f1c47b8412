//! Fields of an event that may be given more than once, or in two spellings.

use std::borrow::Cow;

use super::{RawContext, RawEvent, RawTime};

/// A field and what counts of what was given for it.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    value: Option<T>,
    is_alias: bool,
    collides: bool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { value: None, is_alias: false, collides: false }
    }
}

impl<T: PartialEq> Slot<T> {
    /// Takes a value given under `key`: it counts instead of an earlier one, but not as an alias (`event_id`, `device.type`)
    /// instead of the field itself.
    pub(crate) fn put(&mut self, value: Option<T>, key: &str) {
        let Some(value) = value else { return };
        let is_alias = key.strip_prefix("context.").unwrap_or(key).bytes().any(|byte| byte == b'_' || byte == b'.');
        self.collides |= self.value.as_ref().is_some_and(|earlier| *earlier != value);
        if self.value.is_none() || self.is_alias || !is_alias {
            self.value = Some(value);
            self.is_alias = is_alias;
        }
    }

    /// What counts.
    pub(crate) fn into_inner(self) -> Option<T> {
        self.value
    }
}

pub(super) type Text<'a> = Slot<Cow<'a, str>>;

/// The fields of an event so far.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) event_id: Text<'a>,
    pub(super) event_type: Text<'a>,
    pub(super) user_id: Text<'a>,
    pub(super) anonymous_id: Text<'a>,
    pub(super) session_id: Text<'a>,
    pub(super) timestamp: Slot<RawTime<'a>>,
    pub(super) sent_at: Slot<RawTime<'a>>,
    ip: Text<'a>,
    user_agent: Text<'a>,
    country: Text<'a>,
    device: Text<'a>,
    locale: Text<'a>,
    page: Text<'a>,
}

impl<'a> Fields<'a> {
    /// The field of an entry of the context (`context.…`), if it has one.
    pub(super) fn of_context(&mut self, name: &str) -> Option<&mut Text<'a>> {
        match name.strip_prefix("context.")? {
            "ip" => Some(&mut self.ip),
            "userAgent" | "user_agent" => Some(&mut self.user_agent),
            "country" => Some(&mut self.country),
            "device" | "device.type" => Some(&mut self.device),
            "locale" => Some(&mut self.locale),
            "page" | "page.path" => Some(&mut self.page),
            _ => None,
        }
    }

    pub(super) fn finish(self) -> RawEvent<'a> {
        let mut collisions = Vec::new();
        let mut note = |name, collides| {
            if collides {
                collisions.push(name);
            }
        };
        note("eventId", self.event_id.collides);
        note("eventType", self.event_type.collides);
        note("userId", self.user_id.collides);
        note("anonymousId", self.anonymous_id.collides);
        note("sessionId", self.session_id.collides);
        note("timestamp", self.timestamp.collides);
        note("sentAt", self.sent_at.collides);
        note("context.ip", self.ip.collides);
        note("context.userAgent", self.user_agent.collides);
        note("context.country", self.country.collides);
        note("context.device", self.device.collides);
        note("context.locale", self.locale.collides);
        note("context.page", self.page.collides);
        RawEvent {
            event_id: self.event_id.value,
            event_type: self.event_type.value,
            user_id: self.user_id.value,
            anonymous_id: self.anonymous_id.value,
            session_id: self.session_id.value,
            timestamp: self.timestamp.value,
            sent_at: self.sent_at.value,
            context: RawContext {
                ip: self.ip.value,
                user_agent: self.user_agent.value,
                country: self.country.value,
                device: self.device.value,
                locale: self.locale.value,
                page: self.page.value,
            },
            collisions,
            ..RawEvent::default()
        }
    }
}
