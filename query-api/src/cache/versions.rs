//! Which state of the data a question is about: the stamp of its days.
//!
//! ```text
//! with Redis   HGETALL tallyhouse:days:{project} on first use, then what `tallyhouse:touched` says has changed
//!              run_id of INFO server: counters mean something only as long as the same server process counts
//! embedded     the versions that the ingester of this process raises
//! neither      unknown
//! ```
//!
//! A server that comes back with a snapshot, and a replica that takes over, may have lost the last counts together with
//! nothing else: the same sums then mean other data. So nothing of before a restart of Redis is asked for after it.
//!
//! With Redis its hash is the authority, and counters of this process never enter a key that is shared. Whatever Redis
//! does not say is *unknown*: then answers live by their short time. The stamp is taken before the data is read, so a
//! computation that an insert overtakes is kept under the older stamp, which nobody asks for any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_redis::redis;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tallyhouse_service::day_versions::{Day, DayVersions, Touched};
use tallyhouse_service::touched::{
    self, ALL, CHANNEL as TOUCHED, CLEARED, DAYS_KEY, GENERATIONS, INCARNATION, SINCE, cleared_field,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Patience;
use super::flight::{Flights, Lost};
use super::known::{Fetched, Known, Link, Look, Moment, Reread, Slot};
use super::purges::Purges;
use super::shared::{Away, Request, Shared};
use super::stamp::{DaysStamp, Generation, Stamp};
use crate::Clock;

/// The name that the server process gave itself when it started; empty where nobody may ask for it.
const RUN: &str = "local info = redis.pcall('INFO', 'server')
return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''";

/// Between two pings of the subscription, and how long each may take: a connection that hangs is noticed.
const PING: Duration = Duration::from_secs(1);

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
    reading: Flights<String, Result<Duration, Away>>,
}

impl Versions {
    /// From Redis if there is one, else from the ingester of this process if it has one.
    pub fn new(shared: Option<Arc<Shared>>, process: Option<DayVersions>, clock: Clock) -> Self {
        let source = match (shared, process) {
            (Some(shared), _) => {
                Source::Fleet(Arc::new(Fleet { shared, known: Mutex::default(), reading: Flights::default() }))
            }
            (None, Some(days)) => Source::Process(days),
            (None, None) => Source::Nobody,
        };
        Self { source, purges: Arc::default(), clock }
    }

    /// The stamp of these days, all of them over, of a project. A change after quiet is in it at once, more of them once in
    /// half a second: each costs an answer.
    pub async fn stamp(&self, project: &str, days: RangeInclusive<Day>, patience: &Patience) -> Stamp {
        let (here, slot) = (self.purges.generation(project), Slot::at((self.clock)()));
        match &self.source {
            Source::Nobody => Stamp { generation: here, days: DaysStamp::Unknown },
            Source::Process(versions) => {
                let (epoch, sum) = versions.of(project, days, slot.0);
                Stamp { generation: here, days: DaysStamp::Known { epoch, sum } }
            }
            Source::Fleet(fleet) => match fleet.stamp(project, days, slot, patience).await {
                Some(stamp) => stamp,
                None => {
                    let generation = fleet.known().generation(project).unwrap_or(here);
                    Stamp { generation, days: DaysStamp::Unknown }
                }
            },
        }
    }

    /// Makes every key of the project, or of all, another one. Tells whether all instances learn of it.
    pub async fn clear(&self, project: Option<&str>) -> Result<(), Away> {
        self.purges.raise(project);
        let Source::Fleet(fleet) = &self.source else { return Ok(()) };
        let sent = fleet.shared.ask::<()>(Request::Many(touched::clearing(project))).await;
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
                    some.iter().for_each(|touched| fleet.known().heard(&touched.project, [touched.day]));
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
        tokio::select! {
            () = listening => {}
            () = stopped.cancelled() => {}
        }
    }
}

