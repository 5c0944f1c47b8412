//! JSON pointers (RFC 6901).

use std::borrow::Cow;

use crate::property::{Place, Property};

/// A name as a step of a pointer.
pub(super) fn escaped(name: &str) -> Cow<'_, str> {
    if name.contains(['~', '/']) { name.replace('~', "~0").replace('/', "~1").into() } else { name.into() }
}

/// `pointer/name`.
pub(super) fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", escaped(name))
}

/// A step of a pointer as a name.
pub(super) fn unescaped(step: &str) -> Cow<'_, str> {
    if step.contains('~') { step.replace("~1", "/").replace("~0", "~").into() } else { step.into() }
}

/// Where in its event a property of this path (`a.b`) stands, or would stand.
pub(super) fn of_path(path: &str, place: Place) -> String {
    let mut pointer = String::from(match place {
        Place::Properties => "/properties",
        Place::Context | Place::TopLevel => "",
    });
    if !path.is_empty() {
        for step in path.split('.') {
            pointer.push('/');
            pointer.push_str(&escaped(step));
        }
    }
    pointer
}

/// Where in its event a value stands that was found at `pointer` of the properties.
pub(super) fn in_event(pointer: &str, properties: &[Property<'_>]) -> String {
    let first = unescaped(pointer.split('/').nth(1).unwrap_or_default()).into_owned();
    let is_of = |property: &&Property<'_>| {
        property.name.strip_prefix(first.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let place = properties.iter().rfind(is_of).map_or(Place::Properties, |property| property.sent.place);
    if place == Place::TopLevel { pointer.to_owned() } else { format!("/properties{pointer}") }
}
