//! The output of `tallyhouse erase` and `tallyhouse erasures`.

use std::error::Error;
use std::process::ExitCode;

use serde_json::Value;
use tallyhouse::attach::attach;
use tallyhouse::config::Config;
use tallyhouse::erasures::{self, Eraser};
use tallyhouse_control::privacy::erasure::{Erasure, Person};
use tallyhouse_service::env::Env;

use crate::cli::{Erase, Erasures};

type Outcome = Result<ExitCode, Box<dyn Error>>;

pub(crate) async fn erase(env: &dyn Env, what: Erase) -> Outcome {
    let config = Config::from_env(env)?;
    let attached = attach(&config, env).await?;
    let eraser = Eraser::new(&attached, &config, env).await?;
    let erased = Box::pin(work(&eraser, what)).await;
    if let Some(pending) = eraser.end().await {
        eprintln!("tallyhouse: {pending}");
    }
    attached.detach().await;
    erased.map(|()| ExitCode::SUCCESS)
}

async fn work(eraser: &Eraser, what: Erase) -> Result<(), Box<dyn Error>> {
    let Erase { project, user, anonymous, keep_suppressed, wait, reapply, json } = what;
    if reapply {
        let again = eraser.reapply().await?;
        for (project, erasure) in &again {
            show(&eraser.finish(project, &erasure.id).await?, json);
        }
        if again.is_empty() && !json {
            print("nothing of erased people came back\n");
        }
        return Ok(());
    }
    let project = project.ok_or("say of which project: --project NAME")?;
    let person = Person { user_id: user, anonymous_id: anonymous };
    let mut erasure = eraser.request(&project, person, keep_suppressed).await?;
    if wait {
        erasure = eraser.finish(&project, &erasure.id).await?;
    }
    show(&erasure, json);
    if !wait && !json {
        print("a running query API works on it; without one: the same command with --wait\n");
    }
    Ok(())
}

fn show(erasure: &Erasure, json: bool) {
    let value = erasure.json();
    if json {
        print(&format!("{value}\n"));
        return;
    }
    let field = |name: &str| value.get(name).cloned().unwrap_or(Value::Null);
    let counts = field("counts");
    let count = |name: &str| counts.get(name).cloned().unwrap_or(Value::Null);
    print(&format!(
        "{}: {}; {} events on {} days, {} dead letters, {} days not rebuilt, {} replaced files left\n",
        erasure.id,
        field("state").as_str().unwrap_or_default(),
        count("rawEvents"),
        count("days"),
        count("deadLetters"),
        count("daysNotRebuilt"),
        count("filesLeft"),
    ));
}

pub(crate) fn erasures(env: &dyn Env, what: Erasures) -> Outcome {
    let Erasures::Verify { file } = what;
    let config = Config::from_env(env)?;
    let report = erasures::verify(&file, &erasures::key(&config, env)?)?;
    let text = |name: &str| report.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    print(&format!("{} of {}: signed by this installation, unchanged\n", text("id"), text("project")));
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn print(text: &str) {
    print!("{text}");
}
