//! Which state of the data a question is about: the stamp of its days and hours.
//!
//! ```text
//! with Redis   tallyhouse:writers, four times a second: whether versions can be believed (`pulse.rs`)
//!              HGETALL tallyhouse:days:{project} on first use, then what `tallyhouse:touched` says has changed
//!              run_id and master_replid of INFO: counters mean something only as long as the same process counts the same data
//! embedded     the versions that the ingester of this process raises
//! neither      unknown
//! ```
//!
//! A server that comes back with a snapshot, and a replica that takes over, may have lost the last counts together with
//! nothing else: the same sums then mean other data. So nothing of before a restart of Redis is asked for after it.
//!
//! With Redis its hash is the authority, and counters of this process never enter a key that is shared. Whatever Redis
//! does not say is *unknown*: then answers live by their short time. That is so of a hash that is not there, whether it never was or
//! was evicted: whoever asks for it begins one, with a number of its own, and where that cannot be written nobody knows. The stamp
//! is taken before the data is read, so a computation that an insert overtakes is kept under the older stamp, which nobody asks for
//! any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_redis::redis;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tallyhouse_service::day_versions::{DayVersions, Hour, Span, Touched, Unit};
use tallyhouse_service::touched::{
    self, ALL, CHANNEL as TOUCHED, CLEARED, DAYS_KEY, GENERATIONS, INCARNATION, SINCE, WRITERS, cleared_field,
    hour_field, hour_of, with_hours_field,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Patience;
use super::flight::{Flights, Lost};
use super::known::{Fetched, Known, Link, Look, Moment, Reread, Slot};
use super::pulse::{Doubt, Pulse, READ_EVERY, Reading};
use super::purges::Purges;
use super::shared::{Away, Request, Shared};
use super::stamp::{DaysStamp, Generation, Proven, Stamp};
use crate::Clock;
use crate::metrics::Metrics;

/// The names that the server process gave itself when it started, and to the data that it holds or copies; empty where nobody may ask
/// for them.
const RUN: &str = "local function named(section, name)
    local info = redis.pcall('INFO', section)
    return type(info) == 'string' and string.match(info, name .. ':(%w+)') or ''
end
return named('server', 'run_id') .. ' ' .. named('replication', 'master_replid')";

/// Between two pings of the subscription.
const PING: Duration = Duration::from_millis(250);

/// How long each may take: a connection that hangs is noticed.
const PONG_WITHIN: Duration = Duration::from_secs(1);

/// Before subscribing again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Tells stamps. Clones share what they know.
#[derive(Clone)]
pub struct Versions {
    source: Source,
    purges: Arc<Purges>,
    clock: Clock,
}

#[derive(Clone)]
enum Source {
    Nobody,
    Process(DayVersions),
    Fleet(Arc<Fleet>),
}

struct Fleet {
    shared: Arc<Shared>,
    known: Mutex<Known>,
    pulse: Mutex<Pulse>,
    reading: Flights<String, Result<Duration, Away>>,
    /// The first reading of the pulse.
    feeling: Flights<(), Result<Duration, Away>>,
    metrics: Metrics,
}

impl Fleet {
    fn new(shared: Arc<Shared>, metrics: Metrics) -> Self {
        Self {
            shared,
            known: Mutex::default(),
            pulse: Mutex::default(),
            reading: Flights::default(),
            feeling: Flights::default(),
            metrics,
        }
    }
}

impl Versions {
    /// From Redis if there is one, else from the ingester of this process if it has one.
    pub fn new(shared: Option<Arc<Shared>>, process: Option<DayVersions>, clock: Clock, metrics: Metrics) -> Self {
        let source = match (shared, process) {
            (Some(shared), _) => Source::Fleet(Arc::new(Fleet::new(shared, metrics))),
            (None, Some(days)) => Source::Process(days),
            (None, None) => Source::Nobody,
        };
        Self { source, purges: Arc::default(), clock }
    }

    /// The stamp of these days and hours, all of them over, of a project. A change after quiet is in it at once, more of them once in
    /// half a second: each costs an answer.
    pub async fn stamp(&self, project: &str, span: &Span, patience: &Patience) -> Stamp {
        let (here, slot) = (self.purges.generation(project), Slot::at((self.clock)()));
        match &self.source {
            Source::Nobody => Stamp { generation: here, days: DaysStamp::Unknown },
            Source::Process(versions) => {
                let (epoch, sum) = versions.of(project, span, slot.0);
                Stamp { generation: here, days: DaysStamp::Known { epoch, sum } }
            }
            Source::Fleet(fleet) => match fleet.stamp(project, span, slot, patience).await {
                Some(stamp) => {
                    if !span.is_empty() {
                        fleet.known().prove(project, (self.clock)());
                    }
                    stamp
                }
                None => {
                    let generation = fleet.known().generation(project).unwrap_or(here);
                    Stamp { generation, days: DaysStamp::Unknown }
                }
            },
        }
    }

    /// What the data was when its stamp could last be told.
    pub fn proven(&self, project: &str, span: &Span) -> Option<Proven> {
        let Source::Fleet(fleet) = &self.source else { return None };
        let (days, at_ms) = fleet.known().proven(project, span)?;
        Some(Proven { days, at_ms })
    }

    /// Makes every key of the project, or of all, another one. Tells whether all instances learn of it. With all that is remembered
    /// gone, nobody has to wait for writers that are silent: what they did not tell does no harm any more.
    pub async fn clear(&self, project: Option<&str>) -> Result<(), Away> {
        self.purges.raise(project);
        let Source::Fleet(fleet) = &self.source else { return Ok(()) };
        let mut commands = touched::clearing(project);
        if project.is_none() {
            touched::without(&mut commands, &fleet.pulse().silent(Instant::now()));
        }
        let sent = fleet.shared.ask::<()>(Request::Many(commands)).await;
        fleet.known().cleared(project);
        sent
    }

    /// Raises the versions of days that somebody changed who cannot raise them: a tool without Redis. Where nobody counts
    /// versions, the projects are cleared instead; `Err` when Redis did not take them all.
    pub async fn raise(&self, days: &BTreeSet<Touched>) -> Result<(), Away> {
        match &self.source {
            Source::Nobody => {
                days.iter().for_each(|touched| self.purges.raise(Some(&touched.project)));
                Ok(())
            }
            Source::Process(versions) => {
                versions.raise(&days.iter().cloned().collect::<Vec<_>>());
                Ok(())
            }
            Source::Fleet(fleet) => {
                let mut some = touched::next(days, None);
                while !some.is_empty() {
                    fleet.shared.ask::<()>(Request::Many(touched::commands(&some))).await?;
                    // Here at once, whatever becomes of the message.
                    some.iter().for_each(|touched| fleet.known().heard(&touched.project, touched.units()));
                    some = touched::next(days, some.last());
                }
                Ok(())
            }
        }
    }

    /// Listens to what changes until `stopped`; `cleared` is told which project another process cleared.
    pub async fn follow(&self, cleared: impl Fn(Option<&str>), stopped: CancellationToken) {
        let Source::Fleet(fleet) = &self.source else { return };
        let listening = async {
            for link in 1.. {
                if let Err(error) = fleet.listen(link, &cleared).await {
                    tracing::debug!(%error, "the subscription to Redis ended");
                }
                fleet.known().unlinked();
                sleep(AGAIN_AFTER).await;
            }
        };
        let feeling = async {
            let mut again = tokio::time::interval(READ_EVERY);
            again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                again.tick().await;
                // It has been counted; what is not read is not believed.
                let (Ok(()) | Err(Away)) = fleet.feel(&cleared).await;
            }
        };
        tokio::select! {
            () = listening => {}
            () = feeling => {}
            () = stopped.cancelled() => {}
        }
    }
}

