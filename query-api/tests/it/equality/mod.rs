//! Rollups against raw events: random questions, each answered from the planned table, from raw events, in
//! chunks, and over HTTP by two instances, and compared.
//!
//! ```text
//! question -> plan -> each reading: as a whole ~ from raw events
//!                                              = chunk by chunk, joined
//!                  -> the whole readings, rendered = one instance = another, that knows a part of it = the first, from memory
//! ```
//!
//! Only estimates may differ from raw events, within their stated error; all other answers are equal to the last
//! digit. So are two readings of one table, but for users: a set of some hundred becomes an estimate when one more is added to a full
//! one, also when it is in there already, so it depends on the order of merging (512 in one, 511 in the other; seen once in some
//! thousand questions). Events are spread over projects, so that a reading of raw events is of [`EVENTS_OF_PROJECT`] at most.
//!
//! On a cluster both readings are of all shards, over which the events of each project and person are spread.
//!
//! `EQUALITY_EVENTS` and `EQUALITY_QUESTIONS` make it larger than a test needs (`make equality`, `make equality SHARDS=2`); `EQUALITY_SEED`
//! repeats one.

mod events;
mod odd;
mod questions;

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::stream::StreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tallyhouse_query_api::cache::Rendered;
use tallyhouse_query_api::metric_definitions::Measure;
use tallyhouse_query_api::plan::chunks::cut;
use tallyhouse_query_api::plan::read::{Read, Source};
use tallyhouse_query_api::plan::structured::{Period, only};
use tallyhouse_query_api::plan::{Plan, Unplannable, plan};
use tallyhouse_query_api::render::structured::PlanPoints;
use tallyhouse_query_api::render::table::Greatest;
use tallyhouse_query_api::render::{series, structured};
use tallyhouse_query_api::request::structured::Form as Shown;
use tallyhouse_query_api::sql::{self, Point, Statement};
use tallyhouse_schema::{Catalogue, Rollup};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::{Env, ProcessEnv};
use tallyhouse_sql::Shards;
use tallyhouse_sql::clickhouse::{Client, RowOwned, RowRead};

use self::questions::{Form, Known, Question, question, registered};
use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{self as support, ShardEngines, eventually, new_project};

const DAY: i64 = 86_400;

/// Events of a project at most. The dearest question, about quantiles of two months of days that are on no whole hour, takes
/// seconds for a million of them, and is asked five times.
const EVENTS_OF_PROJECT: u64 = 312_500;

/// Events of the project whose clients are odd, at most: they are sent over HTTP.
const MOST_ODD_EVENTS: u64 = 50_000;

/// Questions that are asked at once.
const AT_ONCE: usize = 4;

/// Chunks of one reading that are read at once.
const CHUNKS_AT_ONCE: usize = 2;

/// How often it is told how far things are, in questions.
const TOLD_EVERY: usize = 500;

