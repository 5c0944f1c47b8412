//! `/v1/admin/audit`.

use super::page::{Listed, Params};
use super::*;
use crate::audit::{AuditLine, Page};

pub(super) async fn list(State(operations): Shared, Caller(caller): Caller, RawQuery(raw): RawQuery) -> Response {
    let listed = async {
        let params = Params::read(raw.as_deref(), &["project", "limit", "before"])?;
        let (actor, limit) = (Actor::of(&caller)?, params.limit()?);
        let page = Page {
            project: params.get("project").map(str::to_owned),
            before: params.get("before").map(str::to_owned),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let lines = operations.audit(&actor, page).await?;
        Ok(Listed::read(lines, limit, |line: &AuditLine| &line.id))
    };
    answer(StatusCode::OK, listed.await)
}
