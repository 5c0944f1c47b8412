//! The gate: a layer over a whole router.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::access::presented::{self, Place, Presented};
use tallyhouse_service::access::telemetry::AccessMetrics;
use tallyhouse_service::access::tokens::Tokens;
use tallyhouse_service::access::{Access, Caller, Denied, GuardedRouter, Principal, Right, Rights, Rules};
use tallyhouse_service::rate_limit::{self, RateLimits, Refused, Standing};

use super::beacon::Beacons;
use super::lease::Lease;
use crate::handle::Control;
use crate::snapshot::{Key, KeyError};

/// Administrative routes have a limit of their own.
const ADMIN: &str = "/v1/admin/";

/// What a gate works with.
#[derive(Clone)]
pub struct Gate {
    /// The name of the listener, for metrics.
    pub listener: &'static str,
    pub control: Control,
    /// Of the identity provider, if there is one.
    pub tokens: Option<Tokens>,
    pub metrics: AccessMetrics,
    /// How much is let in, of whom.
    pub limits: RateLimits,
}

/// A gate and the routes behind it.
struct Guard {
    gate: Gate,
    rules: Rules,
    beacons: Beacons,
}

/// Who came, and with what.
struct Entry {
    principal: Arc<Principal>,
    /// Rights that a stronger sign-in would have.
    withheld: Rights,
    lease: Lease,
}

impl Gate {
    /// Puts itself in front of every route.
    pub fn protect(self, guarded: GuardedRouter) -> Router {
        let (router, rules) = guarded.into_parts();
        let guard = Guard { gate: self, rules, beacons: Beacons::default() };
        router.layer(middleware::from_fn_with_state(Arc::new(guard), pass))
    }

    async fn enter(&self, shown: &Presented<'_>, headers: &HeaderMap) -> Result<Entry, Denied> {
        let project = asked_project(headers)?;
        match (shown.token(), &self.tokens) {
            (Some(token), Some(tokens)) => self.sign_in(tokens, token, project).await,
            (Some(token), None) if token.len() > presented::MAX_KEY_BYTES => {
                Err(Denied::InvalidToken("no tokens are taken here: JWKS_URL is not set"))
            }
            (Some(_) | None, _) => self.with_key(shown, project, headers).await,
        }
    }

    async fn sign_in(&self, tokens: &Tokens, token: &str, project: Option<&str>) -> Result<Entry, Denied> {
        let signed_in = tokens.verify(token).await?;
        let (principal, withheld) = signed_in.principal(project)?;
        // A claim may be any text, of which some would not stay one name on the way.
        if !principal.project().is_some_and(ProjectName::is_valid) {
            return Err(Denied::InvalidToken("what it gives a role in is no name of a project"));
        }
        let is_there = principal.project().is_some_and(|project| self.control.snapshot().has_project(project));
        // As for a project that the token does not name: a token is no means to find out which projects there are.
        if !is_there {
            return Err(Denied::WrongProject);
        }
        let lease = Lease::until(signed_in.until_ms());
        Ok(Entry { principal: Arc::new(principal), withheld, lease })
    }

    async fn with_key(
        &self,
        shown: &Presented<'_>,
        project: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Entry, Denied> {
        let key = self.control.authenticate(shown.key()?).await.map_err(of_key)?;
        check_place(&key, shown.place, headers)?;
        let own = key.principal.project();
        if own.zip(project).is_some_and(|(own, asked)| own != asked) {
            return Err(Denied::WrongProject);
        }
        let lease = Lease::of_key(&self.control, &key);
        Ok(Entry { principal: Arc::clone(&key.principal), withheld: Rights::NONE, lease })
    }
}

impl Entry {
    fn needs(&self, right: Right) -> Result<(), Denied> {
        match (self.principal.may(right), self.withheld.has(right)) {
            (true, _) => Ok(()),
            (false, true) => Err(Denied::SecondFactorNeeded(right)),
            (false, false) => Err(Denied::MissingRight(right)),
        }
    }
}

impl Guard {
    /// The request as the handler sees it, and what of whom it asks; nothing of who asks for a public route.
    async fn admit(&self, request: Request) -> Result<(Request, Option<(Arc<Principal>, Right)>), Denied> {
        // Without a path that matched there is no route: the router's own answer to that is the same for everybody.
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok((request, None)) };
        let (right, may_be_in_body) = match self.rules.of(request.method(), path.as_str())? {
            Access::Public => return Ok((request, None)),
            Access::Needs(right) => (right, false),
            Access::NeedsOrKeyInBody(right) => (right, true),
        };
        let (mut parts, mut body) = request.into_parts();
        let shown = Presented::in_head(&parts.headers, parts.uri.query())?;
        let entry = match shown {
            Some(shown) => self.gate.enter(&shown, &parts.headers).await?,
            None if may_be_in_body && Beacons::may_be(&parts.headers) => {
                let (shown, rest) = self.beacons.read(body).await?;
                body = Body::from(rest);
                let entry = self.gate.enter(&shown, &parts.headers).await?;
                parts.headers.remove(header::CONTENT_LENGTH);
                entry
            }
            None => return Err(Denied::NoCredentials),
        };
        entry.needs(right)?;
        take_key_out_of_url(&mut parts);
        parts.extensions.insert(entry.lease);
        parts.extensions.insert(Caller(Arc::clone(&entry.principal)));
        Ok((Request::from_parts(parts, body), Some((entry.principal, right))))
    }

