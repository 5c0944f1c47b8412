//! `loadtest`: feed, chart, kills, outage, bench, watched, trickle, reduction, reads, degrade, freshness, backlog, chaos, rolling, siege, brokers.

mod cli;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use tallyhouse_loadtest::brokers::{Brokers, BrokersError, Ports};
use tallyhouse_loadtest::chart::{self, ChartConfig, ChartError};
use tallyhouse_loadtest::feed::{self, Feed, FeedError, FeedSummary, TimeShift};
use tallyhouse_loadtest::{
    backlog, bench, chaos, degrade, kills, outage, reads, reduction, rolling, siege, tls, trickle, watched,
};

use tokio::signal::unix::{SignalKind, signal};

use cli::{
    BacklogArgs, BenchArgs, BrokersArgs, ChaosArgs, Cli, Command, DegradeArgs, FeedArgs, FreshnessArgs, KillsArgs,
    OutageArgs, ReadsArgs, RollingArgs, SiegeArgs, TlsArgs, TrickleArgs, WatchedArgs,
};

/// Why the command failed. The text of each says what to do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Chart(#[from] ChartError),
    #[error(transparent)]
    Kills(#[from] kills::KillsError),
    #[error(transparent)]
    Outage(#[from] outage::OutageError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Reduction(#[from] reduction::ReductionError),
    #[error(transparent)]
    Reads(#[from] reads::ReadsError),
    #[error(transparent)]
    Degrade(#[from] degrade::DegradeError),
    #[error(transparent)]
    Backlog(#[from] backlog::BacklogError),
    #[error(transparent)]
    Chaos(#[from] chaos::ChaosError),
    #[error(transparent)]
    Rolling(#[from] rolling::RollingError),
    #[error(transparent)]
    Siege(#[from] siege::SiegeError),
    #[error(transparent)]
    Brokers(#[from] BrokersError),
    #[error(transparent)]
    Arguments(#[from] cli::ArgumentError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
    #[error("the output cannot be rendered: {0}")]
    Json(#[from] serde_json::Error),
    #[error("what was promised does not hold: {0}")]
    Broken(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("loadtest: {failure}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Feed(args) => feed(&args).await,
        Command::Chart(args) => print(&chart::flights_by_month(&args.config()).await?),
        Command::Kills(args) => kills(&args).await,
        Command::Outage(args) => outage(&args).await,
        Command::Bench(args) => bench(&args).await,
        Command::Trickle(args) => trickle(&args).await,
        Command::Tls(args) => tls(&args).await,
        Command::Watched(args) => watched(&args).await,
        Command::Reduction(args) => {
            let say = |step: &str| say(&format!("reduction: {step}"));
            print(&reduction::run(&args.config()?, say).await?)
        }
        Command::Reads(args) => reads(&args).await,
        Command::Degrade(args) => degrade(&args).await,
        Command::Freshness(args) => freshness(&args).await,
        Command::Backlog(args) => backlog(&args).await,
        Command::Chaos(args) => chaos(&args).await,
        Command::Rolling(args) => rolling(&args).await,
        Command::Siege(args) => siege(&args).await,
        Command::Brokers(args) => brokers(&args).await,
    }
}

async fn feed(args: &FeedArgs) -> Result<(), Failure> {
    let mut config = args.config();
    let until = config.time_shift.until();
    let to = until.saturating_add(SignedDuration::from_mins(1)).unwrap_or(until);
    let from = to.saturating_sub(SignedDuration::from_hours(24 * 365)).unwrap_or(to);
    let chart = args.chart.clone().map(|url| ChartConfig { url, key: args.query_key.clone(), from, to });
    if let (Some(chart), TimeShift::Yearly { fed, .. }) = (&chart, &mut config.time_shift) {
        *fed = feed::resume::newest(chart).await?;
    }
    let feed = Feed::prepare(&config)?;
    let bar = progress_bar(feed.events());
    let summary = feed::run(&feed, &config, |sent, _| bar.inc(sent as u64)).await?;
    bar.finish_and_clear();
    if args.json {
        print(&serde_json::to_string(&summary)?)?
    } else {
        print(&describe(&summary, config.time_shift))?
    }
    if summary.refused() > 0 {
        return Err(Failure::Broken(format!("{} flights were rejected", summary.refused())));
    }
    if let Some(chart) = &chart {
        print(&format!("\n{}", chart::flights_by_month(chart).await?))?;
    }
    Ok(())
}

fn describe(summary: &FeedSummary, time_shift: TimeShift) -> String {
    match time_shift {
        TimeShift::Yearly { fed: Some(fed), .. } if summary.sent == 0 => {
            format!("already fed: the flights up to {fed} are there")
        }
        TimeShift::Yearly { fed: Some(fed), .. } => {
            format!("{summary}\nflights of 2013 after {fed}; those before were fed already")
        }
        TimeShift::Yearly { fed: None, .. } => format!("{summary}\nflights of 2013, moved forward by whole years"),
        TimeShift::Shifted { until } => format!("{summary}\nflights of 2013, moved forward until {until}"),
    }
}

async fn kills(args: &KillsArgs) -> Result<(), Failure> {
    let report = kills::run(&args.config()?, |line| say(&line)).await?;
    print(&report.to_string())?;
    if report.verification.is_exact() { Ok(()) } else { Err(Failure::Broken(report.verification.to_string())) }
}

async fn outage(args: &OutageArgs) -> Result<(), Failure> {
    let report = outage::run(&args.config()?).await?;
    print(&report.to_string())?;
    let kept = report.verification.is_exact() && report.lost_probes == 0 && report.probes.without_retry_after == 0;
    if kept { Ok(()) } else { Err(Failure::Broken("see above".to_owned())) }
}

async fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let report = bench::run(&args.config()?, |step| say(&format!("bench: {step}"))).await?;
    if args.json { print(&serde_json::to_string_pretty(&report)?) } else { print(&report.to_string()) }
}

async fn trickle(args: &TrickleArgs) -> Result<(), Failure> {
    let report = trickle::run(&args.config()?, |step| say(&format!("trickle: {step}"))).await?;
    if args.json { print(&serde_json::to_string_pretty(&report)?) } else { print(&report.to_string()) }
}

async fn tls(args: &TlsArgs) -> Result<(), Failure> {
    let report = tls::run(&args.config()?, |step| say(&format!("tls: {step}"))).await?;
    if args.json { print(&serde_json::to_string_pretty(&report)?) } else { print(&report.to_string()) }
}

async fn watched(args: &WatchedArgs) -> Result<(), Failure> {
    let report = watched::run(&args.config()?, |step| say(&format!("watched: {step}"))).await?;
    if args.json {
        print(&serde_json::to_string_pretty(&report)?)?
    } else {
        print(&report.to_string())?
    }
    if report.holds() {
        Ok(())
    } else {
        Err(Failure::Broken("being watched costs more than it may, see above".to_owned()))
    }
}

async fn reads(args: &ReadsArgs) -> Result<(), Failure> {
    let report = reads::run(&args.config()?, |step| say(&format!("reads: {step}"))).await?;
    if args.json { print(&serde_json::to_string_pretty(&report)?) } else { print(&report.to_string()) }
}

async fn degrade(args: &DegradeArgs) -> Result<(), Failure> {
    let report = degrade::run(&args.config()?, |step| say(&format!("degrade: {step}"))).await?;
    if args.json {
        print(&serde_json::to_string_pretty(&report)?)?
    } else {
        print(&report.to_string())?
    }
    let broken = report.broken();
    if broken.is_empty() { Ok(()) } else { Err(Failure::Broken(broken.join("; "))) }
}

async fn freshness(args: &FreshnessArgs) -> Result<(), Failure> {
    let report = degrade::freshness::run(&args.config()?, |step| say(&format!("freshness: {step}"))).await?;
    print(&report.to_string())?;
    if report.holds() { Ok(()) } else { Err(Failure::Broken("answers older than promised, see above".to_owned())) }
}

async fn backlog(args: &BacklogArgs) -> Result<(), Failure> {
    let report = backlog::run(&args.config()?, |step| say(&format!("backlog: {step}"))).await?;
    if args.json { print(&serde_json::to_string_pretty(&report)?) } else { print(&report.to_string()) }
}

async fn chaos(args: &ChaosArgs) -> Result<(), Failure> {
    if args.plan {
        return print(&args.plans());
    }
    let report = chaos::run(&args.config()?, |line| say(&line)).await?;
    print(&report.to_string())?;
    if report.is_exact() { Ok(()) } else { Err(Failure::Broken("see above".to_owned())) }
}

async fn rolling(args: &RollingArgs) -> Result<(), Failure> {
    let report = rolling::run(&args.config()?, |line| say(&line)).await?;
    print(&report.to_string())?;
    if report.is_exact() { Ok(()) } else { Err(Failure::Broken("see above".to_owned())) }
}

async fn siege(args: &SiegeArgs) -> Result<(), Failure> {
    let report = siege::run(&args.config()?, |line| say(&line)).await?;
    print(&report.to_string())?;
    let broken = report.broken();
    if broken.is_empty() { Ok(()) } else { Err(Failure::Broken(broken.join("\n  "))) }
}

/// Ctrl-C is the way to end it; a broker that ends by itself is a failure.
async fn brokers(args: &BrokersArgs) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.data)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let starting = Brokers::start_at(args.count.into(), &args.data, Ports::From(args.port));
    let mut brokers = tokio::select! {
        started = starting => started?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let bootstrap = brokers.bootstrap();
    print(&format!("Kafka is up on {bootstrap}, its data in {}. Ctrl-C stops it.", args.data.display()))?;
    print(&format!("In another terminal:  KAFKA_BROKERS={bootstrap} make run"))?;
    tokio::select! {
        error = brokers.ended() => return Err(error.into()),
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(brokers.stop().await?)
}

/// A progress bar on a terminal, nothing elsewhere.
fn progress_bar(events: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(events as u64);
    let style =
        ProgressStyle::with_template("  flights {bar:40} {human_pos}/{human_len} events, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// To people, beside the result. A closed standard error is no failure.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
