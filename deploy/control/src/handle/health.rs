//! How keys and the control plane are, for `/health`.

use tallyhouse_service::health::{Health, Status};

use crate::kind::CANARY_PROJECT;
use crate::snapshot::Snapshot;
use crate::store::ControlError;

/// Whether anybody is let in. Without a key a process serves nobody, so it is not ready.
const KEYS: &str = "keys";

const NO_KEY: &str =
    "there is no API key, so nobody is let in; `tallyhouse keys create --project NAME --scope ingest` makes one";

/// Whether what is known is up to date.
const CONTROL: &str = "control";

/// What came of the last look, and whether the disk has it: `None` before the first.
type Looked<'a> = Option<Result<bool, &'a ControlError>>;

/// Says how they are; `looked` is `None` where there is no ClickHouse to look at.
pub(super) fn tell(health: &Health, snapshot: &Snapshot, looked: Option<Looked<'_>>) {
    let is_known = snapshot.mark().is_some() || looked.is_none();
    // The canary's lets nobody in.
    let has_key = snapshot.keys().any(|key| key.project.as_deref() != Some(CANARY_PROJECT));
    match (has_key, is_known) {
        (true, _) => health.set(KEYS, Status::Up, ""),
        // A new installation has none for a moment.
        (false, true) if snapshot.all_records().next().is_none() => health.starting(KEYS, Status::Down, NO_KEY),
        (false, true) => health.set(KEYS, Status::Down, NO_KEY),
        (false, false) => health.starting(KEYS, Status::Down, "not known yet: ClickHouse has not been read"),
    }
    match looked {
        None => {}
        Some(None) => health.starting(CONTROL, Status::Degraded, "ClickHouse has not been read yet"),
        Some(Some(Ok(true))) => health.set(CONTROL, Status::Up, ""),
        Some(Some(Ok(false))) => health.set(
            CONTROL,
            Status::Degraded,
            "the copy on the disk cannot be written: a restart while ClickHouse is away would know keys as they were",
        ),
        Some(Some(Err(_))) => health.set(
            CONTROL,
            Status::Degraded,
            "ClickHouse does not answer: projects, keys and settings are as they were last read",
        ),
    }
}