    /// Charges a request to its address, then to who sends it. Events are charged when they are known; whether one is left is looked at here.
    async fn pass(&self, request: Request, next: Next, standing: &mut Option<Standing>) -> Response {
        let (limits, listener) = (&self.gate.limits, self.gate.listener);
        let (head, body) = request.into_parts();
        let is_admin = head.uri.path().starts_with(ADMIN);
        match limits.admit_address(&head, is_admin).await {
            Ok(of_address) => *standing = of_address,
            Err(refused) => return refused.into_response(),
        }
        let (request, asks) = match self.admit(Request::from_parts(head, body)).await {
            Ok(admitted) => admitted,
            Err(denied) => {
                self.gate.metrics.denied(listener, &denied);
                return denied.into_response();
            }
        };
        if let Some((principal, right)) = asks {
            match self.charge(&principal, right).await {
                Ok(of_caller) => *standing = of_caller.or(*standing),
                Err(refused) => return refused.into_response(),
            }
        }
        next.run(request).await
    }

    async fn charge(&self, principal: &Principal, right: Right) -> Result<Option<Standing>, Refused> {
        let limits = &self.gate.limits;
        if limits.is_off() {
            return Ok(None);
        }
        let of = self.gate.control.snapshot().limits_of(principal);
        let holder = principal.subject.holder(principal.project().unwrap_or_default());
        match right {
            Right::SendEvents | Right::ImportHistory => limits.admit_sender(holder, &of).await,
            _ => limits.admit_query(holder, &of).await,
        }
    }
}

async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut standing = None;
    let mut response = guard.pass(request, next, &mut standing).await;
    rate_limit::complete(&mut response, standing);
    response
}

fn take_key_out_of_url(parts: &mut Parts) {
    let Some(query) = parts.uri.query() else { return };
    let rest = presented::query_without_key(query);
    if rest.len() == query.len() {
        return;
    }
    let text = if rest.is_empty() { parts.uri.path().to_owned() } else { format!("{}?{rest}", parts.uri.path()) };
    // A part of what was a URI is one.
    if let Ok(path_and_query) = text.parse::<PathAndQuery>() {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(path_and_query);
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
    }
}

/// A secret key is only in headers; a browser's is used by the pages that it names.
fn check_place(key: &Key, place: Place, headers: &HeaderMap) -> Result<(), Denied> {
    match (key.is_of_browsers(), place) {
        (false, Place::Query | Place::Body) => Err(Denied::KeyInWrongPlace),
        (false, Place::Header) => Ok(()),
        // Who sends no origin is no browser, and could as well send a false one.
        (true, _) => match headers.get_all(header::ORIGIN).iter().all(|origin| key.principal.origins.allows(origin)) {
            true => Ok(()),
            false => Err(Denied::OriginNotAllowed),
        },
    }
}

fn asked_project(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut asked = headers.get_all(presented::PROJECT).iter();
    let first = asked.next();
    if asked.next().is_some() {
        return Err(Denied::Malformed("`X-Tallyhouse-Project` is there several times"));
    }
    // What is no name names no project that there is.
    let named = first.map(|name| name.to_str().ok().filter(|name| ProjectName::is_valid(name)));
    named.map(|name| name.ok_or(Denied::WrongProject)).transpose()
}

const fn of_key(error: KeyError) -> Denied {
    match error {
        KeyError::Unknown => Denied::UnknownKey,
        KeyError::Broken => Denied::BrokenKey,
        KeyError::Expired => Denied::ExpiredKey,
        KeyError::Revoked => Denied::RevokedKey,
        KeyError::NotLoaded => Denied::KeysNotLoaded,
    }
}

/// Whether a page of this origin may send the request: as its key says. A preflight shows none, nor does the head of a beacon: any key that could
/// follow is asked.
pub fn allows_origin(control: &Control, origin: &HeaderValue, head: &Parts) -> bool {
    match Presented::in_head(&head.headers, head.uri.query()) {
        Ok(Some(shown)) => shown.key().is_ok_and(|key| control.allows_origin(origin, Some(key))),
        Ok(None) => control.allows_origin(origin, None),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
