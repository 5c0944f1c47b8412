//! `/v1/admin/jobs`: erasures, exports and other long work, as their records say.

use super::page::{Listed, Params};
use super::*;
use crate::operations::jobs::JobView;

pub(super) async fn list(State(operations): Shared, Caller(caller): Caller, RawQuery(raw): RawQuery) -> Response {
    let listed = || {
        let params = Params::read(raw.as_deref(), &["project", "limit", "after"])?;
        let jobs = operations.jobs(&Actor::of(&caller)?, params.get("project"))?;
        Ok(Listed::page(jobs, &params, |job: &JobView| &job.id)?)
    };
    answer(StatusCode::OK, listed())
}
