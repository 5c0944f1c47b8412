//! From a query string to a canonical [`Query`]: parsed once, into a type whose every value is valid.

pub mod anomalies;
pub mod body;
pub mod comparison;
pub mod error;
pub mod event_types;
pub mod filter_tree;
pub mod funnel;
pub mod params;
pub mod query;
pub mod range;
pub mod retention;
pub mod series;
pub mod structured;
pub mod suggest;
pub mod unique;
pub mod values;
pub mod window;

pub use comparison::ComparedSpan;
pub use error::BadRequest;
pub use funnel::Funnel;
pub use params::Params;
pub use query::{DailyQuery, Filter, MetricQuery, Query};
pub use retention::Retention;
pub use series::SeriesQuery;
pub use structured::StructuredQuery;
pub use tallyhouse_service::http_body as body_reading;
pub use window::Window;
