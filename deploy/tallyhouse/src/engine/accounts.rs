//! Accounts of people's tools, as the engine knows them: users of users.xml that see one project through the views.
//!
//! The views run as `definer`, whose row policies compare the project with that of the account that asks: `seen_by`. No account may make
//! anything: as a library the engine lets an `INSERT … FROM INFILE` read any of its files, a table's `SETTINGS disk = disk(…), table_disk = 1`
//! read the parts of another table, and a `CREATE … UUID` of another one's keep it from starting (tried with 26.7.2).

use std::fmt::Write as _;
use std::str::FromStr;

use tallyhouse_schema::project::ProjectName;

/// The name of an account: letters, digits, `_` and `-`, a letter first. It stands in XML and in SQL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountName(String);

/// SHA-256 of a password, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// What cannot stand in users.xml.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be an account's")]
pub struct NotPlain(pub String);

impl AccountName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PasswordHash {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = NotPlain;

    fn from_str(text: &str) -> Result<Self, NotPlain> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
        if begins && text.len() <= 100 && text.chars().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotPlain(text.to_owned()))
        }
    }
}

impl FromStr for PasswordHash {
    type Err = NotPlain;

    fn from_str(text: &str) -> Result<Self, NotPlain> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 64 && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotPlain(text.to_owned()))
        }
    }
}

/// An account that may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: AccountName,
    pub project: ProjectName,
    pub password_sha256: PasswordHash,
}

/// Elements of `<users>`.
pub(super) fn users(accounts: &[Account], networks: &str, more_grants: &str) -> String {
    accounts.iter().fold(String::new(), |mut text, Account { name, password_sha256, .. }| {
        // Writing to a `String` cannot fail.
        let _ok = write!(
            text,
            "
        <{name}>
            <password_sha256_hex>{hash}</password_sha256_hex>
            <networks>{networks}</networks>
            <profile>grafana</profile>
            <quota>default</quota>
            <default_database>tallyhouse_views</default_database>
            <grants>
                <query>GRANT SELECT ON tallyhouse_views.*</query>{more_grants}
            </grants>
        </{name}>
",
            name = name.0,
            hash = password_sha256.0,
        );
        text
    })
}

/// What the views show of a table, by who asks. Without an account or a project: nothing.
///
/// In this form it reaches the primary key, by binary search for whoever sees one project; `transform(…)` in its place does not. The
/// first element is for who is not listed.
pub(super) fn seen_by(grafana_projects: &[ProjectName], accounts: &[Account]) -> String {
    let quoted = |text: &str| format!("'{text}'");
    let mut names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
    let mut projects: Vec<&str> = accounts.iter().map(|account| account.project.as_str()).collect();
    let mut conditions = Vec::new();
    match grafana_projects {
        [] => {}
        [one] => {
            names.push("grafana");
            projects.push(one.as_str());
        }
        several => {
            let several: Vec<_> = several.iter().map(|project| quoted(project.as_str())).collect();
            conditions.push(format!("currentUser() = 'grafana' AND project_id IN ({})", several.join(", ")));
        }
    }
    if !names.is_empty() {
        let names: Vec<_> = names.into_iter().map(quoted).collect();
        let projects: Vec<_> = [""].into_iter().chain(projects).map(quoted).collect();
        let (names, projects) = (names.join(", "), projects.join(", "));
        conditions.push(format!("project_id = nullIf([{projects}][indexOf([{names}], currentUser()) + 1], '')"));
    }
    if conditions.is_empty() { "0".to_owned() } else { conditions.join(" OR ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, project: &str) -> Account {
        Account {
            name: name.parse().unwrap(),
            project: project.parse().unwrap(),
            password_sha256: "0f".repeat(32).parse().unwrap(),
        }
    }

    #[test]
    fn nothing_that_means_something_in_xml_or_sql_gets_in() {
        for bad in ["", "1a", "_a", "a.b", "a'b", "a<b", "a b", "a/b", &"a".repeat(101)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
        for bad in ["", "0F", &"0F".repeat(32), &"0g".repeat(32), &"0f".repeat(33)] {
            assert!(bad.parse::<PasswordHash>().is_err(), "{bad}");
        }
        for bad in ["", "a' OR 1", "a<b", "a b", "a`b"] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_account_sees_its_project() {
        assert_eq!(seen_by(&[], &[]), "0");
        let accounts = [account("bi_a", "a"), account("bi_b", "b.c")];
        let projects = ["x".parse().unwrap(), "y".parse().unwrap()];
        assert_eq!(
            seen_by(&projects, &accounts),
            "currentUser() = 'grafana' AND project_id IN ('x', 'y') OR \
             project_id = nullIf(['', 'a', 'b.c'][indexOf(['bi_a', 'bi_b'], currentUser()) + 1], '')"
        );
        assert_eq!(
            seen_by(&projects[..1], &accounts[..1]),
            "project_id = nullIf(['', 'a', 'x'][indexOf(['bi_a', 'grafana'], currentUser()) + 1], '')"
        );
    }

    #[test]
    fn an_account_may_select_from_the_views_and_nothing_else() {
        let text = users(&[account("bi_a", "a")], "<ip>127.0.0.1</ip>", "");
        assert_eq!(text.matches("GRANT").count(), 1, "{text}");
        assert!(
            text.contains("<bi_a>") && text.contains("<profile>grafana</profile>") && text.contains("</bi_a>"),
            "{text}"
        );
    }
}
