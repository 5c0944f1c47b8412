//! Gives the suppressions of the control plane to whoever stores events.

use tokio_util::sync::CancellationToken;

use super::documents::SuppressionDocument;
use super::hash_key::InstallationKey;
use super::suppressions::{SuppressionSet, Suppressions};
use crate::handle::Control;
use crate::kind::Kind;
use crate::snapshot::Snapshot;

/// Rises with every suppression, in every process alike.
pub fn version(snapshot: &Snapshot) -> u64 {
    let suppressions = snapshot.all_records().filter(|record| record.kind == Kind::Suppression);
    suppressions.map(|record| u64::from(record.version)).sum()
}

/// All of them, with their projects.
pub fn documents(snapshot: &Snapshot) -> Vec<(String, SuppressionDocument)> {
    let suppressions = snapshot.all_records().filter(|record| record.kind == Kind::Suppression);
    let read = suppressions.filter_map(|record| match record.read::<SuppressionDocument>() {
        Ok(document) => Some((record.project.to_string(), document)),
        Err(error) => {
            tracing::error!(%error, "a suppression cannot be read: what it suppresses is stored");
            None
        }
    });
    read.collect()
}

/// The random part of a project's hash key; `None` of a project from before.
pub fn key_part(snapshot: &Snapshot, project: &str) -> Option<Vec<u8>> {
    snapshot.project(project)?.settings.key_part()
}

/// What is in force.
pub fn set(snapshot: &Snapshot, key: &InstallationKey) -> SuppressionSet {
    let suppressions = documents(snapshot).into_iter().filter_map(|(project, document)| document.suppression(&project));
    SuppressionSet::new(version(snapshot), suppressions, |project| key.hasher(key_part(snapshot, project).as_deref()))
}

/// Keeps `suppressions` as the control plane says, until `stop`.
pub async fn follow(control: Control, key: InstallationKey, suppressions: Suppressions, stop: CancellationToken) {
    let mut changed = control.subscribe();
    let mut is_current = false;
    loop {
        // In this order: what is taken after a look is no older than it.
        let has_looked = control.has_looked();
        if control.is_read() {
            suppressions.replace(set(&control.snapshot(), &key));
        }
        if has_looked {
            is_current = true;
            suppressions.current();
        }
        let next = async {
            tokio::select! {
                next = changed.changed() => next.is_ok(),
                () = control.looked(), if !is_current => true,
            }
        };
        if stop.run_until_cancelled(next).await != Some(true) {
            return;
        }
    }
}