impl Fleet {
    /// `None` when Redis does not say, or cannot be believed.
    async fn stamp(self: &Arc<Self>, project: &str, span: &Span, slot: Slot, patience: &Patience) -> Option<Stamp> {
        if !self.pulse().is_known() {
            self.feel_first(patience).await;
        }
        let stamp = self.counted(project, span, slot, patience).await;
        // Judged after the versions were read: they are no older than what vouches for them.
        match (stamp, self.pulse().doubt(Instant::now())) {
            (Some(stamp), None) => Some(stamp),
            // There is nothing to vouch for.
            (Some(stamp), Some(_)) if span.is_empty() => Some(stamp),
            (Some(_), Some(doubt)) => {
                self.metrics.cache.unknown(doubt);
                None
            }
            (None, doubt) => {
                self.metrics.cache.unknown(doubt.unwrap_or(Doubt::NoAnswer));
                None
            }
        }
    }

    async fn counted(self: &Arc<Self>, project: &str, span: &Span, slot: Slot, patience: &Patience) -> Option<Stamp> {
        // Three times: a reading that somebody else began may have been overtaken by a message, and one of days may find another hash.
        for _ in 0..3 {
            let now = Moment { at: Instant::now(), slot };
            let look = self.known().look(project, span, now);
            if let Look::Known(stamp) = look {
                return Some(stamp);
            }
            if patience.is_over() {
                return None;
            }
            let (fleet, name) = (Arc::clone(self), project.to_owned());
            let reading = || async move {
                let own = Patience::default();
                fleet.read(&name, look, now, &own).await.map(|()| own.spent())
            };
            match self.reading.join(project.to_owned(), reading).await.1 {
                Ok(Ok(took)) => patience.spend(took),
                Ok(Err(Away)) | Err(Lost) => {
                    patience.end();
                    return None;
                }
            }
        }
        match self.known().look(project, span, Moment { at: Instant::now(), slot }) {
            Look::Known(stamp) => Some(stamp),
            Look::ReadAll | Look::Read(_) => None,
        }
    }

