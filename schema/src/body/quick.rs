//! The common case in one pass: a body of which every event can be read at once.

use super::Layout;
use crate::limits::{MAX_EVENT_BYTES, MAX_EVENTS};
use crate::raw::{RawEvent, read_first};

/// Gives each event of a body, with its text, to `visit`, and returns whether the body was one event and not a batch. `None`: more
/// has to be said of this body, such as where it is broken. `visit` may have been given a part of it by then; [`super::open`] takes
/// it apart.
pub fn read_all<'a>(text: &'a str, layout: Layout, mut visit: impl FnMut(&'a str, RawEvent<'a>)) -> Option<bool> {
    let whole = text;
    let text = without_blanks(text);
    if layout == Layout::Ndjson {
        lines(text, visit)?;
    } else if let Some(events) = text.strip_prefix('[') {
        array(events, visit)?;
    } else {
        // A batch in an object. One that names something else first is read as an event, and found to have no type.
        if text.strip_prefix('{').is_some_and(|fields| without_blanks(fields).starts_with("\"events\"")) {
            return None;
        }
        let (_, event, rest) = first(text)?;
        if !rest.is_empty() || whole.len() > MAX_EVENT_BYTES || event.event_type.is_none() {
            return None;
        }
        visit(whole, event);
        return Some(true);
    }
    Some(false)
}

fn array<'a>(events: &'a str, mut visit: impl FnMut(&'a str, RawEvent<'a>)) -> Option<()> {
    let mut rest = without_blanks(events);
    for _ in 0..MAX_EVENTS {
        let (text, event, after) = first(rest)?;
        visit(text, event);
        if let Some(end) = after.strip_prefix(']') {
            return without_blanks(end).is_empty().then_some(());
        }
        rest = without_blanks(after.strip_prefix(',')?);
    }
    None
}

fn lines<'a>(text: &'a str, mut visit: impl FnMut(&'a str, RawEvent<'a>)) -> Option<()> {
    let mut found = 0;
    for line in text.lines().map(without_blanks).filter(|line| !line.is_empty()) {
        let (text, event, rest) = first(line)?;
        found += 1;
        if !rest.is_empty() || found > MAX_EVENTS {
            return None;
        }
        visit(text, event);
    }
    (found > 0).then_some(())
}

/// The event that a text begins with, its own text, and what follows.
fn first(text: &str) -> Option<(&str, RawEvent<'_>, &str)> {
    let (event, length) = read_first(text)?;
    let (text, rest) = text.split_at_checked(length).filter(|(text, _)| text.len() <= MAX_EVENT_BYTES)?;
    Some((text, event, without_blanks(rest)))
}

/// Without what JSON takes for blanks.
fn without_blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '\r', '\t'])
}
