//! `/v1/privacy/…`, on the query port.
//!
//! ```text
//! POST /v1/privacy/erasures       {"userId": "u-1"}  -> 202, the job
//! GET  /v1/privacy/erasures/{id}                     -> how far it is; at the end its report
//! POST /v1/privacy/exports        {"userId": "u-1"}  -> lines of JSON, as they are read
//! ```
//!
//! Whoever manages a project asks about its people; an operator says which project (`?project=`).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use tallyhouse_service::access::{Access, Caller, GuardedRouter, Principal, Right};
use tallyhouse_service::http::Problem;
use tallyhouse_service::http_body;
use tallyhouse_sql::{AllShards, Connection, Shards};

use super::erasure::{BadPerson, Erasure, ErasureError, Erasures, Request, refuse_replicated, unavailable};
use super::export::{self, Busy, Export, Exporting};
use super::feed;
use super::hash_key::InstallationKey;
use crate::audit::{self, Done};
use crate::handle::Control;
use crate::store::ControlError;

const MAX_BODY: usize = 4 << 10;

/// What the routes work with.
pub struct Privacy {
    control: Control,
    /// As the user that writes; `None`: nobody can be erased here.
    writers: Option<AllShards>,
    readers: AllShards,
    key: Option<InstallationKey>,
    exporting: Exporting,
}

impl Privacy {
    pub fn new(control: Control, readers: &Shards, writer: Option<&Connection>, key: Option<InstallationKey>) -> Self {
        let writers = writer.map(|writer| AllShards::of(&readers.as_user(writer)));
        let readers = AllShards::of(readers);
        Self { control, writers, readers, key, exporting: Exporting::default() }
    }
}

/// The routes.
pub fn routes(privacy: Privacy) -> GuardedRouter {
    let manage = Access::Needs(Right::ManageProject);
    GuardedRouter::default()
        .post("/v1/privacy/erasures", manage, erase)
        .get("/v1/privacy/erasures/{id}", manage, show)
        .post("/v1/privacy/exports", manage, export)
        .with_state(Arc::new(privacy))
}

