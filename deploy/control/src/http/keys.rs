//! `/v1/admin/keys`.

use axum::extract::rejection::PathRejection;
use serde::Deserialize;
use tallyhouse_service::access::Scope;

use super::page::{Listed, Params};
use super::*;
use crate::operations::keys::{KeyView, NewKey, OVERLAP_MS};
use crate::time;

/// A key that is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    project: Option<String>,
    #[serde(default)]
    operator: bool,
    #[serde(default)]
    scopes: Vec<Scope>,
    #[serde(default)]
    origins: Vec<String>,
    /// A date, RFC 3339, or a time from now such as `30d`.
    expires: Option<String>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// How long the old text is good, such as `24h`.
    overlap: Option<String>,
}

pub(super) async fn list(State(operations): Shared, Caller(caller): Caller, RawQuery(raw): RawQuery) -> Response {
    let listed = async {
        let params = Params::read(raw.as_deref(), &["project", "limit", "after"])?;
        let keys = operations.keys(&Actor::of(&caller)?, params.get("project")).await?;
        Ok(Listed::page(keys, &params, |key: &KeyView| &key.id)?)
    };
    answer(StatusCode::OK, listed.await)
}

pub(super) async fn create(
    State(operations): Shared,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let created = async {
        let actor = Actor::of(&caller)?;
        let Wanted { project, operator, scopes, origins, expires, note } = document(&headers, body).await?;
        let now_ms = operations.control().now_ms();
        let expires_ms = expires.map(|text| time::parse(&text, now_ms)).transpose();
        let expires_ms = expires_ms.map_err(|problem| OperationError::invalid("expires", problem))?;
        let new = NewKey { project, operator, scopes, origins, expires_ms, note };
        Ok(operations.create_key(&actor, new).await?)
    };
    answer(StatusCode::CREATED, created.await)
}

pub(super) async fn rotate(
    State(operations): Shared,
    Caller(caller): Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let rotated = async {
        let (actor, id) = (Actor::of(&caller)?, text(id)?);
        let Rotation { overlap } = document(&headers, body).await?;
        let wrong = || OperationError::invalid("overlap", "is a length of time such as 24h, 15m or 0s");
        let overlap_ms = match overlap {
            Some(text) => time::span_ms(&text).ok_or_else(wrong)?,
            None => OVERLAP_MS,
        };
        Ok(operations.rotate_key(&actor, &id, overlap_ms).await?)
    };
    answer(StatusCode::OK, rotated.await)
}

pub(super) async fn revoke(
    State(operations): Shared,
    Caller(caller): Caller,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let revoked = async { Ok(operations.revoke_key(&Actor::of(&caller)?, &text(id)?).await?) };
    answer(StatusCode::OK, revoked.await)
}
