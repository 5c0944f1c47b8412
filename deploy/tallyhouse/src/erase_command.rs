//! The output of `tallyhouse erase` and `tallyhouse erasures`.

use std::error::Error;
use std::process::ExitCode;

use serde_json::Value;
use tallyhouse::administration::privacy::RemoteErasures;
use tallyhouse::attach::attach;
use tallyhouse::config::Config;
use tallyhouse::erasures::{self, Eraser};
use tallyhouse_control::privacy::erasure::Person;
use tallyhouse_service::env::Env;

use crate::cli::{Erase, Erasures};

const NO_PROJECT: &str = "say of which project: --project NAME";

type Outcome = Result<ExitCode, Box<dyn Error>>;

pub(crate) async fn erase(env: &dyn Env, what: Erase) -> Outcome {
    if let Some(remote) = RemoteErasures::open(env)? {
        there(&remote, what).await?;
        return Ok(ExitCode::SUCCESS);
    }
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

async fn there(remote: &RemoteErasures, what: Erase) -> Result<(), Box<dyn Error>> {
    let Erase { project, user, anonymous, keep_suppressed, wait, reapply, json } = what;
    if reapply {
        return Err("a running query API erases again what came back, at its start and each hour: --reapply is for the machine of ClickHouse, without TALLYHOUSE_URL".into());
    }
    let project = project.ok_or(NO_PROJECT)?;
    let person = Person { user_id: user, anonymous_id: anonymous };
    let mut job = remote.request(&project, &person, keep_suppressed).await?;
    if wait {
        let id = job.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        job = remote.done(&project, &id).await?;
    }
    show(&job, json);
    Ok(())
}

async fn work(eraser: &Eraser, what: Erase) -> Result<(), Box<dyn Error>> {
    let Erase { project, user, anonymous, keep_suppressed, wait, reapply, json } = what;
    if reapply {
        let again = eraser.reapply().await?;
        for (project, erasure) in &again {
            show(&eraser.finish(project, &erasure.id).await?.json(), json);
        }
        if again.is_empty() && !json {
            print("nothing of erased people came back\n");
        }
        return Ok(());
    }
    let project = project.ok_or(NO_PROJECT)?;
    let person = Person { user_id: user, anonymous_id: anonymous };
    let mut erasure = eraser.request(&project, person, keep_suppressed).await?;
    if wait {
        erasure = eraser.finish(&project, &erasure.id).await?;
    }
    show(&erasure.json(), json);
    if !wait && !json {
        print("a running query API works on it; without one: the same command with --wait\n");
    }
    Ok(())
}

fn show(value: &Value, json: bool) {
    if json {
        print(&format!("{value}\n"));
        return;
    }
    let field = |name: &str| value.get(name).cloned().unwrap_or(Value::Null);
    let counts = field("counts");
    let count = |name: &str| counts.get(name).cloned().unwrap_or(Value::Null);
    print(&format!(
        "{}: {}; {} events on {} days, {} dead letters, {} days not rebuilt, {} replaced files left\n",
        field("id").as_str().unwrap_or_default(),
        field("state").as_str().unwrap_or_default(),
        count("rawEvents"),
        count("days"),
        count("deadLetters"),
        count("daysNotRebuilt"),
        count("filesLeft"),
    ));
}

pub(crate) async fn erasures(env: &dyn Env, what: Erasures) -> Outcome {
    let Erasures::Verify { file } = what;
    let text = |report: &Value, name: &str| report.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (report, verdict) = match RemoteErasures::open(env)? {
        // Who has no key of the installation asks it.
        Some(remote) => {
            let report = erasures::read(&file)?;
            let job = remote.find(&text(&report, "project"), &text(&report, "id")).await?;
            if job.get("report") != Some(&report) {
                return Err(format!("{}: the service has another report", file.display()).into());
            }
            (report, "as the service has it")
        }
        None => {
            let config = Config::from_env(env)?;
            (erasures::verify(&file, &erasures::key(&config, env)?)?, "signed by this installation, unchanged")
        }
    };
    print(&format!("the report of {} of {}: {verdict}\n", text(&report, "id"), text(&report, "project")));
    // What stands around it in the file is signed by nobody.
    print(&format!("{report:#}\n"));
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn print(text: &str) {
    print!("{text}");
}
