//! What a token says about its bearer. Pure.
//!
//! ```json
//! {"sub": "u-7", "amr": ["pwd", "mfa"],
//!  "tallyhouse": {"projects": {"shop": "analyst", "blog": ["viewer", "developer"]}, "without": ["export"]}}
//!
//! {"sub": "u-7", "projects": ["shop"], "roles": ["analyst", "offline_access"]}
//! ```
//!
//! The first form gives roles per project; its claim can be called otherwise (`JWT_CLAIM`). The second, of providers that know only lists, gives
//! each role in each project. A token with the claim of the first form has that form alone. Roles that are none of ours give nothing: providers
//! have roles of their own in the same list. `without` takes rights away (`export`, `sql`), whatever the roles have; another word or form in it takes both.
//!
//! What only the role `admin` has needs a second factor: without `mfa` in `amr` an administrator has the rights of a developer and an analyst.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::CLOCK_SKEW_S;
use crate::access::denied::Denied;
use crate::access::principal::{Principal, Subject, Tenant};
use crate::access::rights::{Right, Rights, Role};
use crate::cors::Origins;

/// Names of people are in logs and in the audit log.
const MAX_SUBJECT_BYTES: usize = 256;

/// Projects of one token.
const MAX_PROJECTS: usize = 1_000;

/// What no sign-in without a second factor gives.
const NEEDS_SECOND_FACTOR: Rights = Rights::of(&[Right::ManageProject, Right::ManageInstallation]);

/// A person who signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    user: Arc<str>,
    projects: BTreeMap<String, Rights>,
    has_second_factor: bool,
    until_ms: i64,
}

impl SignedIn {
    /// From verified claims; `claim` is the one that holds projects and roles.
    pub(super) fn of(claims: &Map<String, Value>, claim: &str) -> Result<Self, Denied> {
        let user = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if user.is_empty() || user.len() > MAX_SUBJECT_BYTES || user.chars().any(char::is_control) {
            return Err(Denied::InvalidToken("`sub` is not a name of at most 256 bytes"));
        }
        let projects = match claims.get(claim) {
            Some(of_projects) => per_project(of_projects),
            None => of_lists(claims),
        };
        if projects.len() > MAX_PROJECTS {
            return Err(Denied::InvalidToken("it names too many projects"));
        }
        let has_second_factor = claims.get("amr").is_some_and(|amr| texts(amr).any(|method| method == "mfa"));
        // Verified before: seconds since 1970, of which some providers send parts.
        let until_s = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        Ok(Self {
            user: user.into(),
            projects,
            has_second_factor,
            until_ms: (until_s * 1_000.0) as i64 + i64::from(CLOCK_SKEW_S) * 1_000,
        })
    }

    /// When the token is taken no more, in milliseconds since 1970.
    pub const fn until_ms(&self) -> i64 {
        self.until_ms
    }

    /// The caller in the project that is asked for, or in the only one that the token names; and the rights that their role has and this sign-in
    /// does not give.
    pub fn principal(&self, project: Option<&str>) -> Result<(Principal, Rights), Denied> {
        let (name, role) = match project {
            Some(name) => self.projects.get_key_value(name).ok_or(Denied::WrongProject)?,
            None => {
                let mut projects = self.projects.iter();
                match (projects.next(), projects.next()) {
                    (None, _) => return Err(Denied::NoProject),
                    (Some(only), None) => only,
                    (Some(_), Some(_)) => return Err(Denied::ProjectNeeded),
                }
            }
        };
        let withheld = if self.has_second_factor { Rights::NONE } else { role.both(NEEDS_SECOND_FACTOR) };
        let principal = Principal {
            tenant: Tenant::Project(name.as_str().into()),
            subject: Subject::User(Arc::clone(&self.user)),
            rights: role.without(withheld),
            // Tokens are sent by programs and by pages of our own kind: those that the service's settings list.
            origins: Origins::None,
        };
        Ok((principal, withheld))
    }
}

fn per_project(claim: &Value) -> BTreeMap<String, Rights> {
    let without = without(claim);
    let projects = claim.get("projects").and_then(Value::as_object);
    let given = projects.into_iter().flatten().map(|(project, roles)| (project.clone(), rights(roles, without)));
    given.filter(|(_, rights)| !rights.is_empty()).collect()
}

fn of_lists(claims: &Map<String, Value>) -> BTreeMap<String, Rights> {
    let rights = claims.get("roles").map_or(Rights::NONE, |roles| rights(roles, Rights::NONE));
    if rights.is_empty() {
        return BTreeMap::new();
    }
    claims.get("projects").into_iter().flat_map(texts).map(|project| (project.to_owned(), rights)).collect()
}

/// Of all roles together.
fn rights(roles: &Value, without: Rights) -> Rights {
    let roles = texts(roles).filter_map(|role| role.parse::<Role>().ok());
    roles.fold(Rights::NONE, |rights, role| rights.and(role.rights())).without(without)
}

/// What is meant to take something away and is not understood takes away all that can be: a slip must not give a right.
fn without(claim: &Value) -> Rights {
    const ALL: Rights = Rights::of(&[Right::Export, Right::Sql]);
    let names = match claim.get("without") {
        None | Some(Value::Null) => return Rights::NONE,
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
    };
    names.iter().fold(Rights::NONE, |taken, name| match name.as_str() {
        Some("export") => taken.and(Rights::of(&[Right::Export])),
        Some("sql") => taken.and(Rights::of(&[Right::Sql])),
        Some(_) | None => taken.and(ALL),
    })
}

