//! The options of a log.

use std::sync::Arc;
use std::time::Duration;

use crate::event_key::EventKey;
use crate::telemetry::Metrics;

/// Bytes of a segment, at least and at most: an eighth of what may wait.
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 64 << 20);

/// `LOG_SYNC`: what an acknowledgement waits for, and so what it survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// `always`: its sync. It survives a power cut.
    #[default]
    Always,
    /// `interval`: its write. It survives the end of the process; a power cut may take the last second.
    Interval,
    /// `off`: the same, and a sync takes place only before an insert.
    Off,
}

impl std::str::FromStr for Sync {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "always" => Ok(Self::Always),
            "interval" => Ok(Self::Interval),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

/// What may wait in the log.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that are not committed.
    pub bytes: u64,
    /// Age of the oldest record that is not committed.
    pub age: Duration,
}

/// See [`Limits::reserved_bytes`].
const RESERVED_SEGMENTS: u64 = 4;

impl Limits {
    pub(super) fn segment_bytes(self) -> u64 {
        (self.bytes / 8).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1)
    }

    /// With no more room on the disk than this nothing is appended: others need some, too.
    pub fn reserved_bytes(self) -> u64 {
        RESERVED_SEGMENTS * self.segment_bytes()
    }
}

/// Called with the ids of events that were appended and did not become durable.
pub type OnLost = Box<dyn Fn(&[EventKey]) + Send + std::marker::Sync>;

/// What a log is opened with.
pub struct Options {
    /// What an acknowledgement waits for.
    pub sync: Sync,
    /// What may wait.
    pub limits: Limits,
    /// Counts what is written, refused and lost.
    pub metrics: Arc<Metrics>,
    /// Who remembers ids.
    pub on_lost: OnLost,
    /// See `Bounds::saved` in `segments/`.
    pub saved: i64,
}
