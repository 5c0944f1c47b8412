//! Load at a steady rate, whatever the answers: batches leave on time, each is tried until it is taken, and a tenth of the
//! events leave once more, in another batch, a second later.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::client::{Client, ClientConfig, Delivery, Outgoing};
use crate::generate::{Facts, Generator, Spread};
use crate::ledger::Ledger;
use crate::poison::REFUSED_BY_STORE;
use crate::writers::WritersError;

const TICK: Duration = Duration::from_millis(40);
const REPEATED: f64 = 0.1;
const REPEATED_AFTER: Duration = Duration::from_secs(1);
/// Batches under way; when there are more, the rate drops instead of memory growing.
const UNDER_WAY: usize = 2_000;

/// How much load there is.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    pub client: ClientConfig,
    pub rate: u32,
    /// Makes the events' ids and contents, and chooses which are repeated.
    pub run: u32,
    /// One in so many events is poison.
    pub poison: Option<NonZeroU64>,
}

/// What was sent and what became of it.
#[derive(Debug, Default)]
pub struct Sent {
    pub ledger: Ledger,
    /// Events that were sent twice.
    pub repeated: u64,
    /// Tries that were handed back.
    pub handed_back: u64,
    /// What the last of them was told.
    pub told: Option<String>,
    /// Tries without an answer.
    pub unanswered: u64,
    /// Ticks without a batch because too many were under way.
    pub withheld: u64,
    /// The longest time without any acknowledgement.
    pub longest_gap: Duration,
}

struct Done {
    delivery: Delivery,
    fresh: Vec<(String, Facts)>,
}

/// Sends until `stop` is true, then waits until all is delivered.
pub async fn run(config: &LoadConfig, mut stop: watch::Receiver<bool>) -> Result<Sent, WritersError> {
    let client = Arc::new(Client::new(&config.client)?);
    let mut generator = Generator::new(config.run, 0, Spread::Recent).with_poison(config.poison);
    let mut rng = StdRng::seed_from_u64(config.run.into());
    let batch = (f64::from(config.rate) * TICK.as_secs_f64()).ceil() as usize;
    let mut again: VecDeque<(Instant, Outgoing)> = VecDeque::new();
    let mut under_way: JoinSet<Result<Done, WritersError>> = JoinSet::new();
    let mut sent = Sent::default();
    let mut last_ack = Instant::now();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                sent.note(done??, &mut last_ack);
            }
            _ = tick.tick() => {
                if under_way.len() >= UNDER_WAY {
                    sent.withheld += 1;
                    continue;
                }
                let now = Instant::now();
                let (mut events, facts): (Vec<Outgoing>, Vec<Facts>) =
                    (0..batch).map(|_| generator.next(Timestamp::now())).unzip();
                let fresh = events.iter().map(|event| event.id.clone()).zip(facts).collect();
                let chosen: Vec<Outgoing> = events.iter().filter(|_| rng.random_bool(REPEATED)).cloned().collect();
                while again.front().is_some_and(|(due, _)| *due <= now) {
                    events.extend(again.pop_front().map(|(_, event)| event));
                    sent.repeated += 1;
                }
                again.extend(chosen.into_iter().map(|event| (now + REPEATED_AFTER, event)));
                under_way.spawn(deliver(Arc::clone(&client), events, fresh));
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        sent.note(done??, &mut last_ack);
    }
    Ok(sent)
}

async fn deliver(
    client: Arc<Client>,
    events: Vec<Outgoing>,
    fresh: Vec<(String, Facts)>,
) -> Result<Done, WritersError> {
    let mut delivery = client.deliver(&events).await?;
    delivery.rejected.retain(|rejection| rejection.code != REFUSED_BY_STORE);
    match delivery.rejected.pop() {
        Some(rejection) => Err(WritersError::Rejected(rejection.code)),
        None => Ok(Done { delivery, fresh }),
    }
}

impl Sent {
    fn note(&mut self, done: Done, last_ack: &mut Instant) {
        self.longest_gap = self.longest_gap.max(last_ack.elapsed());
        *last_ack = Instant::now();
        self.handed_back += u64::from(done.delivery.handed_back);
        self.told = done.delivery.told.or(self.told.take());
        self.unanswered += u64::from(done.delivery.unanswered);
        for (id, facts) in done.fresh {
            self.ledger.enter(id, &facts);
        }
    }
}
