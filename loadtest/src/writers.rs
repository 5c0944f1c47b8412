//! Load that never gives up: workers that send generated batches, each until it is acknowledged, and keep the ledger.

use std::num::NonZeroU64;

use jiff::Timestamp;
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, ClientConfig, DeliveryError, Outgoing};
use crate::generate::{Facts, Generator, Spread};
use crate::ledger::Ledger;
use crate::poison::REFUSED_BY_STORE;
use tallyhouse_service::http_client::HttpError;

/// How much load there is.
#[derive(Debug, Clone)]
pub struct WritersConfig {
    pub client: ClientConfig,
    /// Workers, each with one connection and one batch under way.
    pub workers: u16,
    /// Events in a batch.
    pub batch: usize,
    /// Makes the events' ids and contents.
    pub run: u32,
    /// One in so many events is poison.
    pub poison: Option<NonZeroU64>,
}

/// Why the load ended early.
#[derive(Debug, thiserror::Error)]
pub enum WritersError {
    /// A batch was not taken.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// An event was refused though there is nothing wrong with it.
    #[error("a good event was rejected with `{0}`")]
    Rejected(String),
    /// The URL or the key.
    #[error(transparent)]
    Client(#[from] HttpError),
    /// It has no threads.
    #[error("threads for the load: {0}")]
    Threads(#[from] std::io::Error),
    #[error("a worker panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

#[derive(Debug)]
pub struct Writers {
    /// Of their own: where acknowledgements are quick, nobody else would get a turn on the threads of the load.
    threads: Option<Runtime>,
    tasks: JoinSet<Result<Ledger, WritersError>>,
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<u64>,
}

impl Writers {
    /// Starts the load.
    pub fn start(config: &WritersConfig) -> Result<Self, WritersError> {
        let (stop, stopped) = watch::channel(false);
        let (count, acknowledged) = watch::channel(0);
        let threads = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut tasks = JoinSet::new();
        for number in 0..config.workers {
            let worker = Worker {
                client: Client::new(&config.client)?,
                generator: Generator::new(config.run, number, Spread::Recent).with_poison(config.poison),
                batch: config.batch,
                count: count.clone(),
                stopped: stopped.clone(),
            };
            tasks.spawn_on(worker.run(), threads.handle());
        }
        Ok(Self { threads: Some(threads), tasks, stop, acknowledged })
    }

    /// The number of acknowledged events, as it grows.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.acknowledged.clone()
    }

    /// Why a worker has ended, if one has: nobody asked it to.
    pub fn failure(&mut self) -> Option<WritersError> {
        match self.tasks.try_join_next()? {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error),
            Err(panicked) => Some(panicked.into()),
        }
    }

    /// Lets every worker finish the batch it is at, and returns what was acknowledged in all.
    pub async fn finish(mut self) -> Result<Ledger, WritersError> {
        self.stop.send_replace(true);
        let mut total = Ledger::default();
        while let Some(ledger) = self.tasks.join_next().await {
            total = total.plus(ledger??);
        }
        Ok(total)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

struct Worker {
    client: Client,
    generator: Generator,
    batch: usize,
    count: watch::Sender<u64>,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) -> Result<Ledger, WritersError> {
        let mut ledger = Ledger::default();
        while !*self.stopped.borrow() {
            let now = Timestamp::now();
            let (events, facts): (Vec<Outgoing>, Vec<Facts>) =
                (0..self.batch).map(|_| self.generator.next(now)).unzip();
            let delivery = self.client.deliver(&events).await?;
            if let Some(rejection) = delivery.rejected.into_iter().find(|r| r.code != REFUSED_BY_STORE) {
                return Err(WritersError::Rejected(rejection.code));
            }
            self.count.send_modify(|count| *count += events.len() as u64);
            for (event, facts) in events.into_iter().zip(&facts) {
                ledger.enter(event.id, facts);
            }
        }
        Ok(ledger)
    }
}