    /// Who asks before the first reading waits for one.
    async fn feel_first(self: &Arc<Self>, patience: &Patience) {
        let fleet = Arc::clone(self);
        let reading = || async move {
            let (sent, own) = (Instant::now(), Patience::default());
            let felt = fleet.shared.ask_for(&own, Request::Many(feeling())).await?;
            fleet.felt(sent, felt, &|_: Option<&str>| {}).await.map(|()| own.spent())
        };
        match self.feeling.join((), reading).await.1 {
            Ok(Ok(took)) => patience.spend(took),
            Ok(Err(Away)) | Err(Lost) => patience.end(),
        }
    }

    /// Reads who writes, and what Redis is.
    async fn feel(&self, cleared: &impl Fn(Option<&str>)) -> Result<(), Away> {
        let sent = Instant::now();
        let felt = self.shared.ask(Request::Many(feeling())).await?;
        self.felt(sent, felt, cleared).await
    }

    async fn felt(
        &self,
        sent: Instant,
        (mut writers, data, run): Felt,
        cleared: &impl Fn(Option<&str>),
    ) -> Result<(), Away> {
        let list = writers.remove(SINCE);
        let data = match data.and_then(|data| data.parse().ok()) {
            Some(data) => data,
            None => self.shared.ask::<(u64,)>(Request::Many(begin())).await?.0,
        };
        let beats = writers.into_iter().filter_map(|(id, beat)| Some((id, beat.parse().ok()?)));
        let writers = list.is_some().then(|| beats.collect());
        let reading = Reading { data: incarnation(data, &run, list.as_deref().unwrap_or_default()), writers };
        let (is_other, outlived, silent) = {
            let mut pulse = self.pulse();
            let is_other = pulse.took(sent, reading);
            (is_other, pulse.outlived(sent), pulse.silent(sent).len())
        };
        self.metrics.cache.silent_writers(silent);
        if is_other {
            tracing::info!("Redis is another one, or lost something: no answer from before is given again");
            self.known().cleared(None);
            cleared(None);
        }
        if !outlived.is_empty() {
            let mut commands = redis::pipe();
            touched::without(&mut commands, &outlived);
            self.shared.ask::<()>(Request::Many(commands)).await?;
        }
        Ok(())
    }

    async fn read(&self, project: &str, look: Look, now: Moment, patience: &Patience) -> Result<(), Away> {
        let begun = self.known().reading(project, now);
        let read = match look {
            Look::Known(_) => return Ok(()),
            Look::ReadAll => {
                self.read_all(project, patience).await.map(|all| self.known().took_all(project, begun, all))
            }
            Look::Read(units) => {
                self.read_units(project, &units, patience).await.map(|read| self.known().took(project, begun, read))
            }
        };
        read.inspect_err(|_| self.known().took_nothing(project))
    }