type Shared = State<Arc<Privacy>>;

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("an operator's key sees no event: export with a key of the project that has the scope `admin`")]
    OperatorExport,
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    #[error(transparent)]
    Body(#[from] http_body::UnreadBody),
    #[error("say of which project: `?project=NAME`")]
    NoProject,
    #[error("unknown parameter `{0}`: there is `project`")]
    Parameter(String),
    #[error("there is no project `{0}`")]
    UnknownProject(String),
    #[error("there is no erasure `{0}`")]
    UnknownErasure(String),
    #[error(transparent)]
    TooManyExports(#[from] Busy),
}

impl From<BadPerson> for Refused {
    fn from(bad: BadPerson) -> Self {
        Self::Erasure(bad.into())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        let with = |status, code| Self::new(status, code, message);
        match refused {
            Refused::Body(unread) => unread.into(),
            Refused::OperatorExport => with(StatusCode::FORBIDDEN, "missing_right"),
            Refused::NoProject | Refused::Parameter(_) => with(StatusCode::BAD_REQUEST, "bad_parameter"),
            Refused::UnknownProject(_) | Refused::UnknownErasure(_) => with(StatusCode::NOT_FOUND, "not_found"),
            Refused::TooManyExports(_) => with(StatusCode::SERVICE_UNAVAILABLE, "too_many_exports").retry_after(5),
            Refused::Erasure(error) => match error {
                ErasureError::Person(_) => with(StatusCode::BAD_REQUEST, "bad_person"),
                ErasureError::NoKey | ErasureError::Control(ControlError::NotConfigured) => {
                    with(StatusCode::SERVICE_UNAVAILABLE, "not_configured")
                }
                ErasureError::Replicated => with(StatusCode::NOT_IMPLEMENTED, "replicated"),
                ErasureError::Differs(_) | ErasureError::Control(ControlError::Conflict { .. }) => {
                    with(StatusCode::CONFLICT, "conflict")
                }
                ErasureError::Control(ControlError::TooLarge { .. }) => {
                    with(StatusCode::PAYLOAD_TOO_LARGE, "too_large")
                }
                ErasureError::Control(ControlError::Unavailable) => {
                    with(StatusCode::SERVICE_UNAVAILABLE, "unavailable").retry_after(2)
                }
            },
        }
    }
}

async fn erase(
    State(privacy): Shared,
    Caller(caller): Caller,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let erased = async {
        let project = privacy.project(&caller, raw.as_deref())?;
        let body = http_body::read(&headers, body, MAX_BODY).await?;
        let erasure = privacy.erase(&project, &caller, &body).await?;
        Ok::<_, Refused>(erasure)
    };
    match erased.await {
        Ok(erasure) => {
            let mut response = (StatusCode::ACCEPTED, axum::Json(erasure.json())).into_response();
            if let Ok(location) = HeaderValue::try_from(format!("/v1/privacy/erasures/{}", erasure.id)) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            no_store(response)
        }
        Err(refused) => Problem::from(refused).into_response(),
    }
}

async fn show(
    State(privacy): Shared,
    Caller(caller): Caller,
    RawQuery(raw): RawQuery,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let shown = async {
        let project = privacy.project(&caller, raw.as_deref())?;
        let id = id.map(|Path(id)| id).unwrap_or_default();
        let (store, writers, key) = privacy.tools()?;
        let writer = writers.home();
        let erasures = Erasures { store, writer, key, key_part: None, project: &project, by: "", now_ms: 0 };
        let found = erasures.find(&id).await?;
        found.ok_or_else(|| Refused::UnknownErasure(id.chars().take(100).collect()))
    };
    match shown.await {
        Ok(erasure) => no_store(axum::Json(erasure.json()).into_response()),
        Err(refused) => Problem::from(refused).into_response(),
    }
}

async fn export(
    State(privacy): Shared,
    Caller(caller): Caller,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let begun = async {
        // Operators erase in every project, and see no event.
        caller.project().ok_or(Refused::OperatorExport)?;
        let project = privacy.project(&caller, raw.as_deref())?;
        let body = http_body::read(&headers, body, MAX_BODY).await?;
        privacy.export(&project, &caller, &body).await
    };
    match begun.await {
        Ok(export) => {
            let lines = HeaderValue::from_static("application/x-ndjson");
            no_store(([(header::CONTENT_TYPE, lines)], Body::from_stream(export.lines())).into_response())
        }
        Err(refused) => Problem::from(refused).into_response(),
    }
}

/// It is about a person.
fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Privacy {
    /// The project that the caller manages. An operator names one that is there.
    fn project(&self, caller: &Principal, raw: Option<&str>) -> Result<String, Refused> {
        let mut named = None;
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("project", name)) => named = Some(name),
                _ => return Err(Refused::Parameter(pair.chars().take(50).collect())),
            }
        }
        let unknown = |name: &str| Refused::UnknownProject(name.chars().take(100).collect());
        match (caller.project(), named) {
            (Some(own), Some(name)) if name != own => Err(unknown(name)),
            (Some(own), _) => Ok(own.to_owned()),
            (None, Some(name)) if self.control.snapshot().project(name).is_some() => Ok(name.to_owned()),
            (None, Some(name)) => Err(unknown(name)),
            (None, None) => Err(Refused::NoProject),
        }
    }

    fn tools(&self) -> Result<(&crate::store::ControlStore, &AllShards, &InstallationKey), ErasureError> {
        let store = self.control.store().filter(|store| store.can_write()).ok_or(ControlError::NotConfigured)?;
        let writers = self.writers.as_ref().ok_or(ControlError::NotConfigured)?;
        Ok((store, writers, self.key.as_ref().ok_or(ErasureError::NoKey)?))
    }

    async fn erase(&self, project: &str, caller: &Principal, body: &Bytes) -> Result<Erasure, ErasureError> {
        let request = Request::read(body)?;
        let (store, writers, key) = self.tools()?;
        refuse_replicated(writers).await?;
        let part = feed::key_part(&self.control.snapshot(), project);
        let (by, now_ms) = (caller.subject.audit_name(), self.control.now_ms());
        let writer = writers.home();
        let erasures = Erasures { store, writer, key, key_part: part.as_deref(), project, by: &by, now_ms };
        let erasure = erasures.request(&request).await?;
        let details = json!({ "subjects": erasure.document.subjects, "keepSuppressed": request.keep_suppressed });
        self.audited(project, caller, ("privacy.erase", &erasure.id, details)).await;
        // So that the runner of this process knows of it at once.
        drop(self.control.refresh().await);
        Ok(erasure)
    }

    async fn export(&self, project: &str, caller: &Principal, body: &Bytes) -> Result<Export, Refused> {
        let request = Request::read(body)?;
        if request.keep_suppressed {
            return Err(BadPerson::Unknown("keepSuppressed".to_owned()).into());
        }
        let permit = self.exporting.begin(project)?;
        let export = export::begin(&self.readers, request.person, permit).await.map_err(unavailable)?;
        // Not whose: the log is kept.
        self.audited(project, caller, ("privacy.export", "", json!({}))).await;
        Ok(export)
    }

    async fn audited(
        &self,
        project: &str,
        caller: &Principal,
        (action, object, details): (&str, &str, serde_json::Value),
    ) {
        if let Some(store) = self.control.store() {
            let actor = caller.subject.audit_name();
            audit::write(store, &Done { project, actor: &actor, action, object, result: "done", details }).await;
        }
    }
}
