//! The first start: a project, and outside development an operator's key, which is shown once.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tallyhouse_control::operations::keys::MadeKey;
use tallyhouse_control::operations::{OperationError, Operations};
use tallyhouse_control::{Control, ControlError, Kind, New};
use tallyhouse_service::secret::Secret;

use crate::config::Config;
use crate::credentials::Credentials;

/// Between two attempts while ClickHouse does not answer, doubled each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// The projects that development has.
const OF_DEVELOPMENT: [&str; 2] = ["demo", "guest"];

/// Makes what is not there yet. Ends when it is done, or cannot be done.
pub(crate) async fn first_start(control: &Control, config: &Config) {
    let operations = Operations::new(control.clone());
    let mut pause = AGAIN_AFTER;
    loop {
        let outcome = match config.is_development {
            true => development(&operations).await.map(|()| None),
            false => operations.first_start(config.first_project.as_str()).await,
        };
        match outcome {
            Ok(made) => return made.iter().for_each(|made| hand_over(made, config)),
            Err(OperationError::Control(error @ (ControlError::Unavailable | ControlError::Conflict { .. }))) => {
                tracing::debug!(%error, "the first start is not complete yet");
                tokio::time::sleep(pause).await;
                pause = AGAIN_AT_MOST.min(pause * 2);
            }
            Err(error) => {
                return tracing::error!(%error, "the first start is not complete: `tallyhouse projects create`");
            }
        }
    }
}

/// Their keys are known without ClickHouse; with a record they can have others, and settings.
///
/// Not as new projects are created: their events come before they have a record, and their people stay hashed as they were.
async fn development(operations: &Operations) -> Result<(), OperationError> {
    let control = operations.control();
    let store = control.store().ok_or(ControlError::NotConfigured)?;
    control.refresh().await?;
    for name in OF_DEVELOPMENT {
        if control.snapshot().record(Kind::Project, name, name).is_none() {
            let (kind, by) = (Kind::Project, "first start");
            match store.create(&New { kind, project: name, name, replaces: 0, document: "{}", by }).await {
                Ok(_) | Err(ControlError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(control.refresh().await?)
}

/// To the terminal, or where there is none, to the file of the other secrets.
fn hand_over(made: &MadeKey, config: &Config) {
    let message = FirstKey { key: &made.key, project: config.first_project.as_str() };
    let mut out = std::io::stdout();
    if out.is_terminal() && writeln!(out, "{message}").and_then(|()| out.flush()).is_ok() {
        return;
    }
    match Credentials::keep_operator_key(&config.data, &Secret::new(&made.key)) {
        Ok(path) => tracing::info!(
            path = %path.display(),
            project = config.first_project.as_str(),
            "the first start has made a project, and an operator's key, which is in this file (OPERATOR_KEY)"
        ),
        Err(error) => tracing::error!(
            %error,
            "the operator's key could not be kept; `tallyhouse keys create --operator` makes another one"
        ),
    }
}

struct FirstKey<'a> {
    key: &'a str,
    project: &'a str,
}

impl fmt::Display for FirstKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, project } = self;
        write!(
            f,
            "
The project `{project}` is there. An operator's key, shown this once:

    {key}

A key to send events with:    tallyhouse keys create --project {project} --scope ingest
A key to ask questions with:  tallyhouse keys create --project {project} --scope query
"
        )
    }
}
