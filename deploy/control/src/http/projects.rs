//! `/v1/admin/projects`.

use axum::extract::rejection::PathRejection;
use serde::Deserialize;

use super::page::{Listed, Params};
use super::*;
use crate::operations::projects::{Changes, ProjectView};

/// A project that is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProject {
    name: String,
    #[serde(default)]
    settings: Changes,
}

/// Other settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    /// Only while this version is in force.
    version: Option<u32>,
    settings: Changes,
}

pub(super) async fn list(State(operations): Shared, Caller(caller): Caller, RawQuery(raw): RawQuery) -> Response {
    let listed = || {
        let params = Params::read(raw.as_deref(), &["limit", "after"])?;
        let projects = operations.projects(&Actor::of(&caller)?);
        Ok(Listed::page(projects, &params, |project: &ProjectView| project.name.as_str())?)
    };
    answer(StatusCode::OK, listed())
}

pub(super) async fn create(
    State(operations): Shared,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let created = async {
        let actor = Actor::of(&caller)?;
        let NewProject { name, settings } = document(&headers, body).await?;
        Ok(operations.create_project(&actor, &name, &settings).await?)
    };
    answer(StatusCode::CREATED, created.await)
}

pub(super) async fn show(
    State(operations): Shared,
    Caller(caller): Caller,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    let shown = || Ok(operations.show_project(&Actor::of(&caller)?, &text(name)?)?);
    answer(StatusCode::OK, shown())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[serde(default)]
    confirm: String,
}

pub(super) async fn delete(
    State(operations): Shared,
    Caller(caller): Caller,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let deleted = async {
        let (actor, name) = (Actor::of(&caller)?, text(name)?);
        let Delete { confirm } = document(&headers, body).await?;
        operations.delete_project(&actor, &name, &confirm).await?;
        Ok(serde_json::json!({ "name": name, "state": "deleting" }))
    };
    answer(StatusCode::ACCEPTED, deleted.await)
}

pub(super) async fn set(
    State(operations): Shared,
    Caller(caller): Caller,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let set = async {
        let (actor, name) = (Actor::of(&caller)?, text(name)?);
        let Set { version, settings } = document(&headers, body).await?;
        Ok(operations.set_project(&actor, &name, &settings, version).await?)
    };
    answer(StatusCode::OK, set.await)
}
