//! `tallyhouse migrate`: the tables, on the given or the embedded ClickHouse.

use std::fmt;

use tallyhouse_sql::Connection;
use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::runner::{self, MigrateError, Standing};

/// Where every migration stands, to be printed.
#[derive(Debug)]
pub struct Report(Vec<(&'static str, Standing)>);

impl Report {
    /// Asks the database.
    pub async fn read(connection: &Connection, topology: &Topology) -> Result<Self, MigrateError> {
        let standings = runner::status(connection, topology).await?;
        Ok(Self(standings.into_iter().map(|(migration, standing)| (migration.name, standing)).collect()))
    }

    /// Whether a migration was changed after it was applied, which nothing mends.
    pub fn is_changed(&self) -> bool {
        self.0.iter().any(|(_, standing)| *standing == Standing::Changed)
    }

    /// Whether the database is exactly what this version needs.
    pub fn is_current(&self) -> bool {
        self.0.iter().all(|(_, standing)| *standing == Standing::Applied)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, standing) in &self.0 {
            let word = match standing {
                Standing::Applied => "applied",
                Standing::Pending => "pending",
                Standing::Changed => "CHANGED after it was applied",
            };
            writeln!(f, "{name:<32} {word}")?;
        }
        Ok(())
    }
}