    async fn read_all(&self, project: &str, patience: &Patience) -> Result<Fetched, Away> {
        let key = format!("{DAYS_KEY}{project}");
        let mut commands = redis::pipe();
        commands.cmd("HMGET").arg(GENERATIONS).arg(&[INCARNATION, ALL, &cleared_field(Some(project))]);
        commands.cmd("HGETALL").arg(&key).cmd("HGET").arg(WRITERS).arg(SINCE).cmd("EVAL").arg(RUN).arg(0);
        type Read = (Vec<Option<String>>, HashMap<String, String>, Option<String>, String);
        let (generations, mut fields, list, run): Read = self.shared.ask_for(patience, Request::Many(commands)).await?;
        let number = |place: usize| generations.get(place).and_then(Option::as_ref).and_then(|text| text.parse().ok());
        let data = match number(0) {
            Some(data) => data,
            None => self.shared.ask_for::<(u64,)>(patience, Request::Many(begin())).await?.0,
        };
        if !fields.contains_key(SINCE) {
            // Never there, or lost: whatever was known of it is of another one.
            let mut commands = touched::beginning(project);
            commands.cmd("HGETALL").arg(&key);
            (fields,) = self.shared.ask_for(patience, Request::Many(commands)).await?;
        }
        let generation = Generation::Fleet {
            incarnation: incarnation(data, &run, list.as_deref().unwrap_or_default()),
            all: number(1).unwrap_or(0),
            project: number(2).unwrap_or(0),
        };
        let since = fields.get(SINCE).and_then(|since| since.parse().ok()).ok_or(Away)?;
        let fetched = Fetched { generation, since, versions: versions(&fields) };
        self.tidy(key, &fetched.old_hours());
        Ok(fetched)
    }

