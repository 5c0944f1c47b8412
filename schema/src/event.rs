//! An event that can be stored and counted: only [`crate::normalise`] makes one.

use std::borrow::Cow;

use crate::property::Property;

/// What normalisation changed, as bits of the column `flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// The time was too far in the future and was replaced by the time of receipt.
    pub const FUTURE: Self = Self(1);
    /// The sender's clock is ahead, as `sentAt` proves, and the time was corrected by that.
    pub const SKEW: Self = Self(2);
    /// A text was cut to its limit, or control characters were taken out of it.
    pub const CUT: Self = Self(4);
    /// No id was given: the event got one, and a retry of it cannot be recognised.
    pub const GENERATED_ID: Self = Self(8);
    /// No time was given: it is `sentAt`, else the time of receipt.
    pub const NO_TIME: Self = Self(16);
    /// `context.ip` is not an address and was dropped.
    pub const BAD_IP: Self = Self(32);
    /// A value property is not counted as it was sent: not a number, or out of bounds.
    pub const BAD_VALUE: Self = Self(64);
    /// Broken UTF-8 or half a surrogate pair was replaced.
    pub const REPAIRED_TEXT: Self = Self(128);
    /// A time was not in milliseconds and was converted.
    pub const CONVERTED_TIME: Self = Self(256);
    /// `sentAt` cannot be when the event was sent and was ignored.
    pub const IGNORED_SENT_AT: Self = Self(512);
    /// A dimension is counted under a value that was cut or freed from control characters.
    pub const CHANGED_DIMENSION: Self = Self(1024);
    /// Two different values were given for one name.
    pub const NAME_COLLISION: Self = Self(2048);
    /// It came with another type than the one that it is counted under: its project had too many of them within the hour.
    pub const OTHER_TYPE: Self = Self(4096);

    /// Adds bits.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all of these bits are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The column's value.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From the column's value.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// Under which `(dim_set, dim_value)` an event is counted, beside the total.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dim<'a> {
    /// The set's key.
    pub set: &'a str,
    /// The values, joined.
    pub value: Cow<'a, str>,
}

/// A normalised event. Times are milliseconds since 1970, UTC; absent texts are empty.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Event<'a> {
    pub event_id: Cow<'a, str>,
    pub event_type: Cow<'a, str>,
    pub ts: i64,
    pub original_ts: i64,
    pub received_at: i64,
    pub value: Option<f64>,
    pub user_id: Cow<'a, str>,
    pub anonymous_id: Cow<'a, str>,
    /// Keyed hash of the user; 0 when there is none.
    pub user_hash: u64,
    pub session_id: Cow<'a, str>,
    pub country: Cow<'a, str>,
    pub device: Cow<'a, str>,
    pub os: Cow<'a, str>,
    pub browser: Cow<'a, str>,
    pub locale: Cow<'a, str>,
    pub page: Cow<'a, str>,
    pub ip: Cow<'a, str>,
    pub properties: Vec<Property<'a>>,
    pub dims: Vec<Dim<'a>>,
    pub flags: Flags,
    pub retention_days: u16,
}

/// Names of fields with what they hold, in one order.
macro_rules! texts {
    ($($field:ident),*) => {
        /// How many texts every event has.
        pub const TEXTS: usize = [$(stringify!($field)),*].len();

        impl<'a> Event<'a> {
            /// The texts that every event has, by the names of their columns. Records and blocks hold them in this order: a new one goes
            /// to the end, under a new [version](crate::wire::VERSION).
            pub fn texts(&self) -> [(&'static str, &Cow<'a, str>); TEXTS] {
                [$((stringify!($field), &self.$field)),*]
            }

            /// The same, to be filled.
            pub fn texts_mut(&mut self) -> [(&'static str, &mut Cow<'a, str>); TEXTS] {
                [$((stringify!($field), &mut self.$field)),*]
            }

            /// The names alone.
            pub const TEXT_COLUMNS: [&'static str; TEXTS] = [$(stringify!($field)),*];
        }
    };
}

texts!(event_id, event_type, user_id, anonymous_id, session_id, country, device, os, browser, locale, page, ip);
