//! Streams the flights through the public API: plan -> batches -> deliver -> summary.

pub mod plan;
pub mod resume;
pub mod summary;
pub mod time_shift;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::try_join_all;
use jiff::Timestamp;

use crate::client::{Client, ClientConfig, Delivery, DeliveryError, Outgoing};
use crate::flight::{self, Flight, FlightsError};
use tallyhouse_service::http_client::HttpError;

pub use plan::{FeedOrder, FeedPlan};
pub use summary::FeedSummary;
pub use time_shift::TimeShift;

/// What to feed and how.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// `flights.csv` of the data set.
    pub flights: PathBuf,
    /// When flights are to have left.
    pub time_shift: TimeShift,
    /// What every event id begins with. A flight that lands at the same time again has the same id.
    pub id_prefix: String,
    /// Which flights go together, and in what order.
    pub plan: FeedPlan,
    /// Batches under way at the same time.
    pub concurrency: usize,
    pub client: ClientConfig,
}

/// Why a feed came to nothing. Batches that were delivered before stay delivered: feed again with the same ids.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The data set.
    #[error(transparent)]
    Flights(#[from] FlightsError),
    /// The URL or the key.
    #[error(transparent)]
    Client(#[from] HttpError),
    /// A batch that could not be delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// Everything that is sent, ready to be cut into batches.
#[derive(Debug)]
pub struct Feed {
    flights: Vec<Flight>,
    departures: Vec<Option<Timestamp>>,
    id_prefix: String,
    batches: Vec<Vec<usize>>,
}

impl Feed {
    /// Reads the data set and lays out the batches.
    pub fn prepare(config: &FeedConfig) -> Result<Self, FeedError> {
        let flights = flight::read(&config.flights)?;
        let departures = config.time_shift.of(&flights);
        let (rows, times): (Vec<usize>, Vec<Timestamp>) =
            departures.iter().enumerate().filter_map(|(row, departure)| Some((row, (*departure)?))).unzip();
        let batches = config.plan.batches(&times).into_iter();
        let batches = batches.map(|batch| batch.into_iter().filter_map(|at| rows.get(at).copied()).collect());
        Ok(Self { batches: batches.collect(), flights, departures, id_prefix: config.id_prefix.clone() })
    }

    /// How many events will be sent, repeats included.
    pub fn events(&self) -> usize {
        self.batches.iter().map(Vec::len).sum()
    }

    fn batch(&self, index: usize) -> Option<Vec<Outgoing>> {
        let rows = self.batches.get(index)?;
        Some(
            rows.iter()
                .filter_map(|&row| Some(self.event(row, self.flights.get(row)?, (*self.departures.get(row)?)?)))
                .collect(),
        )
    }

    fn event(&self, row: usize, flight: &Flight, departure: Timestamp) -> Outgoing {
        let id = format!("{}flight-{:06}-{}", self.id_prefix, row + 1, departure.strftime("%Y%m%dT%H%M"));
        flight.to_event(id, departure)
    }
}

/// Sends everything; `progress` hears of every delivered batch and its size.
pub async fn run(
    feed: &Feed,
    config: &FeedConfig,
    progress: impl Fn(usize, &Delivery),
) -> Result<FeedSummary, FeedError> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let workers = (0..config.concurrency.max(1)).map(|_| worker(feed, &config.client, &next, &progress));
    let parts = try_join_all(workers).await?;
    let total = parts.into_iter().fold(FeedSummary::default(), FeedSummary::plus);
    Ok(FeedSummary { seconds: started.elapsed().as_secs_f64(), ..total })
}

async fn worker(
    feed: &Feed,
    config: &ClientConfig,
    next: &AtomicUsize,
    progress: &impl Fn(usize, &Delivery),
) -> Result<FeedSummary, FeedError> {
    let client = Client::new(config)?;
    let mut summary = FeedSummary::default();
    while let Some(batch) = feed.batch(next.fetch_add(1, Ordering::Relaxed)) {
        let delivery = client.deliver(&batch).await?;
        progress(batch.len(), &delivery);
        summary.add(batch.len(), delivery);
    }
    Ok(summary)
}
