//! Lets the engine know of changed accounts.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_control::{Control, ControlOptions, ControlStore, FixedKeys};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;
use tokio_util::sync::CancellationToken;

use super::records::accounts;
use crate::engine::{Account, Engine};

/// After a change, before it is looked for the next one: somebody who makes many accounts starts the engine again once for all of them.
const GATHER: Duration = Duration::from_millis(500);

/// After an engine that did not take its accounts.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is known of the control plane; with a folder also what it remembers.
pub fn control(data: Option<&Path>, reader: &Connection, writer: Option<&Connection>) -> Control {
    Control::open(ControlOptions {
        service: "engine",
        data: data.map(Path::to_owned),
        store: Some(ControlStore::new(reader, writer)),
        fixed: FixedKeys::default(),
        clock: Arc::new(now_ms),
    })
}

/// The accounts of an engine.
#[derive(Clone)]
pub struct Keeper(Control);

impl Keeper {
    /// With what the data folder remembers: the engine is to let people in as before while nobody can ask it for its records.
    pub fn open(data: &Path, writer: &Connection) -> Self {
        Self(control(Some(data), writer, None))
    }

    /// Those that are known.
    pub fn accounts(&self) -> Vec<Account> {
        accounts(&self.0.snapshot())
    }

    /// Keeps the engine's accounts as the records say, for ever.
    pub async fn keep(&self, engine: &Engine) -> Infallible {
        let never = CancellationToken::new();
        tokio::select! {
            never = self.follow(engine) => never,
            () = self.0.clone().run(never) => std::future::pending().await,
        }
    }

    async fn follow(&self, engine: &Engine) -> Infallible {
        let mut changes = self.0.subscribe();
        loop {
            while let Err(error) = engine.set_accounts(self.accounts()).await {
                tracing::error!(%error, "the accounts of people's tools are not in force; trying again");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            // The sender lives as long as `self`.
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}