    /// Removes hours that nobody looks at any more, beside the reader. One that stays is found by the next.
    fn tidy(&self, key: String, hours: &[Hour]) {
        if hours.is_empty() {
            return;
        }
        let mut command = redis::cmd("HDEL");
        command.arg(key).arg(hours.iter().map(|hour| hour_field(*hour)).collect::<Vec<_>>());
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            if shared.ask::<()>(Request::One(command)).await.is_err() {
                tracing::debug!("the versions of hours that are long over were not removed");
            }
        });
    }

    async fn read_units(&self, project: &str, units: &[Unit], patience: &Patience) -> Result<Reread, Away> {
        let mut command = redis::cmd("HMGET");
        command.arg(format!("{DAYS_KEY}{project}")).arg(SINCE);
        let names = |unit: &Unit| match *unit {
            Unit::Day(day) => vec![day.to_string()],
            Unit::Hour(hour) => vec![hour_field(hour)],
            Unit::Whole(day) => vec![day.to_string(), with_hours_field(day)],
        };
        units.iter().flat_map(names).for_each(|name| {
            command.arg(name);
        });
        let read: Vec<Option<u64>> = self.shared.ask_for(patience, Request::One(command)).await?;
        let mut read = read.into_iter().map(Option::unwrap_or_default);
        // None is the number of no hash.
        let since = read.next().unwrap_or(0);
        let mut next = || read.next().unwrap_or(0);
        let version = |unit: &Unit| match unit {
            Unit::Day(_) | Unit::Hour(_) => next(),
            Unit::Whole(_) => next().saturating_sub(next()),
        };
        let versions = units.iter().copied().zip(units.iter().map(version).collect::<Vec<_>>()).collect();
        Ok(Reread { since, versions })
    }

    /// Subscribed until something fails.
    async fn listen(&self, link: Link, cleared: &impl Fn(Option<&str>)) -> Result<(), ListenError> {
        let mut subscription = timeout(PONG_WITHIN, self.shared.listen()).await??;
        let began = Instant::now();
        timeout(PONG_WITHIN, subscription.subscribe(&[TOUCHED, CLEARED])).await??;
        self.known().linked(link, began);
        let (mut sink, mut messages) = subscription.split();
        let mut ping = tokio::time::interval(PING);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = message.ok_or(ListenError::Closed)?;
                    let text: String = message.get_payload()?;
                    if message.get_channel_name() == CLEARED {
                        self.heard_cleared(&text, cleared);
                    } else {
                        self.heard_touched(&text);
                    }
                }
                _ = ping.tick() => {
                    let sent = Instant::now();
                    timeout(PONG_WITHIN, sink.ping::<()>()).await??;
                    self.known().link_lives(sent);
                }
            }
        }
    }

    fn heard_touched(&self, text: &str) {
        if let Some((project, units)) = touched::heard(text) {
            self.known().heard(project, units);
        }
    }

    fn heard_cleared(&self, text: &str, cleared: &impl Fn(Option<&str>)) {
        let project = touched::heard_cleared(text);
        self.known().cleared(project);
        cleared(project);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The list of writers, the name of the data, and the names of the process.
type Felt = (HashMap<String, String>, Option<String>, String);

/// Asks for [`Felt`].
fn feeling() -> redis::Pipeline {
    let mut commands = redis::pipe();
    commands.cmd("HGETALL").arg(WRITERS).cmd("HGET").arg(GENERATIONS).arg(INCARNATION).cmd("EVAL").arg(RUN).arg(0);
    commands
}

/// Names the data of a Redis that is new or came back empty; another instance may be first. Only then is anything written
/// here: a Redis that is full still says what it holds.
fn begin() -> redis::Pipeline {
    let mut commands = redis::pipe();
    commands.hset_nx(GENERATIONS, INCARNATION, rand::random::<u64>()).ignore().hget(GENERATIONS, INCARNATION);
    commands
}

/// The versions in a project's hash. A field that is no time, or no number, is not the ingester's.
fn versions(fields: &HashMap<String, String>) -> BTreeMap<Unit, u64> {
    let number = |text: &String| text.parse::<u64>().ok();
    let mut versions = BTreeMap::new();
    for (name, version) in fields {
        let Some(version) = number(version) else { continue };
        if let Ok(day) = name.parse() {
            let with_hours = fields.get(&with_hours_field(day)).and_then(number).unwrap_or(0);
            versions.insert(Unit::Day(day), version);
            versions.insert(Unit::Whole(day), version.saturating_sub(with_hours));
        } else if let Some(hour) = hour_of(name) {
            versions.insert(Unit::Hour(hour), version);
        }
    }
    versions
}

/// What counts: the data of Redis, the process that holds it, and its list of writers. A process without a name is not told apart
/// from the one before.
fn incarnation(data: u64, run: &str, list: &str) -> u64 {
    let digest = Sha256::new().chain_update(data.to_le_bytes()).chain_update(run).chain_update([0]).chain_update(list);
    let digest = digest.finalize();
    digest.first_chunk().map_or(data, |first| u64::from_le_bytes(*first))
}

/// Why a subscription ended.
#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    #[error("no answer in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("closed by Redis")]
    Closed,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use prometheus::Registry;
    use tallyhouse_service::day_versions::Day;

    use super::*;

    /// Long after the days of these tests, so that they are looked at by days.
    const TODAY: Day = 1_000_000;

    fn span(from: i64, to: i64) -> Span {
        Span::between(from * 86_400, (to + 1) * 86_400, TODAY)
    }

    fn metrics() -> Metrics {
        Metrics::register(&Registry::new()).unwrap()
    }

    fn now() -> Moment {
        Moment { at: Instant::now(), slot: Slot(0) }
    }

    fn fleet() -> Fleet {
        let metrics = metrics();
        // Nobody listens there; nothing is asked.
        let shared = Shared::new("redis://127.0.0.1:1", metrics.clone(), Arc::new(|| 0)).unwrap();
        let fleet = Fleet::new(Arc::new(shared), metrics);
        fleet.known().linked(1, Instant::now() + Duration::from_secs(86_400));
        for project in ["p", "q"] {
            let begun = fleet.known().reading(project, now());
            let generation = Generation::Fleet { incarnation: 1, all: 0, project: 0 };
            let fetched =
                Fetched { generation, since: 0, versions: BTreeMap::from([(Unit::Day(1), 1), (Unit::Day(2), 1)]) };
            fleet.known().took_all(project, begun, fetched);
        }
        fleet
    }

    async fn stamp(versions: &Versions) -> Stamp {
        versions.stamp("p", &span(1, 7), &Patience::default()).await
    }

    fn look(fleet: &Fleet, project: &str) -> Look {
        fleet.known().look(project, &span(1, 2), now())
    }

    #[test]
    fn another_redis_or_the_same_started_again_is_another_incarnation() {
        let one = incarnation(1, "aa", "b");
        assert_eq!(incarnation(1, "aa", "b"), one);
        for other in [(1, "ab", "b"), (2, "aa", "b"), (1, "", "b"), (2, "", ""), (1, "aa", "")] {
            let other = incarnation(other.0, other.1, other.2);
            assert_ne!(other, one);
        }
    }

    #[test]
    fn a_message_of_the_ingester_names_a_project_and_days() {
        let fleet = fleet();
        fleet.heard_touched("p 2 9");
        let units = [Unit::Day(2), Unit::Day(9), Unit::Whole(2), Unit::Whole(9)];
        assert_eq!(look(&fleet, "p"), Look::Read(units.to_vec()));
        assert!(matches!(look(&fleet, "q"), Look::Known(_)));
        // What is not the ingester's is not understood, and harms nobody.
        for nonsense in ["", " ", "q", "q x", "q 99999999999999999999", "\u{0}"] {
            fleet.heard_touched(nonsense);
        }
        assert!(matches!(look(&fleet, "q"), Look::Known(_)));
    }

    #[test]
    fn what_another_instance_cleared_is_read_anew_and_told() {
        let fleet = fleet();
        let told = Mutex::new(Vec::new());
        let cleared = |project: Option<&str>| told.lock().unwrap().push(project.map(str::to_owned));
        fleet.heard_cleared("project:p", &cleared);
        assert_eq!(look(&fleet, "p"), Look::ReadAll);
        assert!(matches!(look(&fleet, "q"), Look::Known(_)));
        fleet.heard_cleared(ALL, &cleared);
        assert_eq!(look(&fleet, "q"), Look::ReadAll);
        assert_eq!(*told.lock().unwrap(), [Some("p".to_owned()), None]);
    }

    #[tokio::test]
    async fn the_ingester_of_the_process_is_heard_at_once() {
        let days = DayVersions::default();
        let versions = Versions::new(None, Some(days.clone()), Arc::new(|| 0), metrics());
        let before = stamp(&versions).await;
        days.raise(&[Touched::day("p", 8), Touched::day("q", 3)]);
        assert_eq!(stamp(&versions).await, before);
        days.raise(&[Touched::day("p", 3)]);
        assert_ne!(stamp(&versions).await, before);
        assert!(!before.generation.is_shared(), "counters of a process are not shared");
    }

    #[tokio::test]
    async fn a_trickle_in_the_process_moves_the_stamp_twice_a_second() {
        let (days, now_ms) = (DayVersions::default(), Arc::new(AtomicI64::new(0)));
        let clock = Arc::clone(&now_ms);
        let clock: Clock = Arc::new(move || clock.load(Ordering::SeqCst));
        let versions = Versions::new(None, Some(days.clone()), clock, metrics());
        let late = [Touched::day("p", 3)];
        let mut seen = Vec::new();
        for ms in 0..2_000 {
            now_ms.store(1_250 + ms, Ordering::SeqCst);
            if ms % 50 == 0 {
                days.raise(&late);
            }
            seen.push(stamp(&versions).await);
            seen.dedup();
        }
        assert_eq!(seen.len(), 5, "one for each slot: {seen:?}");
        now_ms.store(3_500, Ordering::SeqCst);
        let last = stamp(&versions).await;
        assert!(!seen.contains(&last), "the last one shows");
        now_ms.store(9_000, Ordering::SeqCst);
        assert_eq!(stamp(&versions).await, last);
        days.raise(&late);
        assert_ne!(stamp(&versions).await, last, "after quiet it shows at once");
    }

    #[tokio::test]
    async fn clearing_changes_every_generation_and_nobody_knows_without_a_source() {
        let versions = Versions::new(None, None, Arc::new(|| 0), metrics());
        let before = stamp(&versions).await;
        assert_eq!(before.days, DaysStamp::Unknown);
        assert_eq!(versions.clear(None).await, Ok(()));
        let after = stamp(&versions).await;
        assert_ne!(after.generation, before.generation);
        assert_eq!(versions.clear(Some("q")).await, Ok(()));
        assert_eq!(stamp(&versions).await.generation, after.generation, "q was cleared");
        let days = BTreeSet::from([Touched::day("p", 3)]);
        assert_eq!(versions.raise(&days).await, Ok(()));
        assert_ne!(stamp(&versions).await.generation, after.generation, "nobody counts, so it is cleared");
    }
}