fn scale(name: &str, default: u64) -> u64 {
    ProcessEnv.get(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_answer_what_raw_events_say() {
    let engine = support::engine().await;
    let store = Stores { writers: engine.writer().into(), readers: engine.reader().into() };
    let size = Size::scaled(Size { events: 40_000, questions: 100, projects: events::least_projects() });
    let tally = compare(&store, size).await;
    assert!(tally.tables.len() == 4 && tally.widths_compared > 0 && tally.old > size.questions / 4, "{tally:?}");
    assert!(tally.totals > 0 && tally.previous > 0 && tally.series > 0 && tally.registered > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_answer_what_their_raw_events_say() {
    let shards = scale("EQUALITY_SHARDS", 2) as usize;
    let own;
    let cluster = match shards {
        2 => support::two_shards().await,
        more => {
            own = ShardEngines::with_tables(more).await;
            &own
        }
    };
    let store = Stores { writers: cluster.writers(), readers: cluster.readers() };
    let size = Size::scaled(Size { events: 3_000, questions: 15, projects: 3 });
    let tally = compare(&store, size).await;
    assert!(tally.users > 0 && tally.tables.len() > 1, "{tally:?}");
}

/// Where the events are.
struct Stores {
    writers: Shards,
    readers: Shards,
}

#[derive(Clone, Copy)]
struct Size {
    events: u64,
    questions: usize,
    /// At least; all values that there are need [`events::least_projects`].
    projects: u64,
}

impl Size {
    /// As the environment has it, else this one.
    fn scaled(self) -> Self {
        let events = scale("EQUALITY_EVENTS", self.events);
        let projects = if events == self.events { self.projects } else { events::least_projects() };
        Self { events, questions: scale("EQUALITY_QUESTIONS", self.questions as u64) as usize, projects }
    }
}

async fn compare(stores: &Stores, size: Size) -> Tally {
    let (seed, Size { events, questions, .. }) = (scale("EQUALITY_SEED", 7), size);
    let ground = Ground::lay(stores, size).await;
    let begun = Instant::now();
    eprintln!(
        "equality: {events} events in {} projects on {} shards, written in {} s",
        ground.projects.len(),
        stores.writers.count(),
        ground.written_s
    );
    let mut asked = Asked { random: StdRng::seed_from_u64(seed), ground: &ground, unanswerable: 0 };
    let mut tally = Tally::default();
    let mut answered = futures_util::stream::iter(asked.by_ref().take(questions))
        .map(|asked| ground.compare(asked))
        .buffer_unordered(AT_ONCE);
    while let Some(one) = answered.next().await {
        tally.add(&one);
        if tally.questions % TOLD_EVERY == 0 {
            eprintln!("equality: {} of {questions} questions in {} s", tally.questions, begun.elapsed().as_secs());
        }
    }
    drop(answered);
    let unanswerable = asked.unanswerable;
    eprintln!(
        "equality: seed {seed}, {} s of questions, and {unanswerable} that no rollup answers: {tally:?}",
        begun.elapsed().as_secs()
    );
    ground.clear().await;
    assert_eq!(tally.questions, questions);
    assert!(tally.values > questions && tally.chunks > 0, "{tally:?}");
    assert!(tally.reordered <= 1 + questions / 100, "{tally:?}");
    tally
}

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    questions: usize,
    series: usize,
    registered: usize,
    ranked: usize,
    totals: usize,
    previous: usize,
    /// Those whose width of buckets was left open.
    widths_compared: usize,
    rows: usize,
    values: usize,
    chunks: usize,
    remembered: usize,
    /// Readings of users.
    users: usize,
    /// Answers that were the same but for the order in which states of users were merged.
    reordered: usize,
    /// Readings that begin before minutes are kept.
    old: usize,
    tables: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn add(&mut self, one: &Self) {
        self.questions += one.questions;
        self.series += one.series;
        self.registered += one.registered;
        self.ranked += one.ranked;
        self.totals += one.totals;
        self.previous += one.previous;
        self.widths_compared += one.widths_compared;
        self.rows += one.rows;
        self.values += one.values;
        self.chunks += one.chunks;
        self.remembered += one.remembered;
        self.users += one.users;
        self.reordered += one.reordered;
        self.old += one.old;
        for (table, readings) in &one.tables {
            *self.tables.entry(table).or_default() += readings;
        }
    }
}

/// Where questions are asked: events, and two instances with the same registered metrics. The present stands still there, so
/// that what is planned here is what they plan.
struct Ground {
    client: Client,
    projects: Vec<String>,
    services: [Service; 2],
    catalogue: Catalogue,
    known: Known,
    now_ms: i64,
    written_s: u64,
}

impl Ground {
    async fn lay(stores: &Stores, Size { events, projects: least, .. }: Size) -> Self {
        let (now_ms, begun) = (now_ms(), Instant::now());
        let mut projects: Vec<String> =
            (0..events.div_ceil(EVENTS_OF_PROJECT).max(least)).map(|_| new_project()).collect();
        let each = events / projects.len() as u64;
        let midnight = now_ms / 1_000 / DAY * DAY;
        events::write(&stores.writers, &projects, each, midnight).await;
        let odd = new_project();
        odd::send(&stores.writers, &odd, (each / 4).min(MOST_ODD_EVENTS), midnight).await;
        projects.push(odd);
        let names: Vec<&str> = projects.iter().map(String::as_str).collect();
        let start = async || {
            let settings = Settings {
                writer: Some(stores.writers.home().clone()),
                now_ms: Some(now_ms),
                ..Settings::of(stores.readers.clone())
            };
            // Every answer is asked for again, long after the first of them: none is to make way.
            let settings = settings.with("QUERY_CACHE_BYTES", "8000000000").with("QUERY_CACHE_WARM", "off");
            // How soon is another test's question.
            Service::start_with(settings.with("QUERY_DEADLINE_DASHBOARD_MS", "60000"), &names).await
        };
        let one = start().await;
        for project in &projects {
            for metric in registered() {
                let made = one.post(&format!("admin-{project}"), "/v1/metrics", metric.to_string()).await;
                assert_eq!(made.status, 201, "{made:?}");
            }
        }
        let catalogue = Catalogue::built_in().unwrap();
        let known = Known::new(&catalogue);
        let other = start().await;
        eventually("the other instance knows the metrics", async || {
            let mut listed = Vec::new();
            for project in &projects {
                listed.push(other.get(project, "/v1/metrics").await.body["data"].as_array().map_or(0, Vec::len));
            }
            listed
                .iter()
                .all(|metrics| metrics - tallyhouse_query_api::metric_definitions::METRICS.len() == registered().len())
        })
        .await;
        let written_s = begun.elapsed().as_secs();
        let client = reader(&stores.readers);
        Self { client, projects, services: [one, other], catalogue, known, now_ms, written_s }
    }

    fn plan(&self, question: &Question) -> Result<Plan, Unplannable> {
        plan(&self.known.query(question, self.now_ms), &self.catalogue, self.now_ms)
    }

    async fn clear(self) {
        for service in self.services {
            service.stop().await;
        }
    }
}

/// Reads all shards. A subquery of a Distributed table is answered once.
fn reader(shards: &Shards) -> Client {
    let client = shards.reader();
    if shards.is_cluster() { client.with_setting("distributed_product_mode", "global") } else { client }
}

/// Questions that rollups answer, one after another, each of a project.
struct Asked<'a> {
    random: StdRng,
    ground: &'a Ground,
    unanswerable: usize,
}

impl<'a> Iterator for Asked<'a> {
    type Item = (&'a str, Question, Plan);

    fn next(&mut self) -> Option<Self::Item> {
        let ground = self.ground;
        loop {
            let question = question(&mut self.random, ground.now_ms / 1_000 / DAY * DAY);
            let project = rand::RngExt::random_range(&mut self.random, 0..ground.projects.len());
            match ground.plan(&question) {
                Ok(plan) => return Some((&ground.projects[project], question, plan)),
                Err(
                    Unplannable::TooManyPoints { .. }
                    | Unplannable::TooFineForItsAge { .. }
                    | Unplannable::NotRolledUp { .. },
                ) => self.unanswerable += 1,
                Err(error) => panic!("{question}: {error}"),
            }
        }
    }
}

impl Ground {
    async fn compare(&self, (project, question, plan): (&str, Question, Plan)) -> Tally {
        let mut tally = Tally { questions: 1, ..Tally::default() };
        let asking = CachedQuery { ground: self, project, question: &question };
        let expected = match &plan {
            Plan::Series(plan) => {
                tally.series += 1;
                series::render(
                    plan,
                    &asking.compare(&plan.read(), &mut tally).await,
                    &[],
                    Default::default(),
                    self.now_ms / 1_000,
                )
            }
            Plan::Structured(plan) => {
                tally.registered += usize::from(plan.shape.metrics.iter().any(|metric| metric.version > 0));
                tally.totals += usize::from(plan.shape.include.totals);
                tally.previous += usize::from(plan.previous.is_some());
                let greatest = match plan.shape.form {
                    Shown::Series(most) if !plan.ranking.is_empty() => {
                        tally.ranked += 1;
                        let ranking = asking.compare_all(&plan.ranking, &mut tally).await;
                        Some(Greatest::of(plan, &ranking, most as usize))
                    }
                    Shown::Series(_) | Shown::Table => None,
                };
                let reads = plan.period.reads.iter().map(|read| match &greatest {
                    Some(Greatest { groups, .. }) => only(read, groups),
                    None => read.clone(),
                });
                let mut found = PlanPoints {
                    reads: asking.compare_all(&reads.collect::<Vec<_>>(), &mut tally).await,
                    greatest,
                    totals: asking.compare_all(&plan.period.totals, &mut tally).await,
                    ..PlanPoints::default()
                };
                if let Some(previous) = &plan.previous {
                    // Rows are compared by the place of their bucket.
                    let width = |period: &Period| period.frame.as_ref().map(|frame| frame.granularity);
                    assert_eq!(width(previous), width(&plan.period), "{question}");
                    tally.widths_compared += usize::from(question.leaves_width_open());
                    found.previous = asking.compare_all(&previous.reads, &mut tally).await;
                    found.previous_totals = asking.compare_all(&previous.totals, &mut tally).await;
                }
                structured::render(plan, &found, self.now_ms / 1_000)
            }
            other => panic!("{question}: {other:?}"),
        };
        tally.reordered += usize::from(!asking.answered(&told(&expected), tally.users > 0).await);
        tally.remembered += 1;
        tally
    }
}

/// An answer whose meta is left open, as JSON.
fn told(rendered: &Rendered) -> Value {
    serde_json::from_slice(&[rendered.head.as_ref(), b"}}"].concat()).unwrap()
}

type Table = BTreeMap<(i64, Vec<String>), Vec<Option<f64>>>;

fn table(points: &[Point]) -> Table {
    points.iter().map(|point| ((point.at, point.groups.clone()), point.measured.clone())).collect()
}

/// How far two answers may be apart: nothing where both count; the estimates by what their states allow, five times the
/// standard error of users (which are exact while they are few).
fn is_equal(measure: Measure, source: &Source, planned: Option<f64>, raw: Option<f64>) -> bool {
    let (Some(planned), Some(raw)) = (planned, raw) else { return planned == raw };
    let within = |part: f64| (planned - raw).abs() <= part * planned.abs().max(raw.abs()).max(1e-9);
    match measure {
        Measure::Events | Measure::ValueMin | Measure::ValueMax => planned == raw,
        // The order of additions differs; the values are such that sums are exact far beyond this (`events::Values`).
        Measure::ValueSum | Measure::ValueAvg => within(1e-12),
        Measure::Users => {
            let error = |precision: u8| 1.04 / f64::from(1_u32 << precision).sqrt();
            within(5.0 * (error(source.users_precision()) + error(Rollup::Hour.users_precision())))
        }
        Measure::ValueQuantile(_) => within(0.021),
    }
}

/// Whether two readings of one table are the same.
fn is_same(measure: Measure, one: Option<f64>, other: Option<f64>) -> bool {
    one == other || measure == Measure::Users && one.zip(other).is_some_and(|(one, other)| is_reordered(one, other))
}

/// Whether two numbers of users can be of one state that was merged in two orders: both near the size at which a set becomes an
/// estimate, which is that of the precision of minutes or of hours, and not further apart than an estimate may be off there.
fn is_reordered(one: f64, other: f64) -> bool {
    [Rollup::Minute, Rollup::Hour].into_iter().any(|rollup| {
        let full = f64::from(1_u32 << (rollup.users_precision() - 5));
        [one, other].into_iter().all(|users| (0.9..=1.1).contains(&(users / full)))
    })
}

/// Whether an answer of users is the expected one, but for users near that size and for what is computed of them.
fn is_same_answer(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one != other => {
            let is_close = |one: f64, other: f64| (one - other).abs() <= 0.02 * one.abs().max(other.abs());
            let both = one.as_f64().zip(other.as_f64());
            both.is_some_and(|(one, other)| is_reordered(one, other) || is_close(one, other))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same_answer(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.keys().eq(other.keys())
                && one.values().zip(other.values()).all(|(one, other)| is_same_answer(one, other))
        }
        (one, other) => one == other,
    }
}

/// A question being asked.
struct CachedQuery<'a> {
    ground: &'a Ground,
    project: &'a str,
    question: &'a Question,
}

impl CachedQuery<'_> {
    async fn points(&self, read: &Read) -> Vec<Point> {
        match sql::by_group(read, self.project) {
            Some(statement) => sql::points(self.rows(&statement).await),
            None => self.rows(&sql::read(read, self.project)).await,
        }
    }

    async fn rows<R: RowOwned + RowRead>(&self, statement: &Statement) -> Vec<R> {
        let query = statement
            .params
            .iter()
            .fold(self.ground.client.query(&statement.text), |query, (name, value)| query.param(name, value));
        query.fetch_all().await.unwrap_or_else(|error| panic!("{}: {error}: {statement:?}", self.question))
    }

    async fn compare_all(&self, reads: &[Read], tally: &mut Tally) -> Vec<Vec<Point>> {
        let mut found = Vec::new();
        for read in reads {
            found.push(self.compare(read, tally).await);
        }
        found
    }

    /// The points of a reading as a whole, compared with those of raw events and of its chunks.
    async fn compare(&self, read: &Read, tally: &mut Tally) -> Vec<Point> {
        let whole = self.points(read).await;
        let planned = table(&whole);
        let raw = table(&self.points(&Read { source: Source::Raw, ..read.clone() }).await);
        assert_eq!(
            planned.keys().collect::<Vec<_>>(),
            raw.keys().collect::<Vec<_>>(),
            "{} {}: {read:?}",
            self.project,
            self.question
        );
        for (row, measured) in &planned {
            for ((measure, planned), raw) in read.measures.iter().zip(measured).zip(&raw[row]) {
                assert!(
                    is_equal(*measure, &read.source, *planned, *raw),
                    "{} {} {row:?} {measure:?}: {planned:?} from {}, {raw:?} from raw events",
                    self.project,
                    self.question,
                    read.source.table()
                );
                tally.values += 1;
            }
        }
        tally.rows += planned.len();
        let table = match &read.source {
            Source::Rollup { rollup: Rollup::Quarter, .. } => "quarters",
            source => source.table(),
        };
        *tally.tables.entry(table).or_default() += 1;
        tally.old += usize::from(read.from < self.ground.now_ms / 1_000 - Rollup::Minute.retention_days() * DAY);
        tally.users += usize::from(read.measures.contains(&Measure::Users));
        tally.chunks += self.in_chunks(read, &planned).await;
        whole
    }

    /// How many chunks were read and joined to the same table.
    async fn in_chunks(&self, read: &Read, whole: &Table) -> usize {
        let Some(cut) = cut(read, self.ground.now_ms / 1_000) else { return 0 };
        let chunks = futures_util::stream::iter(&cut.chunks).map(|chunk| self.points(&chunk.read));
        let mut joined: Vec<Point> = chunks.buffered(CHUNKS_AT_ONCE).collect::<Vec<_>>().await.concat();
        joined.retain(|point| cut.keeps(point.at));
        let joined = table(&joined);
        let is_same = joined.keys().eq(whole.keys())
            && joined.iter().zip(whole.values()).all(|((_, one), other)| {
                let measured = read.measures.iter().zip(one).zip(other);
                measured.into_iter().all(|((measure, one), other)| is_same(*measure, *one, *other))
            });
        assert!(is_same, "{} in {} chunks: {joined:?} {whole:?}", self.question, cut.chunks.len());
        cut.chunks.len()
    }

    /// One instance answers from ClickHouse, another from what it remembers of an earlier range and from ClickHouse, and the
    /// first again from what it remembers: all as expected. `false` when they are only as good as that.
    async fn answered(&self, expected: &Value, is_of_users: bool) -> bool {
        let mut is_exact = true;
        let [one, other] = &self.ground.services;
        let earlier = self.question.earlier();
        // What is read from minutes may reach back to where there are none any more.
        if self.ground.plan(&earlier).is_ok() {
            let reply = self.put(other, &earlier).await;
            assert_eq!(reply.status, 200, "{earlier}: {reply:?}");
        }
        for (service, status) in [(one, None), (other, None), (one, Some("HIT"))] {
            let reply = self.put(service, self.question).await;
            assert_eq!(reply.status, 200, "{}: {reply:?}", self.question);
            assert!(status.is_none_or(|status| reply.header("x-cache") == status), "{}: {reply:?}", self.question);
            for (name, part) in expected.as_object().unwrap().iter().filter(|(name, _)| *name != "meta") {
                let told = &reply.body[name];
                let is_same = told == part || is_of_users && is_same_answer(told, part);
                assert!(is_same, "{} {name}: {told} {part}", self.question);
                is_exact &= told == part;
            }
            let meta = expected["meta"].as_object().unwrap().iter();
            // Which event is the newest is looked up when an answer is made: `newest_event.rs` asks for that.
            for (name, part) in meta.filter(|(name, _)| !name.starts_with("newest_event")) {
                assert_eq!(reply.body["meta"][name], *part, "{} meta.{name}", self.question);
            }
        }
        is_exact
    }

    async fn put(&self, service: &Service, question: &Question) -> Reply {
        match question.put() {
            Form::Document(document) => service.post(self.project, "/v1/query", document.to_string()).await,
            Form::Series(name, params) => service.get(self.project, &format!("/v1/metrics/{name}?{params}")).await,
        }
    }
}
