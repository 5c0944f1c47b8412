//! The users of `sql/access/analyst.cluster.sql` as users.xml has them, made of that file: the embedded engine has no CREATE USER.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};
use tallyhouse_sql::hex;

const FILE: &str = include_str!("../../../sql/access/analyst.cluster.sql");

/// The role, and the profile.
const NAME: &str = "tallyhouse_analyst";

/// The password of all of them.
pub(crate) const PASSWORD: &str = "dev";

fn statements() -> impl Iterator<Item = String> {
    FILE.split(";\n").map(|statement| {
        let lines = statement.lines().filter(|line| !line.starts_with("--"));
        lines.map(str::trim).collect::<Vec<_>>().join(" ").trim().trim_end_matches(';').to_owned()
    })
}

/// What stands between two words of the statements that begin so.
fn between(begin: &str, from: &str, to: &str) -> Vec<String> {
    let found = statements().filter(|statement| statement.starts_with(begin));
    let cut = |statement: String| {
        let (_, rest) = statement.split_once(from).unwrap();
        rest.split_once(to).map_or(rest, |(part, _)| part).trim().to_owned()
    };
    found.map(cut).collect()
}

/// Their profile.
pub(crate) fn profile() -> String {
    let [settings] = &between("CREATE SETTINGS PROFILE", "tallyhouse_analyst SETTINGS ", ";")[..] else {
        panic!("one profile")
    };
    let (mut values, mut constraints) = (String::new(), String::new());
    for setting in settings.split(", ") {
        let (name, rest) = setting.split_once(" = ").unwrap();
        let (value, constraint) = match rest.split_once(' ') {
            None => (rest, None),
            Some((value, "CONST")) => (value, Some("readonly")),
            Some((value, "CHANGEABLE_IN_READONLY")) => (value, Some("changeable_in_readonly")),
            Some(other) => panic!("{other:?}"),
        };
        write!(values, "<{name}>{}</{name}>", value.trim_matches('\'')).unwrap();
        if let Some(constraint) = constraint {
            write!(constraints, "<{name}><{constraint}/></{name}>").unwrap();
        }
    }
    format!("<{NAME}>{values}<constraints>{constraints}</constraints></{NAME}>\n")
}

/// A user for each of these projects.
pub(crate) fn users(projects: &[&str]) -> String {
    let grants: String = between("GRANT SELECT ON ", "GRANT ", " TO ")
        .iter()
        .map(|grant| format!("<query>GRANT {grant}</query>"))
        .collect();
    let mut policies = BTreeMap::<String, String>::new();
    for policy in between("CREATE ROW POLICY", " ON ", " TO ") {
        let (tables, filter) = policy.split_once(" USING ").unwrap();
        for (database, table) in tables.split(", ").map(|table| table.trim().split_once('.').unwrap()) {
            write!(policies.entry(database.to_owned()).or_default(), "<{table}><filter>{filter}</filter></{table}>")
                .unwrap();
        }
    }
    assert!(policies.len() == 2 && grants.contains("tallyhouse_all.events"), "{policies:?} {grants}");
    let databases: String = policies.iter().map(|(database, all)| format!("<{database}>{all}</{database}>")).collect();
    let password = hex(&Sha256::digest(PASSWORD.as_bytes()));
    let user = |project: &&str| {
        format!(
            "<analyst_{project}><password_sha256_hex>{password}</password_sha256_hex><networks><ip>127.0.0.1</ip></networks>\
             <profile>{NAME}</profile><quota>analyst</quota><grants>{grants}</grants><databases>{databases}</databases>\
             </analyst_{project}>\n"
        )
    };
    projects.iter().map(user).collect()
}
