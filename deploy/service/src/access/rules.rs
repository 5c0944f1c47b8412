//! The routes of a service, each with what it needs: one table makes the router and is what the gate looks into, so that they cannot differ.
//!
//! ```text
//! GuardedRouter::default().get("/v1/metrics", Needs(ReadMetrics), list)  -> Router, Rules
//! ```
//!
//! A route that reaches the router on another way has no rule, and is refused.

use std::collections::HashMap;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

use super::denied::Denied;
use super::rights::Right;

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing, not even who it is: pages and documents that are the same for all.
    Public,
    /// This right.
    Needs(Right),
    /// The same; a browser's key may also stand in the body: beacons can set no header.
    NeedsOrKeyInBody(Right),
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub method: Method,
    /// As axum spells it: `/v1/metrics/{name}`.
    pub path: &'static str,
    pub access: Access,
}

/// What all routes ask.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    listed: Vec<Rule>,
    by_path: HashMap<&'static str, Vec<(Method, Access)>>,
}

impl Rules {
    /// In the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.listed.iter()
    }

    fn add(&mut self, method: Method, path: &'static str, access: Access) {
        self.by_path.entry(path).or_default().push((method.clone(), access));
        self.listed.push(Rule { method, path, access });
    }

    /// What a method of a matched path asks. `HEAD` is `GET` without a body.
    pub fn of(&self, method: &Method, path: &str) -> Result<Access, Denied> {
        let methods = self.by_path.get(path).ok_or(Denied::NoRule)?;
        let asked = if *method == Method::HEAD { &Method::GET } else { method };
        match methods.iter().find(|(method, _)| method == asked) {
            Some((_, access)) => Ok(*access),
            None => Err(Denied::WrongMethod { allow: allowed(methods) }),
        }
    }
}

fn allowed(methods: &[(Method, Access)]) -> String {
    let mut names: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.join(", ")
}

/// A router whose routes have rules.
#[derive(Debug)]
pub struct GuardedRouter<S = ()> {
    router: Router<S>,
    rules: Rules,
}

impl<S: Clone + Send + Sync + 'static> Default for GuardedRouter<S> {
    fn default() -> Self {
        Self { router: Router::new(), rules: Rules::default() }
    }
}

impl<S: Clone + Send + Sync + 'static> GuardedRouter<S> {
    #[must_use]
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.route((Method::GET, MethodFilter::GET), path, access, handler)
    }

    #[must_use]
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.route((Method::POST, MethodFilter::POST), path, access, handler)
    }

    #[must_use]
    pub fn patch<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.route((Method::PATCH, MethodFilter::PATCH), path, access, handler)
    }

    #[must_use]
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.route((Method::DELETE, MethodFilter::DELETE), path, access, handler)
    }

    fn route<H: Handler<T, S>, T: 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        access: Access,
        handler: H,
    ) -> Self {
        self.rules.add(method, path, access);
        Self { router: self.router.route(path, on(filter, handler)), rules: self.rules }
    }

    /// The routes of another one, too.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        other.rules.listed.into_iter().for_each(|rule| self.rules.add(rule.method, rule.path, rule.access));
        Self { router: self.router.merge(other.router), rules: self.rules }
    }

    /// Changes the router: its layers and its fallback. A route that is added here has no rule, so nobody may use it.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Router<S>) -> Router<S>) -> Self {
        Self { router: change(self.router), rules: self.rules }
    }

    /// Gives the handlers their state.
    pub fn with_state<S2>(self, state: S) -> GuardedRouter<S2> {
        GuardedRouter { router: self.router.with_state(state), rules: self.rules }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// For the gate, which puts them together.
    pub fn into_parts(self) -> (Router<S>, Rules) {
        (self.router, self.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_looked_up_and_others_are_named() {
        let router = GuardedRouter::<()>::default()
            .get("/a/{name}", Access::Needs(Right::ReadMetrics), async || "")
            .post("/a/{name}", Access::Needs(Right::ManageMetrics), async || "")
            .merge(GuardedRouter::default().get("/", Access::Public, async || ""));
        let of = |method: &str, path| router.rules().of(&method.parse().unwrap(), path);
        assert_eq!(of("GET", "/a/{name}"), Ok(Access::Needs(Right::ReadMetrics)));
        assert_eq!(of("HEAD", "/a/{name}"), Ok(Access::Needs(Right::ReadMetrics)));
        assert_eq!(of("POST", "/a/{name}"), Ok(Access::Needs(Right::ManageMetrics)));
        assert_eq!(of("GET", "/"), Ok(Access::Public));
        for method in ["DELETE", "OPTIONS", "TRACE", "get", "CLEAR"] {
            assert_eq!(of(method, "/a/{name}"), Err(Denied::WrongMethod { allow: "GET, POST, HEAD".to_owned() }));
        }
        assert_eq!((of("GET", "/a/b"), of("GET", "/b")), (Err(Denied::NoRule), Err(Denied::NoRule)));
        assert_eq!(router.rules().iter().count(), 3);
    }
}
