//! Whether events were taken, and what became of each of them.

/// Why nothing of a request was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// What an earlier process left is being read.
    Starting,
    /// As much waits for a sync as may.
    Busy,
    /// The process is stopping.
    Stopping,
    /// As much waits in the log as may, or the disk is nearly full.
    LogFull,
    /// Nothing is written to the log any more.
    LogFailed,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is durable, and stored if that was waited for.
    Accepted,
    /// It was before.
    Duplicate,
    /// The log takes no record of its size.
    TooLarge,
    /// ClickHouse refuses it for good, with this error number: it is a dead letter.
    RefusedByStore(u32),
    /// Nothing of it is kept: it has to be sent again.
    Open,
    /// Not known in time, so the sender has to come again; what becomes of it is counted then.
    Late,
    /// The same, and it is known to repeat another.
    LateDuplicate,
}
