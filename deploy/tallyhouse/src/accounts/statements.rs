//! Accounts of a given ClickHouse server, as SQL. The same as in `engine/templates/users.xml` and `sql/access/dashboards.sql`, which has
//! the profiles.

use tallyhouse_control::records::grant::Tool;
use tallyhouse_schema::project::ProjectName;

use crate::engine::accounts::{AccountName, PasswordHash};

/// Which account, on a server.
#[derive(Debug)]
pub struct OnServer<'a> {
    pub name: &'a AccountName,
    pub project: &'a ProjectName,
    pub tool: Tool,
    pub server: ServerKind,
}

/// What it is a server of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    Single,
    /// One of several, each of which has every account: they ask each other as who asked them.
    OfCluster,
}

/// The tables behind the views.
const TABLES: &str = "tallyhouse.events, tallyhouse.rollup_1m, tallyhouse.rollup_1h, tallyhouse.rollup_1d";

/// What dbt does in its own database. Not among it: changing where a table is kept (`ALTER SETTINGS`), partitions of other tables.
const OWN_RIGHTS: &str = "SELECT, INSERT, SHOW, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE, ALTER UPDATE, \
     ALTER DELETE, ALTER COLUMN, ALTER INDEX, ALTER ORDER BY, ALTER TTL, ALTER VIEW, ALTER CONSTRAINT, ALTER MOVE PARTITION";

const ENGINES: [&str; 4] = ["MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree"];

/// The database of dbt. A project's name may have dots, so it stands in quotes.
pub fn database(project: &ProjectName) -> String {
    format!("dbt_{}", project.as_str())
}

impl OnServer<'_> {
    /// Makes it. What lets it in comes last, and each statement can be run twice.
    pub fn create(&self, password: &PasswordHash) -> Vec<String> {
        let (name, project, hash) = (self.name.as_str(), self.project.as_str(), password.as_str());
        let own = database(self.project);
        let (profile, default) = match self.tool {
            Tool::Grafana | Tool::Bi => ("tallyhouse_dashboards", "tallyhouse_views"),
            Tool::Dbt => ("tallyhouse_dbt", own.as_str()),
        };
        let mut statements = vec![format!(
            "CREATE ROW POLICY IF NOT EXISTS `tallyhouse_{name}` ON {TABLES} USING currentUser() = '{name}' AND project_id = '{project}' TO definer"
        )];
        // As `sql/access/dashboards.cluster.sql` has it, where it is said why.
        let limits = match self.server {
            ServerKind::Single => "",
            ServerKind::OfCluster => {
                ", max_result_rows = 200000 MIN 0 MAX 200000, max_result_bytes = 104857600 MIN 0 MAX 104857600"
            }
        };
        if self.tool == Tool::Dbt {
            statements.push(format!("CREATE DATABASE IF NOT EXISTS `{own}`"));
        }
        statements.push(format!(
            "CREATE USER IF NOT EXISTS `{name}` IDENTIFIED WITH sha256_hash BY '{hash}' DEFAULT DATABASE `{default}` SETTINGS PROFILE '{profile}'{limits}"
        ));
        if self.tool == Tool::Dbt {
            statements.push(format!("GRANT {OWN_RIGHTS} ON `{own}`.* TO `{name}`"));
            statements.extend(ENGINES.map(|engine| format!("GRANT TABLE ENGINE ON {engine} TO `{name}`")));
        }
        if self.server == ServerKind::OfCluster {
            statements.push(format!("GRANT SELECT ON tallyhouse_seen.* TO `{name}`"));
        }
        statements.push(format!("GRANT SELECT ON tallyhouse_views.* TO `{name}`"));
        statements
    }

    /// Gives it another password, also on a server that came after it was made.
    pub fn rotate(&self, password: &PasswordHash) -> Vec<String> {
        let mut statements = self.create(password);
        let (name, hash) = (self.name.as_str(), password.as_str());
        statements.push(format!("ALTER USER `{name}` IDENTIFIED WITH sha256_hash BY '{hash}'"));
        statements
    }

    /// Removes it. A database of dbt stays: it is the project's.
    pub fn delete(&self) -> Vec<String> {
        let name = self.name.as_str();
        vec![
            format!("DROP USER IF EXISTS `{name}`"),
            format!("DROP ROW POLICY IF EXISTS `tallyhouse_{name}` ON {TABLES}"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_sees_nothing_but_its_project_and_comes_in_last() {
        let (name, project) = ("bi_a-b_x".parse().unwrap(), "a.b".parse().unwrap());
        let hash = "0f".repeat(32).parse().unwrap();
        let on = |tool, server| OnServer { name: &name, project: &project, tool, server }.create(&hash);
        let of = |tool| on(tool, ServerKind::Single);
        let bi = of(Tool::Bi);
        assert_eq!(bi.len(), 3);
        assert!(bi[0].contains("USING currentUser() = 'bi_a-b_x' AND project_id = 'a.b' TO definer"), "{bi:?}");
        assert!(bi[1].starts_with("CREATE USER") && bi[1].contains("'tallyhouse_dashboards'"), "{bi:?}");
        assert_eq!(bi[2], "GRANT SELECT ON tallyhouse_views.* TO `bi_a-b_x`");
        let mut of_cluster = on(Tool::Bi, ServerKind::OfCluster);
        assert_eq!(of_cluster.remove(2), "GRANT SELECT ON tallyhouse_seen.* TO `bi_a-b_x`");
        assert!(of_cluster.remove(1).contains("max_result_rows = 200000 MIN 0"), "{of_cluster:?}");
        assert_eq!(of_cluster, [bi[0].clone(), bi[2].clone()]);
        let dbt = of(Tool::Dbt);
        assert!(dbt.contains(&"CREATE DATABASE IF NOT EXISTS `dbt_a.b`".to_owned()), "{dbt:?}");
        assert!(
            dbt.iter()
                .all(|sql| !sql.contains("tallyhouse.*") && !sql.contains("ON *.*") && !sql.contains("SETTINGS ON"))
        );
    }
}
