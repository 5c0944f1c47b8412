//! Who asks, and what they may do.
//!
//! ```text
//! request -> credentials (presented) -> key or token -> Principal { tenant, subject, rights } -> the rule of the route -> handler
//! ```
//!
//! A [`Principal`] is the only source of a tenant's identity: nothing in a path, a header or a body names a project that its caller's
//! credentials do not name. Rights are denied unless they are given.
//!
//! * [`presented`]: the credentials in a request, and where they stand.
//! * [`tokens`]: JSON Web Tokens of an identity provider.
//! * [`rules`]: the routes of a service and what each asks for; [`denied`]: every refusal.
//!
//! Keys, and the gate that puts all of it before a router, are in `deploy/control/src/access`.

pub mod denied;
pub mod presented;
pub mod principal;
pub mod rights;
pub mod rules;
pub mod telemetry;
pub mod tokens;

pub use denied::Denied;
pub use principal::{Caller, Principal, Subject, Tenant};
pub use rights::{Right, Rights, Role, Scope};
pub use rules::{Access, GuardedRouter, Rule, Rules};
