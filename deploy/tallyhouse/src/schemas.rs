//! Declarations of event types, as commands need them.

use std::error::Error;
use std::sync::Arc;

use tallyhouse_control::schemas::Seeds;
use tallyhouse_control::{Control, ControlOptions, ControlStore, LiveCatalogue};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::Env;
use tallyhouse_sql::Connection;

/// Those that are in force, as ClickHouse has them now. They can be changed with it.
pub async fn in_force(env: &dyn Env, writer: &Connection) -> Result<LiveCatalogue, Box<dyn Error>> {
    let store = ControlStore::new(writer, Some(writer));
    let control = Control::open(ControlOptions {
        service: "command",
        data: None,
        store: Some(store),
        fixed: tallyhouse_control::FixedKeys::default(),
        clock: Arc::new(now_ms),
    });
    control.refresh().await?;
    Ok(LiveCatalogue::new(control, Seeds::from_env(env)?))
}

/// Whoever changes something here, as the audit log names it.
pub const COMMAND_LINE: &str = "command line";
