//! `/v1/admin/grants`: accounts of people's tools.

use super::page::{Listed, Params};
use super::*;
use crate::operations::grants::GrantView;

pub(super) async fn list(State(operations): Shared, Caller(caller): Caller, RawQuery(raw): RawQuery) -> Response {
    let listed = || {
        let params = Params::read(raw.as_deref(), &["project", "limit", "after"])?;
        let grants = operations.grants(&Actor::of(&caller)?, params.get("project"))?;
        Ok(Listed::page(grants, &params, |grant: &GrantView| &grant.account)?)
    };
    answer(StatusCode::OK, listed())
}
