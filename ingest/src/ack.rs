//! Whether a request's events were taken, and the outcome of each when the request is acknowledged.

/// Why no event of a request was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitError {
    /// The process still reads what an earlier one left.
    Starting,
    /// Too much waits for a sync of the log.
    Busy,
    /// The process is stopping.
    Stopping,
    /// The log has reached its bound, or the disk is nearly full.
    LogFull,
    /// The log's writer has ended by a fault.
    LogFailed,
}

/// The outcome of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckOutcome {
    /// The event is durable; with `?wait=stored` it is stored.
    Accepted,
    /// It repeats an event that was durable before.
    Duplicate,
    /// The log takes no record of its size.
    TooLarge,
    /// ClickHouse refuses it for good, with this error number: it is a dead letter.
    RefusedByStore(u32),
    /// Nothing of it is kept: the sender has to retry.
    Unconfirmed,
    /// The deadline passed first: the sender has to retry, and the event is counted when its outcome is known.
    Late,
    /// Like [`Self::Late`], and the event is known to repeat another.
    LateDuplicate,
}