/// The texts of a list, or the one that stands for a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten();
    list.chain(value.is_string().then_some(value)).filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn principal(claims: &Value, project: Option<&str>) -> Result<(Principal, Rights), Denied> {
        SignedIn::of(claims.as_object().unwrap(), "tallyhouse")?.principal(project)
    }

    fn rights_in(claims: &Value, project: Option<&str>) -> Result<Rights, Denied> {
        principal(claims, project).map(|(principal, _)| principal.rights)
    }

    #[test]
    fn both_forms_give_roles() {
        let one = json!({"sub": "u", "tallyhouse": {"projects": {"shop": "analyst"}}});
        let (caller, withheld) = principal(&one, None).unwrap();
        assert_eq!((caller.project(), caller.subject.name()), (Some("shop"), "u"));
        assert_eq!((caller.rights, withheld), (Role::Analyst.rights(), Rights::NONE));
        let lists =
            json!({"sub": "u", "projects": ["shop", "blog"], "roles": ["viewer", "offline_access", "developer"]});
        assert_eq!(rights_in(&lists, Some("blog")), Ok(Role::Developer.rights()));
        assert_eq!(rights_in(&lists, None), Err(Denied::ProjectNeeded));
        let texts = json!({"sub": "u", "projects": "shop", "roles": "viewer"});
        assert_eq!(rights_in(&texts, None), Ok(Role::Viewer.rights()));
        let both = json!({"sub": "u", "tallyhouse": {"projects": {"shop": ["viewer"]}}, "projects": ["blog"], "roles": ["admin"]});
        assert_eq!(rights_in(&both, Some("blog")), Err(Denied::WrongProject));
        assert_eq!(rights_in(&both, None), Ok(Role::Viewer.rights()));
    }

    #[test]
    fn only_projects_that_the_token_names_can_be_chosen() {
        let claims =
            json!({"sub": "u", "tallyhouse": {"projects": {"shop": "viewer", "blog": "analyst", "x": "root"}}});
        assert_eq!(rights_in(&claims, Some("blog")), Ok(Role::Analyst.rights()));
        for other in ["other", "Shop", "shop ", "", "x", "*"] {
            assert_eq!(rights_in(&claims, Some(other)), Err(Denied::WrongProject), "{other:?}");
        }
    }

    #[test]
    fn a_token_without_a_role_gives_nothing() {
        for claims in [
            json!({"sub": "u"}),
            json!({"sub": "u", "projects": ["shop"]}),
            json!({"sub": "u", "roles": ["admin"]}),
            json!({"sub": "u", "projects": ["shop"], "roles": ["Admin", "root", 1]}),
            json!({"sub": "u", "projects": {"shop": "admin"}, "roles": ["admin"]}),
            json!({"sub": "u", "tallyhouse": "admin"}),
            json!({"sub": "u", "tallyhouse": {"projects": ["shop"]}}),
            json!({"sub": "u", "tallyhouse": {"projects": {"shop": {"role": "admin"}}}, "projects": ["a"], "roles": ["admin"]}),
        ] {
            assert_eq!(rights_in(&claims, None), Err(Denied::NoProject), "{claims}");
        }
        for sub in [json!(""), json!(7), json!("a\nb"), json!("x".repeat(300)), Value::Null] {
            let claims = json!({"sub": sub, "projects": "a", "roles": "viewer"});
            assert!(matches!(rights_in(&claims, None), Err(Denied::InvalidToken(_))));
        }
    }

    #[test]
    fn claims_take_export_and_sql_away() {
        let of = |without: Value| {
            let claims = json!({"sub": "u", "tallyhouse": {"projects": {"shop": "analyst"}, "without": without}});
            rights_in(&claims, None).unwrap()
        };
        let without = of(json!(["export"]));
        assert!(!without.has(Right::Export) && without.has(Right::Sql) && without.has(Right::ReadMetrics));
        let without = of(json!(["export", "sql", "read_metrics"]));
        assert!(!without.has(Right::Export) && !without.has(Right::Sql) && without.has(Right::ReadMetrics));
        assert!(!of(json!("sql")).has(Right::Sql));
        for slip in [
            json!(["Export"]),
            json!(["exports"]),
            json!("all"),
            json!({"export": true}),
            json!([["export"]]),
            json!(true),
        ] {
            let without = of(slip);
            assert!(!without.has(Right::Export) && !without.has(Right::Sql) && without.has(Right::ReadMetrics));
        }
        assert!(of(json!([])).has(Right::Export) && of(Value::Null).has(Right::Sql));
    }

    #[test]
    fn an_administrator_administers_with_a_second_factor_only() {
        let of = |amr: Value| {
            let claims = json!({"sub": "u", "amr": amr, "tallyhouse": {"projects": {"shop": "admin"}}});
            let (caller, withheld) = principal(&claims, None).unwrap();
            (caller.rights, withheld)
        };
        for strong in [json!(["pwd", "mfa"]), json!("mfa")] {
            assert_eq!(of(strong), (Role::Admin.rights(), Rights::NONE));
        }
        let (lesser, withheld) =
            (Role::Developer.rights().and(Role::Analyst.rights()), Rights::of(&[Right::ManageProject]));
        for weak in [json!([]), json!(["pwd", "otp"]), json!("pwd mfa"), json!({"mfa": true}), Value::Null] {
            assert_eq!(of(weak), (lesser, withheld));
        }
    }
}
