//! Who asks, and what they may do.
//!
//! ```text
//! credentials (key or token) -> Principal { tenant, subject, rights } -> the rule of the route -> handler
//! ```
//!
//! A [`Principal`] is the only source of a tenant's identity: nothing in a path, a header or a body names a project that its caller's
//! credentials do not name. Rights are denied unless they are given.

pub mod principal;
pub mod rights;

pub use principal::{Principal, Subject, Tenant};
pub use rights::{Right, Rights, Role, Scope};
