//! The output of `tallyhouse backup`.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse::attach::attach;
use tallyhouse::backup::create::{self, Source};
use tallyhouse::backup::manifest::{Kind, Manifest};
use tallyhouse::backup::restore::{self, LogOutcome, Restored};
use tallyhouse::backup::{BackupError, Target, verify};
use tallyhouse::config::{self, Config};
use tallyhouse_control::time;
use tallyhouse_ingest::kafka::positions::PartitionPosition as Position;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::Env;

use crate::cli::Backup;

type Outcome = Result<ExitCode, Box<dyn Error>>;

pub(crate) async fn backup(env: &dyn Env, what: Backup) -> Outcome {
    let config = Config::from_env(env)?;
    let staging = config::backup_dir(&config);
    let (target, access) = config::backup_target(env)?;
    let target = Target::open(target.as_deref(), &access, &staging).await?;
    match what {
        Backup::Create { incremental, full_every, verify, keep, repeat, json } => {
            let kind = if incremental { Kind::Incremental } else { Kind::Full };
            let making = create::Options { kind, full_every_ms: full_every, verify };
            let options = CreateOptions { making, keep, json };
            let place = Place { config: &config, env, staging: &staging, target: &target };
            return Box::pin(make(&place, &options, repeat)).await;
        }
        Backup::List { json } => list(&target, json).await?,
        Backup::Verify { name } => return whole(&target, name).await,
        Backup::Restore { name, replace, yes_replace, json } => {
            let options = restore::Options { name, may_replace: replace && yes_replace };
            let restored = Box::pin(restore::restore(&config, env, &target, &staging, &options)).await?;
            print(&if json { line(&report(&restored)) } else { report_for_people(&restored) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a backup is to be like, and what follows.
struct CreateOptions {
    making: create::Options,
    keep: Option<i64>,
    json: bool,
}

struct Place<'a> {
    config: &'a Config,
    env: &'a dyn Env,
    staging: &'a Path,
    target: &'a Target,
}

/// Once, or again and again: then a failure is told, and the next one is tried in its time.
async fn make(place: &Place<'_>, options: &CreateOptions, repeat: Option<i64>) -> Outcome {
    loop {
        let made = Box::pin(make_one(place, options)).await;
        let Some(pause) = repeat else { return made };
        if let Err(error) = made {
            tracing::error!(%error, "there is no backup of this turn");
        }
        tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
    }
}

async fn make_one(place: &Place<'_>, options: &CreateOptions) -> Outcome {
    let Place { config, env, staging, target } = place;
    let given = if config.engine.is_none() { Some(config::given_destination(*env)?) } else { None };
    let attached = attach(config, *env).await?;
    let kafka = create::kafka(*env)?;
    let source = Source { client: attached.writer.client(), data: &config.data, staging, kafka, given };
    let made = Box::pin(create::create(&source, target, options.making)).await;
    attached.detach().await;
    let made = made?;
    print(&if options.json { line(&summary(&made)) } else { format!("{}\n", told(&made)) });
    if let Some(older) = options.keep {
        create::forget(staging, target, older).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(target: &Target, json: bool) -> Result<(), BackupError> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for name in target.names().await? {
        match target.manifest(&name).await {
            Ok(manifest) => found.push(manifest),
            Err(error) => damaged.push(error),
        }
    }
    if json {
        print(&line(&found.iter().map(summary).collect()));
    } else {
        found.iter().for_each(|manifest| print(&format!("{}\n", told(manifest))));
    }
    damaged.iter().for_each(|error| eprintln!("tallyhouse: {error}"));
    Ok(())
}

async fn whole(target: &Target, name: Option<String>) -> Outcome {
    let name = match name {
        Some(name) => name,
        None => target.names().await?.pop().ok_or_else(|| BackupError::None(target.to_string()))?,
    };
    let problems = verify::problems(target, &name).await?;
    if problems.is_empty() {
        print(&format!("{name} is whole\n"));
        return Ok(ExitCode::SUCCESS);
    }
    problems.iter().for_each(|problem| print(&format!("{problem}\n")));
    eprintln!("tallyhouse: {name} is damaged: it cannot be restored");
    Ok(ExitCode::FAILURE)
}

fn summary(manifest: &Manifest) -> Value {
    json!({
        "name": manifest.name, "kind": manifest.kind, "base": manifest.base, "asOf": time::text(manifest.as_of_ms),
        "events": manifest.events, "bytes": manifest.bytes(), "tookMs": manifest.took_ms, "version": manifest.version,
    })
}

fn told(manifest: &Manifest) -> String {
    let base = manifest.base.as_ref().map(|base| format!(", goes with {base}")).unwrap_or_default();
    format!(
        "{}  {} events, {} bytes in {} files{base}",
        manifest.name,
        manifest.events,
        manifest.bytes(),
        manifest.files.len()
    )
}

fn report(restored: &Restored) -> Value {
    let log =
        restored.log.as_ref().map(|log| json!({ "ofHere": log.is_of_here, "from": log.from, "missing": log.missing }));
    let kafka = restored.kafka.iter().map(|back| {
        let position = &back.position;
        json!({
            "topic": position.topic, "partition": position.partition, "next": position.next, "replayed": back.replayed, "missing": back.missing, "madeAnew": back.is_anew,
        })
    });
    json!({
        "name": restored.manifest.name, "asOf": time::text(restored.manifest.as_of_ms), "ageMs": now_ms() - restored.manifest.as_of_ms,
        "events": restored.events, "rebuiltPartitions": restored.rebuilt.partitions, "erasures": restored.erasures, "log": log,
        "kafka": kafka.collect::<Vec<_>>(), "tookMs": u64::try_from(restored.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn report_for_people(restored: &Restored) -> String {
    let Restored { manifest, events, rebuilt, erasures, log, kafka, took } = restored;
    let mut text = format!(
        "{} is restored in {:.1} s: {events} events, as of {}; {} partitions of rollups rebuilt, {erasures} erasures done again\n",
        manifest.name,
        took.as_secs_f64(),
        time::text(manifest.as_of_ms),
        rebuilt.partitions
    );
    match log {
        Some(LogOutcome { is_of_here: true, missing: 0, .. }) => {
            text += "the local log is still here: the next start stores what came after the backup\n";
        }
        Some(LogOutcome { is_of_here: true, missing, .. }) => {
            text +=
                &format!("{missing} events that came after the backup are no longer in the local log: they are lost\n");
        }
        Some(LogOutcome { is_of_here: false, .. }) => {
            text += "the local log is that of the backup: what came after it is lost, unless clients send it again\n";
        }
        None => {}
    }
    for position in kafka.iter().filter(|back| back.is_anew).map(|back| &back.position) {
        let Position { topic, partition, .. } = position;
        text += &format!(
            "partition {partition} of {topic} ends before what the backup noted (it was made anew, or is another one): it is read from half an hour before the backup on\n"
        );
    }
    let sum = |of: fn(&tallyhouse_ingest::kafka::positions::Returned) -> i64| kafka.iter().map(of).sum::<i64>();
    if !kafka.is_empty() {
        text += &format!(
            "consumers go back {} records in Kafka, and skip those that are in the backup; {} are no longer there\n",
            sum(|back| back.replayed),
            sum(|back| back.missing)
        );
    }
    text + "erasures that were asked for after the backup have to be asked for again (`tallyhouse erase`)\n"
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn print(text: &str) {
    print!("{text}");
}
