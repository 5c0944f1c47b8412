//! The first start of an installation: a project, and an operator's key.

use super::keys::{MadeKey, NewKey};
use super::projects::Changes;
use super::{Actor, Audited, OperationError, Operations};
use crate::kind::Kind;
use crate::store::ControlError;

/// The operator's key that the first start makes. Of several processes that start at once on one ClickHouse, one makes it.
const FIRST_KEY: &str = "key_first_operator";

impl Operations {
    /// Makes the project and the operator's key, if there is no key yet. Returns the key where this process made it.
    pub async fn first_start(&self, project: &str) -> Result<Option<MadeKey>, OperationError> {
        self.control.refresh().await?;
        if self.control.snapshot().records(Kind::Key).next().is_some() {
            return Ok(None);
        }
        let actor = Actor { name: "first start".to_owned(), ..Actor::command_line() };
        if self.control.snapshot().record(Kind::Project, project, project).is_none() {
            match self.create_project(&actor, project, &Changes::new()).await {
                // Somebody else's first start.
                Ok(_) | Err(OperationError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let new = NewKey { operator: true, note: "made by the first start".to_owned(), ..NewKey::default() };
        let outcome = match self.create_named(&actor, FIRST_KEY, new).await {
            Err(OperationError::Control(ControlError::Conflict { .. })) => return Ok(None),
            outcome => outcome,
        };
        let details = serde_json::json!({"operator": true});
        let what = Audited { action: "keys.create", project: "", object: FIRST_KEY, details };
        self.audited(&actor, what, outcome).await.map(Some)
    }
}