impl Fleet {
    /// `None` when Redis does not say.
    async fn stamp(
        self: &Arc<Self>,
        project: &str,
        days: RangeInclusive<Day>,
        slot: Slot,
        patience: &Patience,
    ) -> Option<Stamp> {
        // Twice: a reading that somebody else began may have been overtaken by a message.
        for _ in 0..2 {
            let now = Moment { at: Instant::now(), slot };
            let look = self.known().look(project, days.clone(), now);
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
        match self.known().look(project, days, Moment { at: Instant::now(), slot }) {
            Look::Known(stamp) => Some(stamp),
            Look::ReadAll | Look::Read(_) => None,
        }
    }

    async fn read(&self, project: &str, look: Look, now: Moment, patience: &Patience) -> Result<(), Away> {
        let begun = self.known().reading(project, now);
        let read = match look {
            Look::Known(_) => return Ok(()),
            Look::ReadAll => {
                self.read_all(project, patience).await.map(|all| self.known().took_all(project, begun, all))
            }
            Look::Read(days) => {
                self.read_days(project, &days, patience).await.map(|read| self.known().took(project, begun, read))
            }
        };
        read.inspect_err(|_| self.known().took_nothing(project))
    }

    async fn read_all(&self, project: &str, patience: &Patience) -> Result<Fetched, Away> {
        let mut commands = redis::pipe();
        commands.cmd("HMGET").arg(GENERATIONS).arg(&[INCARNATION, ALL, &cleared_field(Some(project))]);
        commands.hgetall(format!("{DAYS_KEY}{project}")).cmd("EVAL").arg(RUN).arg(0);
        type Read = (Vec<Option<String>>, HashMap<String, String>, String);
        let (generations, days, run): Read = self.shared.ask_for(patience, Request::Many(commands)).await?;
        let number = |place: usize| generations.get(place).and_then(Option::as_ref).and_then(|text| text.parse().ok());
        let data = match number(0) {
            Some(data) => data,
            None => self.begin(patience).await?,
        };
        let generation = Generation::Fleet {
            incarnation: incarnation(data, &run),
            all: number(1).unwrap_or(0),
            project: number(2).unwrap_or(0),
        };
        let since = days.get(SINCE).and_then(|since| since.parse().ok()).unwrap_or(0);
        // A field that is no day, or no number, is not the ingester's.
        let versions: BTreeMap<Day, u64> =
            days.iter().filter_map(|(day, version)| Some((day.parse().ok()?, version.parse().ok()?))).collect();
        Ok(Fetched { generation, since, versions })
    }

    /// Names the data of a Redis that is new or came back empty; another instance may be first. Only then is anything written
    /// here: a Redis that is full still says what it holds.
    async fn begin(&self, patience: &Patience) -> Result<u64, Away> {
        let mut commands = redis::pipe();
        commands.hset_nx(GENERATIONS, INCARNATION, rand::random::<u64>()).ignore().hget(GENERATIONS, INCARNATION);
        let (data,) = self.shared.ask_for(patience, Request::Many(commands)).await?;
        Ok(data)
    }

    async fn read_days(&self, project: &str, days: &[Day], patience: &Patience) -> Result<Reread, Away> {
        let mut command = redis::cmd("HMGET");
        command.arg(format!("{DAYS_KEY}{project}")).arg(SINCE).arg(days);
        let read: Vec<Option<u64>> = self.shared.ask_for(patience, Request::One(command)).await?;
        let mut read = read.into_iter().map(Option::unwrap_or_default);
        let since = read.next().unwrap_or(0);
        Ok(Reread { since, versions: days.iter().copied().zip(read).collect() })
    }

    /// Subscribed until something fails.
    async fn listen(&self, link: Link, cleared: &impl Fn(Option<&str>)) -> Result<(), ListenError> {
        let mut subscription = timeout(PING, self.shared.listen()).await??;
        timeout(PING, subscription.subscribe(&[TOUCHED, CLEARED])).await??;
        self.known().linked(link);
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
                _ = ping.tick() => { timeout(PING, sink.ping::<()>()).await??; }
            }
        }
    }

    fn heard_touched(&self, text: &str) {
        if let Some((project, days)) = touched::heard(text) {
            self.known().heard(project, days);
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
}

/// What counts: the data of Redis, and the process that holds it. One without a name is not told apart from the one before.
fn incarnation(data: u64, run: &str) -> u64 {
    let digest = Sha256::new().chain_update(data.to_le_bytes()).chain_update(run).finalize();
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
    use tallyhouse_service::day_versions::Touched;

    use super::*;
    use crate::metrics::Metrics;

    fn now() -> Moment {
        Moment { at: Instant::now(), slot: Slot(0) }
    }

    fn fleet() -> Fleet {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        // Nobody listens there; nothing is asked.
        let shared = Shared::new("redis://127.0.0.1:1", metrics, Arc::new(|| 0)).unwrap();
        let fleet = Fleet { shared: Arc::new(shared), known: Mutex::default(), reading: Flights::default() };
        fleet.known().linked(1);
        for project in ["p", "q"] {
            let begun = fleet.known().reading(project, now());
            let generation = Generation::Fleet { incarnation: 1, all: 0, project: 0 };
            let fetched = Fetched { generation, since: 0, versions: BTreeMap::from([(1, 1), (2, 1)]) };
            fleet.known().took_all(project, begun, fetched);
        }
        fleet
    }

    async fn stamp(versions: &Versions) -> Stamp {
        versions.stamp("p", 1..=7, &Patience::default()).await
    }

    fn look(fleet: &Fleet, project: &str) -> Look {
        fleet.known().look(project, 1..=2, now())
    }

    #[test]
    fn another_redis_or_the_same_started_again_is_another_incarnation() {
        let one = incarnation(1, "aa");
        assert_eq!(incarnation(1, "aa"), one);
        for other in [incarnation(1, "ab"), incarnation(2, "aa"), incarnation(1, ""), incarnation(2, "")] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn a_message_of_the_ingester_names_a_project_and_days() {
        let fleet = fleet();
        fleet.heard_touched("p 2 9");
        assert_eq!(look(&fleet, "p"), Look::Read(vec![2, 9]));
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
        let versions = Versions::new(None, Some(days.clone()), Arc::new(|| 0));
        let before = stamp(&versions).await;
        days.raise(&[Touched { project: "p".into(), day: 8 }, Touched { project: "q".into(), day: 3 }]);
        assert_eq!(stamp(&versions).await, before);
        days.raise(&[Touched { project: "p".into(), day: 3 }]);
        assert_ne!(stamp(&versions).await, before);
        assert!(!before.generation.is_shared(), "counters of a process are not shared");
    }

    #[tokio::test]
    async fn a_trickle_in_the_process_moves_the_stamp_twice_a_second() {
        let (days, now_ms) = (DayVersions::default(), Arc::new(AtomicI64::new(0)));
        let clock = Arc::clone(&now_ms);
        let clock: Clock = Arc::new(move || clock.load(Ordering::SeqCst));
        let versions = Versions::new(None, Some(days.clone()), clock);
        let late = [Touched { project: "p".into(), day: 3 }];
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
        let versions = Versions::new(None, None, Arc::new(|| 0));
        let before = stamp(&versions).await;
        assert_eq!(before.days, DaysStamp::Unknown);
        assert_eq!(versions.clear(None).await, Ok(()));
        let after = stamp(&versions).await;
        assert_ne!(after.generation, before.generation);
        assert_eq!(versions.clear(Some("q")).await, Ok(()));
        assert_eq!(stamp(&versions).await.generation, after.generation, "q was cleared");
        let days = BTreeSet::from([Touched { project: "p".into(), day: 3 }]);
        assert_eq!(versions.raise(&days).await, Ok(()));
        assert_ne!(stamp(&versions).await.generation, after.generation, "nobody counts, so it is cleared");
    }
}
