//! Bytes of a body -> its text, within the bounds of the request.

use tallyhouse_schema::body::{self, Decoded, Layout, Text};
use tallyhouse_schema::project::Priority;

use crate::admit::{Budget, Reservation};
use crate::http::error::RequestError;

/// The text of a body, and the room that it takes when it had to be copied; `most` bytes then.
pub(crate) fn text<'a>(
    bytes: &'a [u8],
    most: usize,
    budget: &Budget,
    priority: Priority,
) -> Result<(Text<'a>, Option<Reservation>), RequestError> {
    match body::decode(bytes)? {
        Decoded::Clean(text) => Ok((text, None)),
        Decoded::Broken(broken) => {
            let room = budget.reserve(broken.most_bytes(most), priority)?;
            Ok((broken.repair(most)?, Some(room)))
        }
    }
}

/// The id that the sender gave the event at `index` of a body that was taken apart before: only for what is refused late, because it
/// is taken apart again.
pub(crate) fn event_id_at(bytes: &[u8], most: usize, layout: Layout, index: usize) -> Option<String> {
    let text = match body::decode(bytes).ok()? {
        Decoded::Clean(text) => text,
        Decoded::Broken(broken) => broken.repair(most).ok()?,
    };
    let envelope = body::open(text.as_str(), layout).ok()?;
    body::event_id(envelope.items.get(index)?.as_ref().ok()?)
}
