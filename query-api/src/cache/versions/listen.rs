//! The subscription to Redis: which days and hours changed, and which projects were cleared.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tallyhouse_service::changed_days::{self, CHANNEL as TOUCHED, CLEARED};
use tallyhouse_service::redis::{self, SubscribeError};
use tokio::time::timeout;

use super::super::day_version_table::Link;
use super::fleet::Fleet;

/// Between two pings of the subscription.
const PING: Duration = Duration::from_millis(250);

/// How long each may take: a connection that hangs is noticed.
const PONG_WITHIN: Duration = Duration::from_secs(1);

/// Before subscribing again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(250);

impl Fleet {
    /// Subscribed until something fails.
    pub(super) async fn listen(&self, link: Link, cleared: &impl Fn(Option<&str>)) -> Result<(), ListenError> {
        let mut subscription = self.shared.listen().await?;
        let began = Instant::now();
        timeout(PONG_WITHIN, subscription.subscribe(&[TOUCHED, CLEARED])).await??;
        self.table().linked(link, began);
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
                        self.heard_changed(&text);
                    }
                }
                () = self.moved.notified() => return Err(ListenError::Moved),
                _ = ping.tick() => {
                    let sent = Instant::now();
                    timeout(PONG_WITHIN, sink.ping::<()>()).await??;
                    self.table().link_lives(sent);
                }
            }
        }
    }

    fn heard_changed(&self, text: &str) {
        if let Some((project, units)) = changed_days::heard(text) {
            self.table().heard(&project, units);
        }
    }

    fn heard_cleared(&self, text: &str, cleared: &impl Fn(Option<&str>)) {
        let project = changed_days::heard_cleared(text);
        self.table().cleared(project);
        cleared(project);
    }
}

/// Why a subscription ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    #[error("{0}")]
    NotOpened(#[from] SubscribeError),
    #[error("no answer in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("Redis is another one")]
    Moved,
    #[error("closed by Redis")]
    Closed,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tallyhouse_service::changed_days::ALL;
    use tallyhouse_service::day_versions::{Span, Unit};
    use tallyhouse_service::metrics::Registry;

    use super::super::super::day_version_table::{Fetched, Moment, Slot, VersionLookup};
    use super::super::super::shared::SharedCache;
    use super::super::super::stamp::Generation;
    use super::*;
    use crate::telemetry::Metrics;

    fn now() -> Moment {
        Moment { at: Instant::now(), slot: Slot(0) }
    }

    fn fleet() -> Fleet {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        // Nobody listens there; nothing is asked.
        let shared =
            SharedCache::new(&"redis://127.0.0.1:1".parse().unwrap(), metrics.clone(), Arc::new(|| 0)).unwrap();
        let fleet = Fleet::new(Arc::new(shared), metrics);
        fleet.table().linked(1, Instant::now() + Duration::from_secs(86_400));
        for project in ["p", "q"] {
            let begun = fleet.table().reading(project, now());
            let generation = Generation::Fleet { incarnation: 1, all: 0, project: 0 };
            let fetched =
                Fetched { generation, since: 0, versions: BTreeMap::from([(Unit::Day(1), 1), (Unit::Day(2), 1)]) };
            fleet.table().took_all(project, begun, fetched);
        }
        fleet
    }

    /// Long after the days, so that they are looked at by days.
    fn look_up(fleet: &Fleet, project: &str) -> VersionLookup {
        fleet.table().look_up(project, &Span::between(86_400, 3 * 86_400, 1_000_000), now())
    }

    #[test]
    fn a_message_of_the_ingester_names_a_project_and_days() {
        let fleet = fleet();
        fleet.heard_changed("p 2 9");
        let units = [Unit::Day(2), Unit::Day(9), Unit::Whole(2), Unit::Whole(9)];
        assert_eq!(look_up(&fleet, "p"), VersionLookup::Read(units.to_vec()));
        assert!(matches!(look_up(&fleet, "q"), VersionLookup::Known(_)));
        // What is not the ingester's is not understood, and harms nobody.
        for nonsense in ["", " ", "q", "q x", "q 99999999999999999999", "\u{0}"] {
            fleet.heard_changed(nonsense);
        }
        assert!(matches!(look_up(&fleet, "q"), VersionLookup::Known(_)));
    }

    #[test]
    fn what_another_instance_cleared_is_read_anew_and_told() {
        let fleet = fleet();
        let told = Mutex::new(Vec::new());
        let cleared = |project: Option<&str>| told.lock().unwrap().push(project.map(str::to_owned));
        fleet.heard_cleared("project:p", &cleared);
        assert_eq!(look_up(&fleet, "p"), VersionLookup::ReadAll);
        assert!(matches!(look_up(&fleet, "q"), VersionLookup::Known(_)));
        fleet.heard_cleared(ALL, &cleared);
        assert_eq!(look_up(&fleet, "q"), VersionLookup::ReadAll);
        assert_eq!(*told.lock().unwrap(), [Some("p".to_owned()), None]);
    }
}
