//! Reads Redis: the list of writers, the identity of the server and its data, and the versions of a project's days and hours.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tallyhouse_service::changed_days::{
    self, ALL, DAYS_KEY, GENERATIONS, INCARNATION, SINCE, WRITERS, cleared_field, hour_field, hour_of, with_hours_field,
};
use tallyhouse_service::day_versions::{Hour, Unit};
use tallyhouse_service::redis;

use super::super::RedisTimeBudget;
use super::super::day_version_table::{Fetched, Moment, Reread, VersionLookup};
use super::super::heartbeats::Reading;
use super::super::shared::{Away, Request};
use super::super::stamp::Generation;
use super::fleet::Fleet;

/// The names that the server process gave itself when it started, and to the data that it holds or copies; empty where nobody may ask
/// for them.
const RUN: &str = "local function named(section, name)
    local info = redis.pcall('INFO', section)
    return type(info) == 'string' and string.match(info, name .. ':(%w+)') or ''
end
return named('server', 'run_id') .. ' ' .. named('replication', 'master_replid')";

impl Fleet {
    /// Reads who writes, and what Redis is.
    pub(super) async fn read_heartbeats(&self, cleared: &impl Fn(Option<&str>)) -> Result<(), Away> {
        let sent = Instant::now();
        let reply = self.shared.ask(Request::Many(heartbeat_reading())).await?;
        self.took_heartbeats(sent, reply, cleared).await
    }

    pub(super) async fn took_heartbeats(
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
            let mut heartbeats = self.heartbeats();
            let is_other = heartbeats.took(sent, reading);
            (is_other, heartbeats.outlived(sent), heartbeats.silent(sent).len())
        };
        self.metrics.cache.silent_writers(silent);
        if is_other {
            tracing::info!("Redis is another one, or lost something: no answer from before is given again");
            self.table().cleared(None);
            cleared(None);
            self.moved.notify_one();
        }
        if !outlived.is_empty() {
            let mut commands = redis::pipe();
            changed_days::without(&mut commands, &outlived);
            self.shared.ask::<()>(Request::Many(commands)).await?;
        }
        Ok(())
    }

    pub(super) async fn read(
        &self,
        project: &str,
        lookup: VersionLookup,
        now: Moment,
        redis_time: &RedisTimeBudget,
    ) -> Result<(), Away> {
        let begun = self.table().reading(project, now);
        let read = match lookup {
            VersionLookup::Known(_) => return Ok(()),
            VersionLookup::ReadAll => {
                self.read_all(project, redis_time).await.map(|all| self.table().took_all(project, begun, all))
            }
            VersionLookup::Read(units) => {
                self.read_units(project, &units, redis_time).await.map(|read| self.table().took(project, begun, read))
            }
        };
        read.inspect_err(|_| self.table().took_nothing(project))
    }

    async fn read_all(&self, project: &str, redis_time: &RedisTimeBudget) -> Result<Fetched, Away> {
        let key = format!("{DAYS_KEY}{project}");
        let mut commands = redis::pipe();
        commands.cmd("HMGET").arg(GENERATIONS).arg(&[INCARNATION, ALL, &cleared_field(Some(project))]);
        commands.cmd("HGETALL").arg(&key).cmd("HGET").arg(WRITERS).arg(SINCE).cmd("EVAL").arg(RUN).arg(0);
        type Read = (Vec<Option<String>>, HashMap<String, String>, Option<String>, String);
        let (generations, mut fields, list, run): Read =
            self.shared.ask_for(redis_time, Request::Many(commands)).await?;
        let number = |place: usize| generations.get(place).and_then(Option::as_ref).and_then(|text| text.parse().ok());
        let data = match number(0) {
            Some(data) => data,
            None => self.shared.ask_for::<(u64,)>(redis_time, Request::Many(begin())).await?.0,
        };
        if !fields.contains_key(SINCE) {
            // Never there, or lost: whatever was known of it is of another one.
            let mut commands = changed_days::beginning(project);
            commands.cmd("HGETALL").arg(&key);
            (fields,) = self.shared.ask_for(redis_time, Request::Many(commands)).await?;
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

    async fn read_units(&self, project: &str, units: &[Unit], redis_time: &RedisTimeBudget) -> Result<Reread, Away> {
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
        let read: Vec<Option<u64>> = self.shared.ask_for(redis_time, Request::One(command)).await?;
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
}

/// The list of writers, the name of the data, and the names of the process.
pub(super) type Felt = (HashMap<String, String>, Option<String>, String);

/// Asks for [`Felt`].
pub(super) fn heartbeat_reading() -> redis::Pipeline {
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

#[cfg(test)]
mod tests {
    use super::incarnation;

    #[test]
    fn another_redis_or_the_same_started_again_is_another_incarnation() {
        let one = incarnation(1, "aa", "b");
        assert_eq!(incarnation(1, "aa", "b"), one);
        for other in [(1, "ab", "b"), (2, "aa", "b"), (1, "", "b"), (2, "", ""), (1, "aa", "")] {
            let other = incarnation(other.0, other.1, other.2);
            assert_ne!(other, one);
        }
    }
}
