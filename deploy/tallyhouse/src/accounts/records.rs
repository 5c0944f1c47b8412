//! The accounts that records tell of.

use tallyhouse_control::records::Record;
use tallyhouse_control::records::grant::{GrantDocument, Tool};
use tallyhouse_control::{Kind, Snapshot};

use crate::engine::Account;

/// Who may come into the embedded engine: accounts of projects that are there. In a fixed order, so that equal ones compare equal.
pub fn accounts(snapshot: &Snapshot) -> Vec<Account> {
    let mut accounts: Vec<Account> = snapshot.records(Kind::Grant).filter_map(|record| account(record)).collect();
    accounts.retain(|account| !snapshot.is_deleted(account.project.as_str()));
    accounts.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    accounts
}

/// `None`: deleted, of a tool that the embedded engine does not serve, or not to be understood.
fn account(record: &Record) -> Option<Account> {
    let unusable = |problem: String| {
        tracing::warn!(account = %record.name, problem, "the record of an account cannot be used; nobody comes in with it");
    };
    let document: GrantDocument = record.read().map_err(|error| unusable(error.to_string())).ok()?;
    if document.deleted_ms.is_some() || document.tool == Tool::Dbt {
        return None;
    }
    let parsed = (record.name.parse(), record.project.parse(), document.password_sha256.parse());
    let (Ok(name), Ok(project), Ok(password_sha256)) = parsed else {
        unusable("its name, project or hash is not one".to_owned());
        return None;
    };
    Some(Account { name, project, password_sha256 })
}
