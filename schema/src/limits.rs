//! Every bound on what a client may send, with the reason for its size.

/// An event as JSON. The Segment SDKs send at most 32 KB, so theirs always fit.
pub const MAX_EVENT_BYTES: usize = 32 * 1024;

/// Events of one request. At the usual 300 bytes they make 3 MB; more gain nothing and make a retry dear.
pub const MAX_EVENTS: usize = 10_000;

/// Characters of an event id, an event type or a session id.
pub const MAX_ID_CHARS: usize = 100;

/// Characters of a user id or an anonymous id. Longer ones are refused, not cut: a cut would make two people one.
pub const MAX_USER_CHARS: usize = 256;

/// Properties of one event after flattening. Each is a key in two maps; the limit keeps one event from filling a part.
pub const MAX_PROPERTIES: usize = 200;

/// Levels of nesting in properties.
pub const MAX_DEPTH: usize = 10;

/// Bytes of a property's name after flattening; longer ones are cut.
pub const MAX_KEY_BYTES: usize = 200;

/// Bytes of any other text; longer ones are cut at a character boundary and the event is flagged.
pub const MAX_TEXT_BYTES: usize = 4 * 1024;

/// The largest magnitude of an event's value. A value beyond it is not counted. No sum of such values can overflow, nor a product of
/// several sums, and a quantile state takes values from [`MIN_VALUE`] to here, of either sign, in any merge: ClickHouse refuses a
/// state whose largest value is more than about 10^568 times its smallest, and any value near the ends of the doubles. Far
/// narrower than that, because a state holds 8 bytes for each 2 % between its smallest and its largest value: here at most
/// 55 kB for each sign, where the widest would take 512 kB.
pub const MAX_VALUE: f64 = 1e30;

/// The smallest magnitude of an event's value other than 0. A value closer to 0 is what a calculation left over, and counts as 0.
pub const MIN_VALUE: f64 = 1e-30;

/// Warnings that are listed of one event; the codes of further ones are counted.
pub const MAX_EVENT_WARNINGS: usize = 10;

/// Warnings that an answer lists; it says how many there are beyond.
pub const MAX_ANSWER_WARNINGS: usize = 100;

/// How far in the future an event may be before its time is taken to be a wrong clock, in milliseconds.
pub const MAX_FUTURE_MS: i64 = 10 * 60 * 1000;

/// How far a sender's clock may be ahead of ours before its events are corrected, and how far an event may seem to be sent before
/// it happened, in milliseconds. Clocks that are set by the network agree within seconds.
pub const CLOCK_TOLERANCE_MS: i64 = 60 * 1000;

/// A `sentAt` that is further ahead of the time of receipt is no wrong clock but a wrong value, and is ignored. A wrong time zone
/// is at most 26 hours, a wrong date a day.
pub const MAX_SENT_AHEAD_MS: i64 = 26 * 60 * 60 * 1000;

/// A `sentAt` that is further before the time of receipt is ignored: nobody keeps a body that long.
pub const MAX_SENT_BEFORE_MS: i64 = 7 * DAY_MS;

/// A day in milliseconds.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;
